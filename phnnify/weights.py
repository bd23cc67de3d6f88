"""Putting tensors by name into a network, with every mismatch said by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import ModelError

_PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
_EXACTLY = "--arch must build exactly the network that the weights were trained in"
_OPTIONAL = "num_batches_tracked"  # checkpoints from before torch 0.4.1 lack it


def load_weights(model: nn.Module, tensors: Mapping[str, Any], source: str) -> None:
    """Fill a network in place.

    Every entry of the network's state dict must be given, or one that it is tied to; nothing else may be.
    A prefix that a wrapper put before all names is dropped, also that of a training module which held the
    network (`model.`), where the names fit without it. Values take the network's dtype.

    Args:
        model: Changed in place.
        tensors: By name.
        source: What to call them in messages.

    Raises:
        ModelError: names are missing or unexpected, a shape differs, a value is not a fitting tensor, or
            tied names have different values.
    """
    wanted = model.state_dict(keep_vars=True)
    tensors = strip_prefixes(tensors, wanted)
    missing, unexpected = _differences(wanted, tensors)
    if missing or unexpected:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: " + "; ".join(_named(missing, unexpected)),
            hint=_EXACTLY,
        )
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, wanted[name], source)
    for group in tied_names(model):
        _check_tied([name for name in group if name in tensors], tensors, wanted, source)
    try:
        model.load_state_dict(dict(tensors), strict=False)
    except Exception as error:  # whatever the user's own hooks and extra states may raise
        said = " ".join(str(error).split())[:240]
        raise ModelError(f"{source} does not fit {type(model).__name__}: {said}") from None


def strip_prefixes(tensors: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """The same tensors without the prefixes that wrappers put before every name.

    Args:
        tensors: By name.
        wanted: The names in the network, which may begin so themselves.
    """
    stripped = dict(tensors)
    for prefix in 2 * _PREFIXES:
        if not stripped.keys() & set(wanted) and all(name.startswith(prefix) for name in stripped):
            stripped = {name[len(prefix) :]: value for name, value in stripped.items()}
    return _without_holder(stripped, wanted)


def _without_holder(tensors: dict[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """The same tensors without what all names begin with, if they are the network's names then."""
    inner = tensors
    while not inner.keys() & set(wanted):
        parts = [name.partition(".") for name in inner]
        if len({head for head, _, _ in parts}) != 1 or not all(rest for _, _, rest in parts):
            return tensors
        inner = {rest: value for (_, _, rest), value in zip(parts, inner.values(), strict=True)}
    return inner


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
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta:
        kind = "nested" if tensor.is_nested else "without data" if tensor.is_meta else "sparse"
        raise ModelError(f"{source}: {name} is {kind}; needed an ordinary tensor")
    if tensor.shape != wanted.shape:
        raise ModelError(f"{source}: {name} has shape {tuple(tensor.shape)}; needed {tuple(wanted.shape)}")
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_quantized:
        raise ModelError(f"{source}: {name} is {tensor.dtype}; needed {wanted.dtype}")


def _check_tied(names: list[str], tensors: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> None:
    values = [tensors[name].to(wanted[name].dtype) for name in names if isinstance(wanted[name], Tensor)]
    for name, value in zip(names[1:], values[1:], strict=False):
        if not torch.equal(value, values[0]):
            raise ModelError(
                f"{source}: {names[0]} and {name} differ, but they are one parameter in the network",
                hint=_EXACTLY,
            )
