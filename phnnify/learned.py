"""Which algebras a converted network has, what each spans, and how far that is from those with a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phnnify import __version__, constants, folders
from phnnify.algebras import NAMES, algebras_of, aligned, random_distance, span_distance, unstacked
from phnnify.archive import Content, read_content
from phnnify.constants import read_algebra
from phnnify.errors import FileError, PlanError
from phnnify.files import is_folder
from phnnify.folders import METADATA_KEY
from phnnify.given import shown_algebras
from phnnify.layers import PHMLayer
from phnnify.plan_file import parse_plan
from phnnify.rebuild import factors_of
from phnnify.strict import json_text

_NEAR = 0.5  # of the distance of a random space: what is nearer resembles an algebra


@dataclass(frozen=True)
class Found:
    """One algebra.

    Attributes:
        layers: The weights that have it.
        kind: 'learned', 'shared' or the name of a fixed one.
        A: (terms, n_out, n_in).
    """

    layers: tuple[str, ...]
    kind: str
    A: Tensor

    @property
    def distances(self) -> dict[str, float]:
        """To the named algebras of its dimension, nearest first (`algebras.span_distance`)."""
        terms, n_out, n_in = self.A.shape
        if not terms == n_out == n_in:
            return {}
        found = {algebra.name: span_distance(self.A, algebra.A()) for algebra in algebras_of(terms)}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    @property
    def random(self) -> float:
        """The distance to expect of a random algebra of this form."""
        return random_distance(self.A.shape)

    @property
    def title(self) -> str:
        """The weights that have it, the first by name."""
        more = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
        return f"{self.layers[0]}{more}" if self.layers else self.kind


def find_algebras(given: str, n: int | None = None, *, trust: bool = False) -> tuple[Found, ...]:
    """The algebras of a converted network, or the one that a name or a file of constants stands for.

    Args:
        given: A converted file or folder, one of `algebras.NAMES`, or a file of constants.
        n: The dimension of the cyclic algebra.
        trust: As in `store.load`.

    Raises:
        FileError: it cannot be read, or is not converted.
        UntrustedError: the file needs `trust`.
        UsageError: n is not its dimension.
        PlanError: the plan in the file is damaged.
    """
    path = Path(given)
    if given in NAMES or path.suffix in constants.ENDINGS:
        algebra = read_algebra(given, n)
        return (Found((), algebra.name, algebra.A()),)
    content = folders.read_folder(path, trust=trust) if is_folder(path) else read_content(path, trust=trust)
    found = _grouped(_of_content(content, str(path)))
    if not found:
        raise FileError(f"{path} is not converted", hint="phnnify convert makes what has algebras")
    return found


def _of_content(content: Content, source: str) -> list[tuple[str, str, Tensor]]:
    """(name, kind, A) of each converted weight with Kronecker products."""
    if content.module is not None:
        modules = content.module.named_modules()
        every = {name or "weight": module for name, module in modules if isinstance(module, PHMLayer)}
        layers = {name: layer for name, layer in every.items() if len(layer.A)}
        kinds = _kinds(layers)
        return [(name, kinds[name], unstacked(layer.A.detach())) for name, layer in layers.items()]
    if METADATA_KEY not in content.metadata:
        return []
    plan = parse_plan(content.metadata[METADATA_KEY])
    factors = factors_of(plan, content.tensors, source)
    return [(name, plan.algebras[name], unstacked(A)) for name, (A, *_) in factors.items() if len(A)]


def _kinds(layers: Mapping[str, PHMLayer]) -> dict[str, str]:
    try:
        return shown_algebras(layers)[0]
    except PlanError:  # a plan could not say it, but they can be looked at
        return {name: "fixed" if layer.has_fixed_algebra else "learned" for name, layer in layers.items()}


def _grouped(rows: Iterable[tuple[str, str, Tensor]]) -> tuple[Found, ...]:
    """Weights that have the very same algebra together."""
    found: list[Found] = []
    for name, kind, A in rows:
        same = (i for i, x in enumerate(found) if x.kind == kind != "learned" and torch.equal(x.A, A))
        at = next(same, None)
        if at is None:
            found.append(Found((name,), kind, A))
        else:
            found[at] = Found((*found[at].layers, name), kind, A)
    return tuple(found)


def chosen(found: Sequence[Found], include: Sequence[str], exclude: Sequence[str]) -> tuple[Found, ...]:
    """Those with a weight whose name matches a pattern of `include` (if any) and none of `exclude`.

    Raises:
        PlanError: there is none.
    """

    def wanted(name: str) -> bool:
        kept = not include or any(fnmatchcase(name, pattern) for pattern in include)
        return kept and not any(fnmatchcase(name, pattern) for pattern in exclude)

    kept = tuple(x for x in found if not x.layers or any(map(wanted, x.layers)))
    if not kept:
        shown = ", ".join(x.title for x in found[:3])
        raise PlanError("no algebra is of such a weight", hint=f"names look like {shown}")
    return kept


def panels(found: Sequence[Found]) -> list[tuple[str, Tensor]]:
    """Titled rows of matrices to draw.

    Each algebra, and where it resembles a named one, also what is nearest to that of all that it spans.
    """
    rows: list[tuple[str, Tensor]] = []
    for each in found:
        rows.append((f"{each.title} ({each.kind})" if each.layers else each.title, each.A))
        if each.kind in ("learned", "shared") and each.distances:
            name, distance = next(iter(each.distances.items()))
            if distance < _NEAR * each.random:
                named = next(x for x in algebras_of(len(each.A)) if x.name == name)
                rows.append((f"{each.title}, combined to be nearest to {name}", aligned(each.A, named.A())))
    return rows


def to_json(found: Sequence[Found]) -> str:
    """All of it as JSON."""
    entries: list[dict[str, Any]] = [
        {
            "layers": list(x.layers),
            "algebra": x.kind,
            "order": list(x.A.shape[1:]),
            "terms": len(x.A),
            "distances": x.distances,
            "random_distance": x.random,
            "A": x.A.double().tolist(),
        }
        for x in found
    ]
    return json_text({"phnnify": __version__, "algebras": entries}, indent=2)
