"""The dense layer: y = x Wᵀ + b."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify import products
from phnnify.algebra import Order
from phnnify.algebras import Algebra
from phnnify.layers.base import PHMLayer


class PHMLinear(PHMLayer):
    """y = x Wᵀ + b with W = Σ_r A_r ⊗ S_r + U V, by the factors (`products`) or the composed weight.

    Shapes: x (..., in_features), y (..., out_features). S is laid out in memory as the product reads it.

    Args:
        in_features, out_features, bias, device, dtype: As in `nn.Linear`.
        n: Keep about 1/n of the parameters, or an exact `Order`.
        algebra: A fixed one, by name (`algebras.NAMES`) or as a value; by default it is learned.

    Raises:
        ValueError: an `Order` does not divide (out_features, in_features), or the algebra has another order.
    """

    twin = nn.Linear
    arguments = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        n: int | Order,
        algebra: Algebra | str | None = None,
    ) -> None:
        dense = nn.Linear(in_features, out_features, bias, device="meta", dtype=dtype)
        self._build(dense, n, algebra, device)

    def _adopt(self, dense: nn.Module, order: Order, device: Any) -> None:
        super()._adopt(dense, order, device)
        self.S = products.product_layout(self.S, order, self.matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        weight = self._kept(x)
        if weight is None:
            if self._learns_factored(x.numel() // x.shape[-1]) if self.training else self._runs_factored(x):
                return products.multiply(x, *self.factors, self.bias)
            weight = self._composed(x)
        return F.linear(x, weight, self._held_bias())

    def _positions(self, x: Tensor) -> tuple[int, int]:
        return max(1, x.numel() // x.shape[-1]), 1
