"""What flows into a layer and what it makes of it: all that a fit to data needs to know of the data.

With y = W x what the original's layer computes, bias left out, and x̂ the inputs of the converted network's
layer (for a convolution: its unfolded patches; for a transposed one: those of the equivalent ordinary one),
as columns of length k = in·|kernel|,

    C = E[x̂ x̂ᵀ],    D = E[x̂ yᵀ],    energy = E|y|²,

or the same about the means where something after the layer can absorb a constant (its bias, a BatchNorm).
A grouped layer has one of each per group. Large feature maps are thinned to every second or third position,
as long as there are `_ENOUGH` rows for each column.

Products are taken in float32 over a few samples at a time, about the means of the first of them, so that
inputs far from zero lose no digits, and added up in float64. Memory is bounded by
matrices of `LIMIT`² numbers in all; of wider layers only the diagonal of C is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify.errors import ModelError

LIMIT = 8192  # columns; C then takes 512 MB
_ENTRIES = 1 << 24  # of the patches that are cut at a time
_ENOUGH = 100  # rows for each column, above which positions are left out
_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)


@dataclass(frozen=True)
class Statistics:
    """Covariances of a layer's inputs and outputs, in float64; g groups with k inputs and o outputs each.

    Attributes:
        C: (g, k, k), of the converted network's inputs; (g, k), its diagonal, for a layer that is too wide.
        D: (g, k, o), of these with the original's outputs; None for a layer that is too wide.
        energy: The mean square norm of the original's outputs, all groups together.
        mean_y: (g, o), of the original's outputs.
        mean_hat: (g, k), of the converted network's inputs.
        centered: Whether the means are taken out of C, D and energy.
        rows: How many input vectors they are means over.
        by_columns: Whether the groups share out the columns of the weight (out, in·|kernel|), as those of a
            transposed convolution do, and not its rows.
    """

    C: Tensor
    D: Tensor | None
    energy: float
    mean_y: Tensor
    mean_hat: Tensor
    centered: bool
    rows: int
    by_columns: bool = False

    def grouped(self, W: Tensor) -> Tensor:
        """A weight (out, in·|kernel|) by groups: (g, o, k)."""
        return _by_groups(W, len(self.C), by_columns=self.by_columns)

    def error(self, W: Tensor) -> float | None:
        """sqrt(E|y − Ŵ x̂|² / E|y|²) of a weight (out, in·|kernel|); None where only a diagonal is known."""
        if self.D is None:
            return None
        parts = self.grouped(W)
        lost = self.energy + float(((parts @ self.C) * parts).sum() - 2 * (parts * self.D.mT).sum())
        return math.sqrt(max(lost, 0.0) / self.energy) if self.energy > 0 else 0.0

    def shift(self, W: Tensor) -> Tensor:
        """What a bias has to add so that a weight (out, in·|kernel|) gives the same mean output: (g·o,)."""
        return (self.mean_y - (self.grouped(W) @ self.mean_hat[:, :, None]).squeeze(2)).flatten()


def _by_groups(W: Tensor, groups: int, *, by_columns: bool) -> Tensor:
    return W.view(len(W), groups, -1).transpose(0, 1) if by_columns else W.view(groups, -1, W.shape[1])


class Sums:
    """Running sums over calls of a layer, from which its statistics come.

    Args:
        layer: A dense or convolutional layer, which says how its patches are cut.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._layer: Any = layer
        self._cut = _Cut(layer)
        self._sums: list[Tensor] = []
        self._about: list[Tensor] = []
        self._count = 0

    def add(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Sums:
        """Add one call: (the original's input, the converted network's input) of each batch."""
        pairs = list(pairs)
        step = self._cut.step([x for x, _ in pairs])
        for x, x_hat in pairs:
            for part, part_hat in zip(self._cut.parts(x), self._cut.parts(x_hat), strict=True):
                self._add(self._cut.outputs(part, step), self._cut.patches(part_hat, step))
        return self

    def _add(self, y: Tensor, x: Tensor) -> None:
        """y: (g, rows, o), x: (g, rows, k)."""
        if not self._sums:
            self._about = [t.sum(1, keepdim=True) / max(t.shape[1], 1) for t in (y, x)]
        y, x = y - self._about[0], x - self._about[1]
        wide = self._cut.wide
        products = [x.square().sum(1), x.new_zeros(())] if wide else [x.mT @ x, x.mT @ y]
        terms = [t.double() for t in (*products, y.square().sum(), y.sum(1), x.sum(1))]
        self._sums = [a + b for a, b in zip(self._sums, terms, strict=True)] if self._sums else terms
        self._count += x.shape[1]

    def statistics(self, *, centered: bool) -> Statistics:
        """The means of what was added; `centered` takes the means of inputs and outputs out."""
        C, D, energy, y, x = (total / max(self._count, 1) for total in self._sums)
        mean_y, mean_hat = (t + about[:, 0] for t, about in zip((y, x), self._about, strict=True))
        for sign, of_y, of_x in [(-1, y, x), *([] if centered else [(1, mean_y, mean_hat)])]:
            energy = energy + sign * of_y.square().sum()
            if self._cut.wide:
                C = C + sign * of_x.square()
            else:
                C = C + sign * of_x[:, :, None] * of_x[:, None]
                D = D + sign * of_x[:, :, None] * of_y[:, None]
        return Statistics(
            C,
            None if self._cut.wide else D,
            max(float(energy), 0.0),
            mean_y,
            mean_hat,
            centered,
            self._count,
            self._cut.by_columns,
        )


def check_finite(name: str, layer: nn.Module, statistics: Statistics) -> None:
    """Refuse numbers that nothing can be fitted to.

    Raises:
        ModelError: the weight, or what flows into it, holds values that are not finite.
    """
    weight = layer.get_parameter("weight")
    if not weight.isfinite().all():
        shape = tuple(weight.shape)
        raise ModelError(
            f"{name} cannot be fitted: a weight of shape {shape} holds values that are not finite",
            hint=f"the file may be damaged or its training diverged; --exclude {name!r} keeps this weight",
        )
    if not (statistics.C.isfinite().all() and math.isfinite(statistics.energy)):
        raise ModelError(
            f"{name} cannot be fitted: its inputs are not finite, or their squares are not (NaN or infinite)",
            hint=f"look for such values in --data; --exclude {name!r} keeps this weight",
        )


def refusal(layer: nn.Module) -> str | None:
    """Why a layer's inputs cannot be gathered; None where they can."""
    known = isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd))
    return None if known else f"a {type(layer).__name__}"


def gather(layer: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]], *, centered: bool) -> Statistics:
    """The statistics of one call of a layer; arguments as in `Sums`."""
    return Sums(layer).add(pairs).statistics(centered=centered)


def measured_error(
    layer: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]], weight: Tensor, *, centered: bool
) -> float:
    """`Statistics.error` from the inputs themselves, for layers that are too wide for a covariance."""
    cut = _Cut(layer)
    pairs = list(pairs)
    step = cut.step([x for x, _ in pairs])
    approximate = cut.grouped(weight.to(torch.float32))
    lost = total = 0.0
    sums: list[Tensor] = []
    count = 0
    for x, x_hat in pairs:
        for part, part_hat in zip(cut.parts(x), cut.parts(x_hat), strict=True):
            y = cut.outputs(part, step)
            rest = y - cut.patches(part_hat, step) @ approximate.mT
            lost, total = lost + float(rest.double().square().sum()), total + float(y.double().square().sum())
            means = [rest.double().sum(1), y.double().sum(1)]
            sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
            count += y.shape[1]
    if centered:
        lost, total = (a - float(b.square().sum()) / count for a, b in zip((lost, total), sums, strict=True))
    return math.sqrt(max(lost, 0.0) / total) if total > 0 else 0.0


class _Cut:
    """How the rows that meet a layer's weight are cut out of its input."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._linear = isinstance(layer, nn.Linear)
        self._groups = 1 if self._linear else layer.groups
        self.by_columns = not self._linear and layer.transposed
        weight = layer.weight.transpose(0, 1) if self.by_columns else layer.weight
        self._columns = weight[0].numel() // (self._groups if self.by_columns else 1)
        self.wide = self._groups * self._columns**2 > LIMIT**2

    def grouped(self, weight: Tensor) -> Tensor:
        """A weight (out, in·|kernel|) by groups: (g, o, k)."""
        return _by_groups(weight, self._groups, by_columns=self.by_columns)

    def step(self, inputs: list[Tensor]) -> int:
        """Every how manieth position along each axis is enough."""
        if self._linear:
            return 1
        rows = sum(
            self._batched(x).shape[0] * math.prod(self._sizes(self._padded(x[:1]))) for x in inputs if len(x)
        )
        axes = self._layer.weight.dim() - 2
        enough = _ENOUGH * self._columns
        return next((step for step in (3, 2) if rows // step**axes >= enough), 1)

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pieces of a batch that have not too many patches, in float32."""
        x = x.detach().float()
        if self._linear:
            return torch.split(x.reshape(-1, x.shape[-1]), max(1, _ENTRIES // self._columns))
        x = self._batched(x)
        positions = math.prod(self._sizes(self._padded(x[:1]))) if len(x) else 1
        return torch.split(x, max(1, _ENTRIES // max(1, positions * self._columns * self._groups)))

    def outputs(self, x: Tensor, step: int) -> Tensor:
        """What the layer computes, bias left out: (g, rows, o)."""
        weight = self._layer.weight.detach().float()
        if self._linear:
            return F.linear(x, weight)[None]
        if self.by_columns:
            return self.patches(x, step) @ self.grouped(weight.transpose(0, 1).flatten(1)).mT
        strides = [step * stride for stride in self._layer.stride]
        y = _CONVOLVE[x.dim() - 3](
            self._padded(x), weight, None, strides, 0, self._layer.dilation, self._groups
        )
        return y.movedim(1, -1).reshape(-1, self._groups, y.shape[1] // self._groups).transpose(0, 1)

    def patches(self, x: Tensor, step: int) -> Tensor:
        """What meets the weight, one row for each position: (g, rows, k), columns as the weight has them."""
        if self._linear:
            return x[None]
        x = self._padded(x)
        strides = [1] * (x.dim() - 2) if self.by_columns else self._layer.stride
        axes = []
        for kernel, dilation, stride, out in zip(
            self._layer.kernel_size, self._layer.dilation, strides, self._sizes(x), strict=True
        ):
            starts = [k * dilation for k in range(kernel)]
            starts = starts[::-1] if self.by_columns else starts
            axes.append([slice(start, start + stride * (out - 1) + 1, stride * step) for start in starts])
        cut = torch.stack([x[(slice(None), slice(None), *window)] for window in itertools.product(*axes)], -1)
        return cut.movedim(1, -2).reshape(-1, self._groups, self._columns).transpose(0, 1)

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.dim() == self._layer.weight.dim() else x.unsqueeze(0)

    def _padded(self, x: Tensor) -> Tensor:
        """The input as the kernel slides over it; a transposed one's with zeros between its positions."""
        layer = self._layer
        x = self._batched(x)
        if self.by_columns:
            return self._stuffed(x)
        amounts = layer._reversed_padding_repeated_twice
        if not any(amounts):
            return x
        return F.pad(x, amounts, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)

    def _stuffed(self, x: Tensor) -> Tensor:
        layer = self._layer
        sizes = [stride * (size - 1) + 1 for size, stride in zip(x.shape[2:], layer.stride, strict=True)]
        stuffed = x.new_zeros(*x.shape[:2], *sizes)
        every = tuple(slice(None, None, stride) for stride in layer.stride)
        stuffed[(slice(None), slice(None), *every)] = x
        amounts: list[int] = []
        for kernel, dilation, padding, more in zip(
            layer.kernel_size, layer.dilation, layer.padding, layer.output_padding, strict=True
        ):
            side = dilation * (kernel - 1) - padding
            amounts = [side, side + more, *amounts]
        return F.pad(stuffed, amounts)

    def _sizes(self, padded: Tensor) -> list[int]:
        """Of the output, given the padded input."""
        strides = [1] * (padded.dim() - 2) if self.by_columns else self._layer.stride
        return [
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, dilation, stride in zip(
                padded.shape[2:], self._layer.kernel_size, self._layer.dilation, strides, strict=True
            )
        ]
