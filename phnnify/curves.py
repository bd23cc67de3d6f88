"""Curves of all weights: forms of falling size, and the damage that each does to the network's answer.

They come from one survey of the original and one run with each form in its weight's place, and are kept in a
small JSON file, keyed by the contents of the network and of the data, so that a second look is instant.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from phnnify.algebra import Factors, Order
from phnnify.batches import Batch, calibration_batches
from phnnify.budget import Point
from phnnify.files import read_text, write_text
from phnnify.search import Form, Search
from phnnify.sensitivity import damages
from phnnify.survey import survey
from phnnify.watching import Progress

SHARES = (3 / 4, 3 / 5, 1 / 2, 2 / 5, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 8, 1 / 12, 1 / 16, 1 / 24, 1 / 32)
_PROBED = 128  # inputs on which damages are measured
_VERSION = 2

Curves = dict[str, tuple[Point, ...]]


def measure_curves(
    teacher: nn.Module,
    sizes: Mapping[str, int],
    batches: Sequence[Batch],
    progress: Progress | None = None,
) -> Curves:
    """The curve of each weight; one whose inputs cannot be gathered, or never vary, is left out.

    Args:
        teacher: The original.
        sizes: The number of entries of each weight that may be converted, by name of its layer.
        batches: Calibration inputs.
        progress: Told how far it is.
    """
    probes: dict[str, list[Factors]] = {}

    def choose(name: str, search: Search) -> list[Form]:
        found = [search.best(int(share * sizes[name]), thorough=False) for share in SHARES]
        forms = [form for form in found if form is not None]
        probes[name] = [search.factors(form.order).to(torch.float32) for form in forms]
        return forms

    forms = survey(teacher, sizes, batches, choose, progress)
    measured = damages(teacher, probes, calibration_batches(batches, _PROBED), progress)
    curves: Curves = {}
    for name, found in forms.items():
        points = [
            Point(form.order, form.parameters, max(damage, 0.0), form.loss)
            for form, damage in zip(found, measured[name], strict=True)
        ]
        if points:
            curves[name] = (Point(None, sizes[name], 0.0), *points)
    return curves


def contents_key(model: nn.Module, batches: Iterable[Batch], sizes: Mapping[str, int]) -> str:
    """A hash of the network's tensors, the inputs, and the weights that are looked at."""
    digest = hashlib.sha256(json.dumps([_VERSION, dict(sizes), SHARES]).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            _add(digest, name, tensor)
    for batch in batches:
        for name, tensor in [*((str(i), x) for i, x in enumerate(batch.args)), *batch.kwargs.items()]:
            _add(digest, name, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    data = tensor.detach().cpu().contiguous().flatten()
    digest.update(data.view(torch.uint8).numpy().tobytes() if data.numel() else b"")


def write_curves(path: Path, key: str, curves: Curves) -> None:
    """Keep curves in a file."""
    rows = {name: [_row(point) for point in points] for name, points in curves.items()}
    write_text(path, json.dumps({"version": _VERSION, "key": key, "curves": rows}))


def read_curves(path: Path, key: str) -> Curves | None:
    """Curves that were kept for the same key; None where there are none."""
    if not path.exists():
        return None
    try:
        document = json.loads(read_text(path))
        if document["version"] != _VERSION or document["key"] != key:
            return None
        return {name: tuple(map(_point, rows)) for name, rows in document["curves"].items()}
    except (ValueError, KeyError, TypeError):
        return None


def _row(point: Point) -> list[object]:
    order = point.order
    numbers = [order.n_out, order.n_in, order.terms, order.rank] if order else None
    return [numbers, point.parameters, point.damage, point.loss]


def _point(row: Sequence[object]) -> Point:
    numbers, parameters, damage, loss = row
    order = Order(*map(int, numbers)) if isinstance(numbers, list) else None
    return Point(order, int(str(parameters)), float(str(damage)), float(str(loss)))
