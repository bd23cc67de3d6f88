"""Whether a network gives the same answer each time it runs, without which no file of it can be checked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phnnify.errors import ExportError
from phnnify.inputs import Example
from phnnify.measure import forward


def refuse_random(model: nn.Module, example: Example) -> None:
    """Refuse a network that gives other answers each time it runs: no file can be checked against those.

    Raises:
        ModelError: the network fails on the example.
        ExportError: two runs on the same inputs differ.
    """
    first, second = (torch.utils._pytree.tree_leaves(forward(model, example)) for _ in range(2))
    for one, other in zip(first, second, strict=False):
        if isinstance(one, Tensor) and not (one.shape == other.shape and _near(one, other)):
            raise ExportError(
                "the network gives other answers each time it runs on the same inputs, so that no file of it "
                "can be checked",
                hint="its dropout or noise is on in eval mode too: F.dropout(x, training=self.training), or "
                "the layer nn.Dropout, is off there",
            )


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two answers differ by rounding only."""
    one, other = one.double(), other.double()
    largest = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0.0
    return torch.allclose(one, other, rtol=0, atol=1e-4 * largest, equal_nan=True)
