"""Modules that keep dense weights as bare parameters, opened: their weights are held in layers.

The weight of an `nn.Linear` can be traced, watched, fitted and replaced, because it belongs to a layer that
is called. An opened twin computes the same as the module it stands for, with Linear layers for its weights.
A user's own module keeps its class, and holds what it uses without a layer in layers beside it (`bare`),
where that is several matrices (experts) in one for each. Weight norm and spectral norm are folded (`folded`).
All that comes after this needs to know of layers only.

A new kind costs one class and one line in `_KINDS` or `_OTHERS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from phnnify.measure import copied
from phnnify.opened.attention import PARTS, OpenAttention
from phnnify.opened.folded import fold, foldable
from phnnify.opened.hold import bare_parameter, hold_
from phnnify.opened.linear import linear_like, linear_of_conv1d
from phnnify.opened.recurrent import OpenGRU, OpenLSTM, OpenRecurrent, OpenRNN

__all__ = ["OPENED", "OpenAttention", "OpenGRU", "OpenLSTM", "OpenRNN", "fold_norms", "open_modules"]

OPENED = (OpenAttention, OpenRecurrent)
"""Classes whose weights are in layers, to be seen as a whole by a trace."""

_Opener = Callable[[Any], nn.Module]
_Found = tuple[str, nn.Module, _Opener]
_KINDS: dict[type[nn.Module], _Opener] = {
    nn.MultiheadAttention: OpenAttention.from_closed,
    nn.LSTM: OpenLSTM.from_closed,
    nn.GRU: OpenGRU.from_closed,
    nn.RNN: OpenRNN.from_closed,
}
_OTHERS: dict[str, _Opener] = {  # by name, so that nothing need be imported
    "transformers.pytorch_utils.Conv1D": linear_of_conv1d,
    "transformers.models.falcon.modeling_falcon.FalconLinear": linear_like,
}


def open_modules(
    model: nn.Module, names: Iterable[str] | None = None, *, bare: Iterable[str] = ()
) -> nn.Module:
    """A network that shares all tensors with another one, with modules that hide weights opened.

    Args:
        model: It is not changed.
        names: Open only what has one of these layers inside; by default everything that hides weights in a
            known way.
        bare: The names of layers that are to hold what is used without a layer; others are passed over.

    An attention has separate input projections where one of these is named, or where torch's decoder attends
    to what was encoded; else a joint one.

    Returns:
        The network itself where there is nothing to open.

    Raises:
        ModelError: the network cannot be copied.
    """
    names, bare = None if names is None else list(names), list(bare)
    parts = {name for name in (*(names or ()), *bare) if name.rpartition(".")[2] in PARTS}
    twins = {id(module): opener(module) for module, opener in _chosen(_closed(model, parts), names)}
    if not (twins or any(bare_parameter(model, name) for name in bare)):
        return model
    opened = _with_twins(model, twins)
    for module in opened.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, OPENED) for m in module.modules()):
            module.use_nested_tensor = False  # only torch's fused layers take those
    for name in bare:
        found = bare_parameter(opened, name)
        if found:
            hold_(*found)
    return opened


def fold_norms(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A network that shares all tensors with another one, with the norms of these layers folded (`folded`).

    Raises:
        ModelError: the network cannot be copied.
    """
    twins = {id(module): opener(module) for module, opener in _chosen(_normed(model), names)}
    return _with_twins(model, twins) if twins else model


def _chosen(found: Iterable[_Found], names: Iterable[str] | None) -> Iterator[tuple[nn.Module, _Opener]]:
    """Those that are one of the named layers, or have one inside; without names all."""
    wanted = None if names is None else list(names)
    for path, module, opener in found:
        inside = f"{path}." if path else ""
        if wanted is None or any(name == path or name.startswith(inside) for name in wanted):
            yield module, opener


def _with_twins(model: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """The network with these in place of its modules."""
    if id(model) in twins:
        return twins[id(model)]
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copied(model, {**tensors, **twins})


def _closed(model: nn.Module, parts: Collection[str]) -> Iterator[_Found]:
    yield from _normed(model)
    for path, module in model.named_modules():
        if opener := _KINDS.get(type(module)):
            told = any(f"{path}.{part}".removeprefix(".") in parts for part in PARTS)
            opener = _separately if told or _is_cross(model, path) else opener
            yield path, module, partial(_opened, opener)
        elif opener := _OTHERS.get(f"{type(module).__module__}.{type(module).__name__}"):
            yield path, module, partial(_opened, opener)


def _normed(model: nn.Module) -> Iterator[_Found]:
    found = {id(module) for module in foldable(model) if type_before_parametrizations(module) not in _KINDS}
    for path, module in model.named_modules():
        if id(module) in found:
            yield path, module, fold


def _separately(closed: nn.MultiheadAttention) -> nn.Module:
    return OpenAttention.from_closed(closed, separate=True)


def _is_cross(model: nn.Module, path: str) -> bool:
    """Whether it is the attention of a decoder to what was encoded, where queries and keys differ."""
    parent, _, name = path.rpartition(".")
    return name == "multihead_attn" and isinstance(model.get_submodule(parent), nn.TransformerDecoderLayer)


def _opened(opener: _Opener, module: nn.Module) -> nn.Module:
    """The twin of a module, with its hooks."""
    twin = opener(module)
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            setattr(twin, name, copy.copy(value))
    return twin
