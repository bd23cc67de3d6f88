"""Reading networks from files and writing converted ones.

A converted network goes out in one of two forms. A `.safetensors` file holds the tensors, and the plan in
its metadata: `load` applies the plan to a fresh network of the user's class and fills it, without unpickling
anything. A `.pt` file holds the pickled module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from phnnify.algebra import Factors, Order
from phnnify.archive import Content, read_content
from phnnify.errors import FileError, ModelError, PlanError, UsageError
from phnnify.files import replacing
from phnnify.layers import PHMLayer
from phnnify.measure import first_line
from phnnify.plan import Decision, Plan, parse_plan
from phnnify.references import build_network
from phnnify.rewrite import rewrite
from phnnify.weights import load_weights, tied_names

METADATA_KEY = "phnnify.plan"
PICKLED = (".pt", ".pth", ".bin")
ENDINGS = (".safetensors", *PICKLED)


@dataclass(frozen=True)
class Source:
    """A network read from a file, and the form the file had: 'weights' or 'module'."""

    model: nn.Module
    form: str

    @property
    def ending(self) -> str:
        """The ending for a converted file: like in, like out."""
        return ".safetensors" if self.form == "weights" else ".pt"


def read_network(path: Path, *, arch: str | None = None, trust: bool = False) -> Source:
    """Read the network to convert.

    Args:
        path: A file of weights (with `arch`), or a pickled module.
        arch: Where the network comes from when the file holds only weights (`references`).
        trust: Let code stored in the file run.

    Raises:
        FileError: the file is not a network that can be converted.
        UntrustedError: the file needs `trust`.
        ModelError: the weights do not fit the network.
    """
    content = read_content(path, trust=trust)
    if METADATA_KEY in content.metadata or _has_phm(content):
        raise FileError(f"{path} is already converted", hint="convert the original, with another n")
    if content.module is not None:
        if arch:
            raise FileError(f"{path} holds a whole module", hint="leave --arch out")
        return Source(content.module, "module")
    if not arch:
        raise FileError(
            f"{path} holds weights only: {_described(content)}",
            hint="say which network they belong to with --arch file.py:callable",
        )
    model = build_network(arch)
    load_weights(model, content.tensors, str(path))
    return Source(model, "weights")


def read_any(path: Path, *, arch: str | None = None, trust: bool = False) -> nn.Module:
    """Read a network, converted or not, as `read_network` and `load` do; in eval mode."""
    content = read_content(path, trust=trust)
    if content.module is not None:
        return content.module.eval()
    if METADATA_KEY in content.metadata:
        return load(path, build_network(arch) if arch else None)
    return read_network(path, arch=arch).model.eval()


def read_converted(path: Path, *, arch: str | None = None, trust: bool = False) -> nn.Module:
    """Read a converted network as `read_any` does.

    Raises:
        FileError: it is not converted.
    """
    model = read_any(path, arch=arch, trust=trust)
    if not any(isinstance(module, PHMLayer) for module in model.modules()):
        raise FileError(f"{path} is not converted", hint="phnnify convert makes a student of an original")
    return model


def _has_phm(content: Content) -> bool:
    return content.module is not None and any(isinstance(m, PHMLayer) for m in content.module.modules())


def _described(content: Content) -> str:
    names = list(content.tensors)
    return (
        f"{len(names)} tensors ({', '.join(names[:3])}, ...)"
        if len(names) > 3
        else ", ".join(names) or "none"
    )


def save(model: nn.Module, path: str | Path, plan: Plan | None = None) -> None:
    """Write a converted network, all or nothing. Same network, same bytes.

    Args:
        model: A network with PHM layers.
        path: `.safetensors` (tensors and plan), or `.pt`, `.pth`, `.bin` (the pickled module).
        plan: The plan it was made by, reasons included; by default read off its layers.

    Raises:
        UsageError: the ending says neither.
        FileError: the file cannot be written, or the module cannot be pickled.
    """
    path = Path(path)
    check_ending(path)
    if path.suffix in PICKLED:
        _save_module(model, path)
    else:
        _save_tensors(model, path, plan or plan_of(model))


def check_ending(path: Path) -> None:
    """Refuse a converted network's path before any work is done.

    Raises:
        UsageError: an ending other than .safetensors, .pt, .pth and .bin.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"cannot tell what to write to {path}", hint=f"endings: {', '.join(ENDINGS)}")


def plan_of(model: nn.Module) -> Plan:
    """The plan that a converted network follows, read off its layers."""
    layers = {name or "weight": m for name, m in model.named_modules() if isinstance(m, PHMLayer)}
    decisions = tuple(
        Decision(name, m.twin.__name__, tuple(m.dense_shape), order=m.order) for name, m in layers.items()
    )
    return Plan(max((d.order.terms for d in decisions if d.order), default=1), decisions)


def _save_tensors(model: nn.Module, path: Path, plan: Plan) -> None:
    state = model.state_dict()
    names = [group[0] for group in tied_names(model)]
    extra = [name for name in names if not isinstance(state[name], torch.Tensor)]
    if extra:
        raise FileError(f"{extra[0]} is not a tensor, which safetensors cannot hold", hint="write a .pt file")
    try:
        # Copies: views of one storage would be refused.
        tensors = {name: state[name].clone(memory_format=torch.contiguous_format) for name in names}
        data = safetensors.torch.save(tensors, metadata={METADATA_KEY: plan.to_json()})
    except Exception as error:  # sparse, quantized or meta tensors, complex128: each raises something else
        raise FileError(
            f"the network has a tensor that safetensors cannot hold: {first_line(error)}",
            hint="write a .pt file",
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _save_module(model: nn.Module, path: Path) -> None:
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:  # an open file: torch would put a file's name into its bytes
                torch.save(model, file)
        except (OSError, FileError):
            raise
        except Exception as error:  # whatever pickling the user's own classes may raise
            raise FileError(
                f"the network cannot be pickled: {first_line(error)}",
                hint="write a .safetensors file instead: phnnify.load(path, model=...) needs no pickle",
            ) from None


def load(path: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Read a converted network back; inverse of `save`.

    Args:
        path: A file that `save` or `phnnify convert` wrote.
        model: A network of the original's class, for a `.safetensors` file. It is not changed.
        trust: For a pickled module with classes that are neither torch's nor phnnify's: let them load.

    Returns:
        The converted network, in eval mode.

    Raises:
        FileError: the file is not a converted network.
        UntrustedError: the file needs `trust`.
        ModelError, PlanError: the network given does not fit the file.
    """
    path = Path(path)
    content = read_content(path, trust=trust)
    if content.module is not None:
        if not _has_phm(content):
            raise FileError(f"{path} holds a network that is not converted", hint="torch.load reads it")
        return content.module.eval()
    if METADATA_KEY not in content.metadata:
        raise FileError(f"{path} holds weights that phnnify did not write")
    if model is None:
        raise FileError(
            f"{path} holds weights and a plan; the network's class is needed too",
            hint="phnnify.load(path, model=Net()), or --arch on the command line",
        )
    return _rebuild(model, content, str(path)).eval()


def _rebuild(model: nn.Module, content: Content, source: str) -> nn.Module:
    plan = parse_plan(content.metadata[METADATA_KEY])
    tensors = content.tensors
    factors = {}
    for name, order in plan.conversions.items():
        prefix = "" if name == "weight" and "A" in tensors else f"{name}."
        try:
            present = "ASUV" if order.rank else "AS"
            factors[name] = Factors(*(tensors[f"{prefix}{factor}"] for factor in present))
        except KeyError as error:
            raise FileError(f"{source} is damaged: its plan converts {name}, but it has no {error}") from None
        if not _have_order(factors[name], order):
            raise FileError(f"{source} is damaged: the factors of {name} are not those of its plan")
    try:
        converted = rewrite(model, factors)
    except (ValueError, PlanError) as error:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: {error}",
            hint="give a network of the class that was converted",
        ) from None
    load_weights(converted, tensors, source)
    return converted


def _have_order(factors: Factors, order: Order) -> bool:
    ranks = [] if factors.U is None or factors.V is None else [factors.U.shape[1:], factors.V.shape[:1]]
    algebra = (order.terms, order.n_out, order.n_in)
    return tuple(factors.A.shape) == algebra and all(tuple(rank) == (order.rank,) for rank in ranks)
