"""Several Linear layers side by side, such as those of experts, each with its own part of the inputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def siblings(layers: Iterable[nn.Module]) -> nn.ModuleList:
    """A list of layers, each of which knows how many they are."""
    found = nn.ModuleList(layers)
    for layer in found:
        layer.siblings = len(found)  # type: ignore[assignment]
    return found


def siblings_of(layer: nn.Module) -> int:
    """How many layers stand side by side with this one, itself included."""
    return int(vars(layer).get("siblings", 1))


def each_of(layers: nn.ModuleList, x: Tensor, axis: int) -> Tensor:
    """What the layers give, the first of the first entry of x along an axis and so on."""
    return torch.stack([layer(part) for layer, part in zip(layers, x.unbind(axis), strict=True)], axis)


def in_groups(layers: nn.ModuleList, x: Tensor, ends: Tensor) -> Tensor:
    """What the layers give, each of a group of rows of x.

    Args:
        layers: (in) → (out) each.
        x: (rows, in).
        ends: Where the rows of each layer end, (layers,).

    Returns:
        (rows, out); zeros behind the last end.
    """
    if torch.compiler.is_compiling():
        return _masked(layers, x, ends)
    stops = ends.tolist()
    groups = zip(layers, [0, *stops[:-1]], stops, strict=True)
    parts = [routed(layer)(x[start:end]) for layer, start, end in groups if end > start or _is_due(layer)]
    if not parts:
        parts = [routed(layers[0])(x[:0])]
    return torch.cat([*parts, parts[0].new_zeros(x.shape[0] - stops[-1], parts[0].shape[-1])])


def routed(layer: nn.Module) -> nn.Module:
    """The layer, marked as one between which the network chooses for each row."""
    layer.routed = True  # type: ignore[assignment]
    return layer


def is_routed(layer: nn.Module) -> bool:
    """Whether a layer that has run is one between which the network chooses for each row."""
    return bool(vars(layer).get("routed", False))


def _is_due(layer: nn.Module) -> bool:
    """Whether somebody waits for a layer to run, even without rows: who watches it, or its gradients."""
    return torch.is_grad_enabled() or bool(layer._forward_hooks or layer._forward_pre_hooks)


def _masked(layers: nn.ModuleList, x: Tensor, ends: Tensor) -> Tensor:
    """The same where rows cannot be counted, in a trace: each layer is given all of them."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]  # len(x) would be fixed by a trace
    before = rows < ends
    own = torch.cat([before[:, :1], before[:, 1:] & ~before[:, :-1]], 1)
    return torch.stack([torch.where(own[:, i, None], layer(x), 0.0) for i, layer in enumerate(layers)]).sum(0)
