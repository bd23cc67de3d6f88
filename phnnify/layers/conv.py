"""Convolutions, ordinary and transposed, in one to three dimensions."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify import products
from phnnify.algebra import Order
from phnnify.algebras import Algebra
from phnnify.layers.base import PHMLayer


class _PHMConv(PHMLayer):
    """Convolution; see the module's text for how it runs and `nn.Conv1d`, `2d`, `3d` for the arguments.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
        device, dtype: As in the dense twin.
        n: Keep about 1/n of the parameters, or an exact `Order` of (out_channels, in_channels/groups).
        algebra: A fixed one, by name (`algebras.NAMES`) or as a value; by default it is learned.

    Raises:
        ValueError: an `Order` does not divide the weight, the algebra has another order, or torch refuses
            the arguments.
    """

    arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    minds_layout = True
    _reversed_padding_repeated_twice: list[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        n: int | Order,
        algebra: Algebra | str | None = None,
    ) -> None:
        twin: Any = self.twin
        dense = twin(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device="meta", dtype=dtype,
        )  # fmt: skip
        self._build(dense, n, algebra, device)

    def _adopt(self, dense: nn.Module, order: Order, device: Any) -> None:
        super()._adopt(dense, order, device)
        if self._pointwise():
            self.S = products.product_layout(self.S, order, self.matrix)

    def _pointwise(self) -> bool:
        return self._one_group() and math.prod(self.S.shape[3:]) == 1

    def _one_group(self) -> bool:
        groups: int = self.groups  # type: ignore[assignment]
        return groups == 1

    def forward(self, x: Tensor) -> Tensor:
        """Map x ([batch,] in_channels, *positions) to ([batch,] out_channels, *positions)."""
        weight = self._kept(x)
        if weight is None:
            if self._one_group() and self._in_factors(x):
                if x.dim() < self.S.dim() - 1:
                    return self.forward(x.unsqueeze(0)).squeeze(0)
                return self._by_rows(x) if self._pointwise() and self._has_rows(x) else self._in_steps(x)
            weight = self._composed(x)
        # The dense twin's own forward step, which reads stride, padding and so on from this module.
        twin: Any = self.twin
        y: Tensor = twin._conv_forward(self, x, weight, self._held_bias())
        return y

    def _in_factors(self, x: Tensor) -> bool:
        if not self.training:
            return self._runs_factored(x)
        columns: int = self.in_channels  # type: ignore[assignment]
        return not len(self.A) or (self._pointwise() and self._learns_factored(x.numel() // columns))

    def _positions(self, x: Tensor) -> tuple[int, int] | None:
        apart = len(self.A) and not self._pointwise() and _channels_last(x)
        if apart or not self._one_group():
            return None  # its blocks of channels do not lie together
        columns: int = self.in_channels  # type: ignore[assignment]
        steps = math.prod(self.stride)  # type: ignore[arg-type]
        return max(1, x.numel() // columns // steps), steps

    def _factored_unseen(self) -> bool:
        if self.form != "auto":
            return self.form == "factored"
        return not len(self.A) or (self._pointwise() and super()._factored_unseen())

    def _has_rows(self, x: Tensor) -> bool:
        """Whether a kernel of size 1 is best a product with rows of channels: as it learns, and as x lies."""
        return self.training or (_channels_last(x) and not torch.compiler.is_exporting())

    def _by_rows(self, x: Tensor) -> Tensor:
        if any(self._reversed_padding_repeated_twice):
            mode = "constant" if self.padding_mode == "zeros" else str(self.padding_mode)
            x = F.pad(x, self._reversed_padding_repeated_twice, mode)
        stride: tuple[int, ...] = self.stride  # type: ignore[assignment]
        for axis, step in enumerate(stride, start=2):
            x = x if step == 1 else x[(slice(None),) * axis + (slice(None, None, step),)]
        y = products.multiply_channels(
            x, self.A, self.S.flatten(2), self.U, None if self.V is None else self.V.flatten(1)
        )
        return y if self.bias is None else y + self._spread(self.bias).to(y.dtype)

    def _in_steps(self, x: Tensor) -> Tensor:
        """Convolutions of this layer's kind, with V and S, and what comes before and after."""
        twin: Any = self.twin
        bias, parts = self.bias, []
        if self.U is not None and self.V is not None:
            pointwise = (F.conv1d, F.conv2d, F.conv3d)[self.S.dim() - 4]
            parts.append(pointwise(twin._conv_forward(self, x, self.V, None), self._spread(self.U), bias))
            bias = None
        if len(self.A):
            convolution = partial(twin._conv_forward, self, bias=None)
            parts.append(products.convolve(x, self.A, self.S, convolution))
        y: Tensor = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return y if bias is None else products.add_bias(y, self._spread(bias))

    def _spread(self, tensor: Tensor) -> Tensor:
        """With an axis of size 1 for each position."""
        return tensor.view(*tensor.shape, *[1] * (self.S.dim() - 3))


def _channels_last(x: Tensor) -> bool:
    return x.stride(-x.dim() + 1) == 1 and x.shape[1] > 1


class PHMConv1d(_PHMConv):
    """`nn.Conv1d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, length), y ([batch,] out_channels, ...).
    """

    twin = nn.Conv1d


class PHMConv2d(_PHMConv):
    """`nn.Conv2d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, height, width), y ([batch,] out_channels, ...).
    """

    twin = nn.Conv2d


class PHMConv3d(_PHMConv):
    """`nn.Conv3d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, depth, height, width), y ([batch,] out_channels, ...).
    """

    twin = nn.Conv3d


class _PHMConvTranspose(PHMLayer):
    """Transposed convolution; see `nn.ConvTranspose1d`, `2d`, `3d` for the arguments.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
        padding_mode, device, dtype: As in the dense twin.
        n: Keep about 1/n of the parameters, or an exact `Order` of (out_channels/groups, in_channels).
        algebra: A fixed one, by name (`algebras.NAMES`) or as a value; by default it is learned.

    Raises:
        ValueError: an `Order` does not divide the weight, the algebra has another order, or torch refuses
            the arguments.
    """

    arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
        "padding_mode",
    )
    transposed_weight = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        n: int | Order,
        algebra: Algebra | str | None = None,
    ) -> None:
        twin: Any = self.twin
        dense = twin(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            padding_mode, device="meta", dtype=dtype,
        )  # fmt: skip
        self._build(dense, n, algebra, device)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map x ([batch,] in_channels, *positions) to ([batch,] out_channels, *positions)."""
        # The dense twin's own forward, which reads weight, stride, padding and so on from this module.
        twin: Any = self.twin
        y: Tensor = twin.forward(self, x, output_size)
        return y

    def _output_padding(self, *args: Any) -> list[int]:
        twin: Any = self.twin
        padding: list[int] = twin._output_padding(self, *args)
        return padding


class PHMConvTranspose1d(_PHMConvTranspose):
    """`nn.ConvTranspose1d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, length), y ([batch,] out_channels, ...).
    """

    twin = nn.ConvTranspose1d


class PHMConvTranspose2d(_PHMConvTranspose):
    """`nn.ConvTranspose2d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, height, width), y ([batch,] out_channels, ...).
    """

    twin = nn.ConvTranspose2d


class PHMConvTranspose3d(_PHMConvTranspose):
    """`nn.ConvTranspose3d` with a PHM weight: its arguments, and `n`.

    Shapes: x ([batch,] in_channels, depth, height, width), y ([batch,] out_channels, ...).
    """

    twin = nn.ConvTranspose3d
