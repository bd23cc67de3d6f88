"""Putting tensors by name into a network, with every mismatch said by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from phnnify.errors import ModelError

_PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
_OPTIONAL = "num_batches_tracked"  # checkpoints from before torch 0.4.1 lack it


def load_weights(model: nn.Module, tensors: Mapping[str, Any], source: str) -> None:
    """Fill a network in place.

    Every entry of the network's state dict must be given, or one that it is tied to; nothing else may be.
    A prefix that all names share because of a wrapper is dropped. Values take the network's dtype.

    Args:
        model: Changed in place.
        tensors: By name.
        source: What to call them in messages.

    Raises:
        ModelError: names are missing or unexpected, a shape differs, or a value is not a fitting tensor.
    """
    tensors = strip_prefixes(tensors)
    wanted = model.state_dict(keep_vars=True)
    missing, unexpected = _differences(wanted, tensors)
    if missing or unexpected:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: " + "; ".join(_named(missing, unexpected)),
            hint="--arch must build exactly the network that the weights were trained in",
        )
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, wanted[name], source)
    model.load_state_dict(dict(tensors), strict=False)


def strip_prefixes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors without the prefixes that wrappers put before every name."""
    stripped = dict(tensors)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if stripped and all(name.startswith(prefix) for name in stripped):
                stripped = {name[len(prefix) :]: value for name, value in stripped.items()}
    return stripped


def tied_names(model: nn.Module) -> list[list[str]]:
    """The names of each tensor in the state dict, tied ones together."""
    groups: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def _differences(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    present = {id(wanted[name]) for name in given if name in wanted}
    missing = [name for name in wanted if name not in given and id(wanted[name]) not in present]
    missing = [name for name in missing if not name.endswith(_OPTIONAL)]
    return missing, [name for name in given if name not in wanted]


def _named(missing: list[str], unexpected: list[str]) -> list[str]:
    parts = []
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
    return parts


def _check_tensor(name: str, tensor: Any, wanted: Any, source: str) -> None:
    if not isinstance(wanted, Tensor):  # a module's extra state: the module judges it
        return
    if not isinstance(tensor, Tensor):
        raise ModelError(f"{source}: {name} is a {type(tensor).__name__}, not a tensor")
    if tensor.shape != wanted.shape:
        raise ModelError(f"{source}: {name} has shape {tuple(tensor.shape)}; needed {tuple(wanted.shape)}")
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_quantized or tensor.is_sparse:
        kind = "sparse" if tensor.is_sparse else str(tensor.dtype)
        raise ModelError(f"{source}: {name} is {kind}; needed {wanted.dtype}")
