"""What flows into a layer and what it makes of it: all that a fit to data needs to know of the data.

With y = W x what the original's layer computes, bias left out, and x̂ the inputs of the converted network's
layer (for a convolution: its unfolded patches), as columns of length k = in·|kernel|,

    C = E[x̂ x̂ᵀ],    D = E[x̂ yᵀ],    energy = E|y|²,

or the same about the means where something after the layer can absorb a constant (its bias, a BatchNorm).
Products are taken in float32 over a few samples at a time and added up in float64. Memory is bounded by one
matrix of side k; wider layers than `LIMIT` are refused, and fitted to their weight alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIMIT = 8192  # columns; C then takes 512 MB
_ROWS = 1 << 16  # patches that are multiplied at a time


@dataclass(frozen=True)
class Statistics:
    """Covariances of a layer's inputs and outputs, in float64; k = in·|kernel|.

    Attributes:
        C: (k, k), of the converted network's inputs.
        D: (k, out), of these with the original's outputs.
        energy: The mean square norm of the original's outputs.
        mean_y: (out,), of the original's outputs.
        mean_hat: (k,), of the converted network's inputs.
        centered: Whether the means are taken out of C, D and energy.
        rows: How many input vectors they are means over.
    """

    C: Tensor
    D: Tensor
    energy: float
    mean_y: Tensor
    mean_hat: Tensor
    centered: bool
    rows: int


def refusal(layer: nn.Module) -> str | None:
    """Why a layer's inputs are not gathered; None where they are."""
    if isinstance(layer, nn.Linear):
        columns = layer.in_features
    elif isinstance(layer, nn.modules.conv._ConvNd):
        if layer.transposed:
            return "a transposed convolution"
        if layer.groups > 1:
            return "a grouped convolution"
        columns = layer.weight[0].numel()
    else:
        return f"a {type(layer).__name__}"
    return f"{columns} inputs wide, more than {LIMIT}" if columns > LIMIT else None


def gather(layer: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]], *, centered: bool) -> Statistics:
    """The statistics of a dense layer.

    Args:
        layer: nn.Linear or an ordinary convolution: how its patches are cut.
        pairs: (the original's input, the converted network's input) of each batch.
        centered: Take the means out.
    """
    sums: list[Tensor] = []
    count = 0
    for x, x_hat in pairs:
        for part, part_hat in zip(_parts(layer, x), _parts(layer, x_hat), strict=True):
            y, rows = _outputs(layer, part), patches(layer, part_hat)
            terms = (rows.t() @ rows, rows.t() @ y, y.square().sum(), y.sum(0), rows.sum(0))
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else [t.double() for t in terms]
            count += len(rows)
    C, D, energy, mean_y, mean_hat = (total / max(count, 1) for total in sums)
    if centered:
        C, D = C - torch.outer(mean_hat, mean_hat), D - torch.outer(mean_hat, mean_y)
        energy = energy - mean_y.square().sum()
    return Statistics(C, D, max(float(energy), 0.0), mean_y, mean_hat, centered, count)


def _parts(layer: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Pieces of a batch that have not too many patches, in float32."""
    x = x.detach().float()
    if isinstance(layer, nn.Linear):
        return torch.split(x.reshape(-1, x.shape[-1]), _ROWS)
    x = x if x.dim() == layer.weight.dim() else x.unsqueeze(0)
    return torch.split(x, max(1, _ROWS // max(1, x[0, 0].numel())))


def _outputs(layer: Any, x: Tensor) -> Tensor:
    """What the layer computes, bias left out: (rows, out), rows as `patches` has them."""
    weight = layer.weight.detach().float()
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    y: Tensor = layer._conv_forward(x, weight, None)
    return y.movedim(1, -1).flatten(0, -2)


def patches(layer: Any, x: Tensor) -> Tensor:
    """What meets the weight, one row for each output position.

    Args:
        layer: nn.Linear or an ordinary convolution of one group.
        x: (rows, in) for nn.Linear, (batch, in, *positions) for a convolution.

    Returns:
        (rows, in·|kernel|), columns in the order of `weight.flatten(1)`.
    """
    if isinstance(layer, nn.Linear):
        return x
    x = _padded(layer, x)
    axes = [
        [slice(k * dilation, k * dilation + stride * (out - 1) + 1, stride) for k in range(kernel)]
        for kernel, dilation, stride, out in zip(
            layer.kernel_size, layer.dilation, layer.stride, _output_size(layer, x), strict=True
        )
    ]
    cut = torch.stack([x[(slice(None), slice(None), *window)] for window in itertools.product(*axes)], -1)
    return cut.movedim(1, -2).flatten(0, -3).flatten(1)


def _padded(layer: Any, x: Tensor) -> Tensor:
    amounts = layer._reversed_padding_repeated_twice
    if not any(amounts):
        return x
    return F.pad(x, amounts, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _output_size(layer: Any, x: Tensor) -> list[int]:
    return [
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, dilation, stride in zip(
            x.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True
        )
    ]
