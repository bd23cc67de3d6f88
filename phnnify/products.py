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
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify.algebra import Order

_NARROW = 16  # columns
FEW_ROWS = 16  # up to here torch keeps a matrix product to one thread (measured, MKL)
_FEW_NUMBERS = 2**16  # filters that one thread reads sooner than several are told to


def multiplications(order: Order, out: int, columns: int) -> int:
    """Of one input vector with a weight (out, columns) in factors, the cheaper way."""
    return min(_costs(order, out, columns)) + order.rank * (out + columns)


def filters_first(order: Order, out: int, columns: int, *, spatial: bool = False) -> bool:
    """Whether S comes first: where that multiplies clearly less.

    For a kernel with a spatial extent, wherever it does not multiply more: the filters are then used as they
    lie in memory. `columns` counts the positions of the kernel.
    """
    algebra, filters = _costs(order, out, columns)
    return filters <= algebra if spatial else 2 * filters < algebra


def _filters_first(A: Tensor, S: Tensor, *, spatial: bool = False) -> bool:
    """`filters_first` for these factors."""
    terms, n_out, n_in = A.shape
    rows, *columns = S.shape[1:]
    return filters_first(Order(n_out, n_in, terms), n_out * rows, n_in * math.prod(columns), spatial=spatial)


def product_layout(S: nn.Parameter, order: Order, matrix: tuple[int, ...]) -> nn.Parameter:
    """The same shape, with memory ordered so that what the product reads is a view of it."""
    if filters_first(order, matrix[0], math.prod(matrix[1:])):
        return S
    return nn.Parameter(S.detach().transpose(0, 1).contiguous().transpose(0, 1))


def _costs(order: Order, out: int, columns: int) -> tuple[int, int]:
    n_out, n_in, terms = order.n_out, order.n_in, order.terms
    return terms * (n_out * columns + out * columns // n_in), terms * (columns * out // n_out + n_in * out)


def multiply(
    x: Tensor,
    A: Tensor,
    S: Tensor,
    U: Tensor | None = None,
    V: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """X Wᵀ + b with W = Σ A_r ⊗ S_r + U V.

    Args:
        x: (..., in).
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in); for the algebra first, fastest with `S.transpose(0, 1)` contiguous.
        U: (out, rank), or None.
        V: (rank, in), or None.
        bias: (out,), or None.

    Returns:
        (..., out).
    """
    exporting = torch.compiler.is_exporting()
    flat = x if exporting else x.reshape(-1, x.shape[-1])
    parts = []
    if U is not None and V is not None:
        fused = None if torch.is_grad_enabled() else bias
        parts.append(_product(_product(flat, V), U, fused))
        bias = bias if fused is None else None
    if len(A) or not parts:
        parts.append(_multiply_blocks(flat, A, S))
    y = parts[0] if len(parts) == 1 else parts[1] + parts[0]
    y = y if bias is None else add_bias(y, bias)
    return y if exporting else y.reshape(*x.shape[:-1], y.shape[-1])


def _multiply_blocks(x: Tensor, A: Tensor, S: Tensor) -> Tensor:
    """X (Σ A_r ⊗ S_r)ᵀ: (..., in) → (..., out)."""
    terms, n_out, n_in = A.shape
    rows, width = S.shape[1:]
    lead = x.shape[:-1]
    blocks = x.reshape(*lead, n_in, width)
    if _filters_first(A, S):
        z = _product(blocks, S.flatten(0, 1))
        sums = _combine(z.reshape(*lead, n_in * terms, rows), A)
    else:
        mixed = _mix(blocks, A)
        sums = _product(mixed.reshape(*lead, n_out, terms * width), S.transpose(0, 1).flatten(1))
    return sums.reshape(*lead, n_out * rows)


def add_bias(y: Tensor, bias: Tensor) -> Tensor:
    """Y + b for a fresh y: in its place, where nothing is recorded or traced."""
    recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
    return y + bias.to(y.dtype) if recorded else y.add_(bias)


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
    if _filters_first(A, S):
        z = torch.matmul(S.flatten(0, 1), x.reshape(batch * n_in, width, size))
        sums = _combine(z.reshape(batch, n_in * terms, rows * size), A)
    else:
        mixed = _mix(x.reshape(batch, n_in, width * size), A)
        filters = S.transpose(0, 1).flatten(1)
        sums = torch.matmul(filters, mixed.reshape(batch * n_out, terms * width, size))
    sums = sums.reshape(shape)
    return sums if y is None else sums + y


def convolve(x: Tensor, A: Tensor, S: Tensor, convolution: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A convolution with W = Σ A_r ⊗ S_r: one with S, and a mix of the blocks of channels before or after.

    Args:
        x: (batch, in, *positions).
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in, *kernel).
        convolution: Of (batch, channels, *positions) with (results, channels, *kernel).

    Returns:
        (batch, out, *positions of the output).
    """
    terms, n_out, n_in = A.shape
    rows, width = S.shape[1:3]
    batch, _, *positions = x.shape
    if _filters_first(A, S, spatial=True):
        z = convolution(x.reshape(batch * n_in, width, *positions), S.flatten(0, 1))
        places = z.shape[2:]
        sums = _combine(z.reshape(batch, n_in * terms, rows * math.prod(places)), A)
    else:
        mixed = _mix(x.reshape(batch, n_in, width * math.prod(positions)), A)
        filters = S.transpose(0, 1).flatten(1, 2)
        sums = convolution(mixed.reshape(batch * n_out, terms * width, *positions), filters)
        places = sums.shape[2:]
    return sums.reshape(batch, n_out * rows, *places)


def _mix(x: Tensor, A: Tensor) -> Tensor:
    """Z[b, (i, r)] = Σ_j A_r[i, j]·x[b, j]: (..., n_in, size) → (..., n_out·terms, size)."""
    terms, n_out, n_in = A.shape
    return _left_product(A.transpose(0, 1).reshape(n_out * terms, n_in), x)


def _combine(z: Tensor, A: Tensor) -> Tensor:
    """Y[b, i] = Σ_jr A_r[i, j]·z[b, (j, r)]: (..., n_in·terms, size) → (..., n_out, size)."""
    return _left_product(A.permute(1, 2, 0).flatten(1), z)


def _left_product(mix: Tensor, x: Tensor) -> Tensor:
    """One small matrix times each of many: (..., blocks, size)."""
    if torch.compiler.is_exporting():
        return torch.matmul(mix, x)  # one operator, whatever the number of axes
    if x.shape[-1] == 1:
        return F.linear(x.squeeze(-1), mix).unsqueeze(-1)
    if x.shape[-1] < _NARROW:  # many products with so few columns each run far below the speed of one
        return F.linear(x.transpose(-1, -2), mix).transpose(-1, -2)
    # bmm, not matmul: the latter transposes and copies x whenever A needs a gradient.
    return torch.bmm(mix.expand(x.shape[0], -1, -1), x)


def _product(z: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    """Z·filtersᵀ + b."""
    if torch.compiler.is_compiling():
        return F.linear(z, filters, bias)
    flat = z.reshape(-1, z.shape[-1])
    if flat.shape[0] > FEW_ROWS or filters.numel() <= _FEW_NUMBERS or not flat.is_cpu:
        y = F.linear(flat, filters, bias)
    else:
        y = _product_of_few(flat, filters)
        y = y if bias is None else y + bias
    return y.reshape(*z.shape[:-1], filters.shape[0])


def _product_of_few(z: Tensor, filters: Tensor) -> Tensor:
    """Z·filtersᵀ so that every thread reads some of the filters: (rows, in) → (rows, out).

    Each number of rows in the way that was fastest (MKL): one in parts, the filters first; two in one
    product, the filters first; more in parts, the rows first.
    """
    out, columns = filters.shape
    if len(z) == 2:
        return (filters @ z.t()).t()
    parts = math.gcd(out, 4 * torch.get_num_threads())
    blocks = filters.reshape(parts, out // parts, columns)
    if len(z) == 1:
        return torch.bmm(blocks, z.t().expand(parts, -1, -1)).reshape(1, out)
    return torch.bmm(z.expand(parts, -1, -1), blocks.transpose(1, 2)).transpose(0, 1).reshape(len(z), out)
