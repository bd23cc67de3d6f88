"""The embedding table: rows of a weight, looked up without composing it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from phnnify.algebra import Order
from phnnify.algebras import Algebra
from phnnify.layers.base import PHMLayer


class PHMEmbedding(PHMLayer):
    """Row i of W = Σ_r A_r ⊗ S_r + U V, for each index i: what `nn.Embedding` looks up.

    With i = block·rows + place, where rows = num_embeddings/n_out, that row is
    Σ_r A_r[block] ⊗ S_r[place] + U[i] V: terms·embedding_dim multiplications, and no table.

    Shapes: indices (...) of whole numbers, output (..., embedding_dim).

    Args:
        num_embeddings, embedding_dim, padding_idx, device, dtype: As in `nn.Embedding`. Since rows share
            factors, the row of `padding_idx` is neither kept at zero nor spared by gradients.
        n: Keep about 1/n of the parameters, or an exact `Order`.
        algebra: A fixed one, by name (`algebras.NAMES`) or as a value; by default it is learned.

    Raises:
        ValueError: an `Order` does not divide (num_embeddings, embedding_dim), or the algebra has another
            order.
    """

    twin = nn.Embedding
    arguments = ("num_embeddings", "embedding_dim")
    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        n: int | Order,
        algebra: Algebra | str | None = None,
    ) -> None:
        dense = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device="meta", dtype=dtype)
        self._build(dense, n, algebra, device)

    def forward(self, indices: Tensor) -> Tensor:
        """The rows (..., embedding_dim) of indices (...)."""
        A, S, U, V = self.factors
        flat = indices.reshape(-1)
        y = None if U is None or V is None else U.index_select(0, flat) @ V
        if len(A):
            rows = S.shape[1]
            blocks = A.permute(1, 2, 0).index_select(0, flat // rows)
            places = S.transpose(0, 1).index_select(0, flat % rows)
            sums = torch.bmm(blocks, places).flatten(1)
            y = sums if y is None else y + sums
        if y is None:
            y = S.new_zeros(flat.shape[0], self.matrix[1])
        return y.view(*indices.shape, self.matrix[1])

    def to_dense(self) -> nn.Module:
        """The `nn.Embedding` of the composed table."""
        rows, width = self.matrix
        dense = nn.Embedding(rows, width, self.padding_idx, device="meta")
        dense.weight = nn.Parameter(self._compose().detach().clone())
        return dense.train(self.training)

    def _fresh_mean_square(self) -> float:
        return 1.0

    def extra_repr(self) -> str:
        """The dense twin's line, and the order."""
        return super().extra_repr().replace(", bias=False", "")
