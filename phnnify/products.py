"""Products of inputs with a weight in factors, without composing the weight.

    y = (Σ_r A_r ⊗ S_r + U V) x

The Kronecker products are taken in one of two ways, whichever multiplies less:

- algebra first: the blocks of x are mixed, z[i, r] = Σ_j A_r[i, j]·x[j], then one matrix product with S,
  laid out as (out/n_out, terms·in/n_in), gives y[i] = Σ_r S_r z[i, r]. terms·(n_out·in + out·in/n_in)
  multiplications; for terms = n about those of a dense product, while 1/n of the numbers are read;
- filters first: z[j, r] = S_r x[j], then y[i] = Σ_jr A_r[i, j]·z[j, r]. terms·(in·out/n_out + n_in·out).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from phnnify.algebra import Factors, Order

_FEW_ROWS = 16  # up to here a matrix product is faster with the large factor on the left (measured, CPU)


def multiplications(order: Order, out: int, columns: int) -> int:
    """Of one input vector with a weight (out, columns) in factors, the cheaper way."""
    return min(_costs(order, out, columns)) + order.rank * (out + columns)


def filters_first(order: Order, out: int, columns: int) -> bool:
    """Whether S comes first: where that multiplies clearly less."""
    algebra, filters = _costs(order, out, columns)
    return 2 * filters < algebra


def _costs(order: Order, out: int, columns: int) -> tuple[int, int]:
    n_out, n_in, terms = order.n_out, order.n_in, order.terms
    return terms * (n_out * columns + out * columns // n_in), terms * (columns * out // n_out + n_in * out)


def multiply(x: Tensor, A: Tensor, S: Tensor, U: Tensor | None = None, V: Tensor | None = None) -> Tensor:
    """X Wᵀ with W = Σ A_r ⊗ S_r + U V.

    Args:
        x: (..., in).
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in); for the algebra first, fastest with `S.transpose(0, 1)` contiguous.
        U: (out, rank), or None.
        V: (rank, in), or None.

    Returns:
        (..., out).
    """
    terms, n_out, n_in = A.shape
    rows, width = S.shape[1:]
    flat = x.reshape(-1, n_in * width)
    y = None if U is None or V is None else _product(_product(flat, V), U)
    if not terms and y is not None:
        return y.reshape(*x.shape[:-1], rows)
    if filters_first(Factors(A, S).order, n_out * rows, n_in * width):
        z = _product(flat.reshape(-1, width), S.flatten(0, 1))
        sums = _combine(z.reshape(-1, n_in * terms, rows), A)
    else:
        mixed = _mix(flat.reshape(-1, n_in, width), A)
        sums = _product(mixed.reshape(-1, terms * width), S.transpose(0, 1).flatten(1))
    sums = sums.reshape(-1, n_out * rows)
    return (sums if y is None else sums + y).reshape(*x.shape[:-1], n_out * rows)


def multiply_channels(
    x: Tensor, A: Tensor, S: Tensor, U: Tensor | None = None, V: Tensor | None = None
) -> Tensor:
    """`multiply` along axis 1: a convolution with a kernel of size 1.

    Args:
        x: (batch, in, *positions). The memory format (channels last or not) is kept.
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in).
        U: (out, rank), or None.
        V: (rank, in), or None.

    Returns:
        (batch, out, *positions).
    """
    if x.stride(1) == 1 and x.shape[1] > 1:
        return multiply(x.movedim(1, -1), A, S, U, V).movedim(-1, 1)
    terms, n_out, n_in = A.shape
    rows, width = S.shape[1:]
    batch, _, *positions = x.shape
    size = math.prod(positions)
    shape = (batch, n_out * rows, *positions)
    y = None if U is None or V is None else torch.matmul(U, torch.matmul(V, x.flatten(2))).reshape(shape)
    if not terms and y is not None:
        return y
    if filters_first(Factors(A, S).order, n_out * rows, n_in * width):
        z = torch.matmul(S.flatten(0, 1), x.reshape(batch * n_in, width, size))
        sums = _combine(z.reshape(batch, n_in * terms, rows * size), A)
    else:
        mixed = _mix(x.reshape(batch, n_in, width * size), A)
        filters = S.transpose(0, 1).flatten(1)
        sums = torch.matmul(filters, mixed.reshape(batch * n_out, terms * width, size))
    sums = sums.reshape(shape)
    return sums if y is None else sums + y


def _mix(x: Tensor, A: Tensor) -> Tensor:
    """Z[b, (i, r)] = Σ_j A_r[i, j]·x[b, j]: (batch, n_in, size) → (batch, n_out·terms, size)."""
    terms, n_out, n_in = A.shape
    mix = A.transpose(0, 1).reshape(n_out * terms, n_in)
    # bmm, not matmul: the latter transposes and copies x whenever A needs a gradient.
    return torch.bmm(mix.expand(x.shape[0], -1, -1), x)


def _combine(z: Tensor, A: Tensor) -> Tensor:
    """Y[b, i] = Σ_jr A_r[i, j]·z[b, (j, r)]: (batch, n_in·terms, size) → (batch, n_out, size)."""
    mix = A.permute(1, 2, 0).flatten(1)
    return torch.bmm(mix.expand(z.shape[0], -1, -1), z)


def _product(z: Tensor, filters: Tensor) -> Tensor:
    """Z·filtersᵀ, in the order that is faster for few rows."""
    if torch.compiler.is_compiling() or z.shape[0] > _FEW_ROWS:
        return F.linear(z, filters)
    return (filters @ z.t()).t()
