"""Modules that keep dense weights as bare parameters, opened: their weights are held in layers.

The weight of an `nn.Linear` can be traced, watched, fitted and replaced, because it belongs to a layer that
is called. An opened twin computes the same as the module it stands for, with Linear layers for its weights.
A user's own module keeps its class, and holds what it uses without a layer in layers beside it (`bare`),
where that is several matrices (experts) in one for each.
All that comes after this needs to know of layers only.

A new kind costs one class and one line in `_KINDS` or `_OTHERS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from phnnify.measure import copied
from phnnify.opened.attention import OpenAttention
from phnnify.opened.hold import bare_parameter, hold_
from phnnify.opened.linear import linear_like, linear_of_conv1d
from phnnify.opened.recurrent import OpenGRU, OpenLSTM, OpenRecurrent, OpenRNN

__all__ = ["OPENED", "OpenAttention", "OpenGRU", "OpenLSTM", "OpenRNN", "open_modules"]

OPENED = (OpenAttention, OpenRecurrent)
"""Classes whose weights are in layers, to be seen as a whole by a trace."""

_KINDS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.MultiheadAttention: OpenAttention.from_closed,
    nn.LSTM: OpenLSTM.from_closed,
    nn.GRU: OpenGRU.from_closed,
    nn.RNN: OpenRNN.from_closed,
}
_OTHERS: dict[str, Callable[[Any], nn.Module]] = {  # by name, so that nothing need be imported
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

    Returns:
        The network itself where there is nothing to open.

    Raises:
        ModelError: the network cannot be copied.
    """
    wanted = None if names is None else list(names)
    twins: dict[int, nn.Module] = {}
    for path, module, opener in _closed(model):
        inside = f"{path}." if path else ""
        if wanted is None or any(name == path or name.startswith(inside) for name in wanted):
            twins[id(module)] = _with_hooks(opener(module), module)
    held = [name for name in bare if bare_parameter(model, name)]
    if not (twins or held):
        return model
    if id(model) in twins:
        return twins[id(model)]
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    opened = copied(model, {**tensors, **twins})
    for module in opened.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, OPENED) for m in module.modules()):
            module.use_nested_tensor = False  # only torch's fused layers take those
    for name in held:
        found = bare_parameter(opened, name)
        if found:
            hold_(*found)
    return opened


def _closed(model: nn.Module) -> Iterator[tuple[str, nn.Module, Callable[[Any], nn.Module]]]:
    for path, module in model.named_modules():
        if opener := _KINDS.get(type(module)):
            yield path, module, _separately if _is_cross(model, path) else opener
        elif opener := _OTHERS.get(f"{type(module).__module__}.{type(module).__name__}"):
            yield path, module, opener


def _separately(closed: nn.MultiheadAttention) -> nn.Module:
    return OpenAttention.from_closed(closed, separate=True)


def _is_cross(model: nn.Module, path: str) -> bool:
    """Whether it is the attention of a decoder to what was encoded, where queries and keys differ."""
    parent, _, name = path.rpartition(".")
    return name == "multihead_attn" and isinstance(model.get_submodule(parent), nn.TransformerDecoderLayer)


def _with_hooks(twin: nn.Module, module: nn.Module) -> nn.Module:
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            setattr(twin, name, copy.copy(value))
    return twin
