r"""PHM mathematics on tensors: weights that are sums of Kronecker products.

    W = Σ_r A_r ⊗ S_r,    r = 1 … terms

with the algebra `A` of shape (terms, n_out, n_in) and the filters `S` of shape
(terms, out/n_out, in/n_in, *kernel). `W` has shape (out, in, *kernel); the kernel axes ride along with
the second factor. With n_out = n_in = terms = n a weight keeps 1/n of its parameters.

Everything rests on one rearrangement (Van Loan & Pitsianis 1993): let R(W) have one row per block (i, j)
of W and one column per position within a block. Then R(Σ A_r ⊗ S_r) = Σ vec(A_r) vec(S_r)ᵀ, so that
Kronecker sums of t terms are matrices of rank t, and the best t terms for a given weight are its t leading
singular triplets.

Papers: PHM, arXiv 2102.08597; PHNNs, arXiv 2110.04176.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1 << 21  # elements of a weight that are rearranged at a time: bounds the extra memory
_NOISE = (1e-8, 1e-15)  # relative rounding of singular values found with one and with two passes
_FEW_ROWS = 16  # up to here a matrix product is faster with the large factor on the left (measured, CPU)


@dataclass(frozen=True)
class Order:
    """How a weight is divided: into n_out × n_in blocks, written with `terms` Kronecker products.

    Raises:
        ValueError: a number is below 1, or there are more terms than blocks (n_out·n_in terms are exact).
    """

    n_out: int
    n_in: int
    terms: int

    def __post_init__(self) -> None:
        if min(self.n_out, self.n_in, self.terms) < 1:
            raise ValueError(f"an order needs numbers of at least 1, got {self}")
        if self.terms > self.n_out * self.n_in:
            raise ValueError(f"{self} has more terms than blocks; {self.n_out * self.n_in} terms are exact")

    @classmethod
    def closest(cls, out_size: int, in_size: int, n: int) -> Order:
        """The order that keeps about 1/n of an (out_size, in_size) weight.

        n_out and n_in are the largest divisors of their side up to n, and terms = round(n_out·n_in/n), at
        least 1; where n divides both sides that is (n, n, n).
        """
        n_out, n_in = _largest_divisor(out_size, n), _largest_divisor(in_size, n)
        return cls(n_out, n_in, max(1, round(n_out * n_in / n)))

    def divides(self, shape: Sequence[int]) -> bool:
        """Whether both sides of a weight of this shape (out, in, *kernel) divide into blocks."""
        return shape[0] % self.n_out == 0 and shape[1] % self.n_in == 0

    def parameters(self, shape: Sequence[int]) -> int:
        """How many numbers A and S hold for a weight of this shape (out, in, *kernel)."""
        blocks = self.n_out * self.n_in
        return self.terms * (blocks + math.prod(shape) // blocks)


class Factors(NamedTuple):
    """A: (terms, n_out, n_in). S: (terms, out/n_out, in/n_in, *kernel)."""

    A: Tensor
    S: Tensor

    @property
    def order(self) -> Order:
        """The order they have."""
        terms, n_out, n_in = self.A.shape
        return Order(n_out, n_in, terms)


def _largest_divisor(size: int, limit: int) -> int:
    return next((d for d in range(min(size, limit), 0, -1) if size % d == 0), 1)


def compose(A: Tensor, S: Tensor) -> Tensor:
    """The weight Σ_r A_r ⊗ S_r.

    Args:
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in, *kernel).

    Returns:
        (out, in, *kernel), in the dtype of S. Half precision is computed in float32.
    """
    _, n_out, n_in = A.shape
    rows, columns, *kernel = S.shape[1:]
    if S.dtype in (torch.float16, torch.bfloat16):
        return compose(A.float(), S.float()).to(S.dtype)
    blocks: Tensor = A.flatten(1).t() @ S.flatten(1)
    blocks = blocks.reshape(n_out, n_in, rows, columns, *kernel).transpose(1, 2)
    return blocks.reshape(n_out * rows, n_in * columns, *kernel)


def rearrange(weight: Tensor, n_out: int, n_in: int) -> Tensor:
    """R(W): one row per block (i, j), one column per position within a block.

    Args:
        weight: (out, in, *kernel).
        n_out: The number of blocks down; divides out.
        n_in: The number of blocks across; divides in.

    Returns:
        (n_out·n_in, out/n_out · in/n_in · |kernel|).
    """
    out, columns, *kernel = weight.shape
    blocks = weight.reshape(n_out, out // n_out, n_in, columns // n_in, *kernel).transpose(1, 2)
    return blocks.reshape(n_out * n_in, -1)


def factorize(weight: Tensor, order: Order) -> Factors:
    """The nearest sum of `order.terms` Kronecker products, in closed form: inverse of `compose`.

    Minimises ‖W − Σ A_r ⊗ S_r‖. The left singular vectors of R(W) are the eigenvectors of its Gram matrix
    R Rᵀ, which has only (n_out·n_in)² entries; one more pass over the weight gives the filters. Time is
    linear in the size of the weight and extra memory is the result plus a bounded buffer. Arithmetic is in
    float64. The terms come in order of falling weight, balanced (A_r and S_r have the same mean square)
    and with the entry of largest magnitude in each A_r positive. Where nothing is left for a term, its
    S_r vanishes and its A_r does not, so that training can still move it.

    Van Loan & Pitsianis 1993, "Approximation with Kronecker products".

    Args:
        weight: (out, in, *kernel), any floating dtype.
        order: Blocks and terms; n_out divides out, n_in divides in.

    Returns:
        The factors, in the dtype and on the device of the weight.

    Raises:
        ValueError: the order does not divide the weight, or the weight holds NaN or infinity.
    """
    if weight.dim() < 2 or not order.divides(weight.shape):
        raise ValueError(f"{order} does not divide a weight of shape {tuple(weight.shape)}")
    weight = weight.detach()
    scale = _largest_magnitude(weight)
    if not math.isfinite(scale):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} holds values that are not finite")
    if scale == 0:
        return _nothing(weight, order)
    vectors, values = _left_singular(weight, order, scale)
    vectors, values = vectors[:, : order.terms], values[: order.terms]
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(peak < 0, -1.0, 1.0)
    # A_r = a·u and S_r = (σ/a)·v with unit vectors u, v: the mean squares a²/blocks and (σ/a)²/positions
    # are equal for this a. Values below the rounding of the Gram matrix say nothing: they get its level.
    blocks = order.n_out * order.n_in
    values = values.clamp_min(values[0].item() * _NOISE[weight.dtype == torch.float64])
    a = (values * scale * math.sqrt(blocks / (weight.numel() // blocks))).sqrt()
    A = (vectors * a).t().reshape(order.terms, order.n_out, order.n_in)
    return Factors(A.to(weight.dtype).contiguous(), _project(weight, order, vectors / a))


def balanced(factors: Factors) -> Factors:
    """The same weight with A_r and S_r of equal mean square in every term.

    A term whose A_r or S_r vanishes is left as it is.
    """
    A, S = factors
    a, s = A.square().mean((1, 2)), S.flatten(1).square().mean(1)
    gain = torch.where((a > 0) & (s > 0), (s / a.clamp_min(torch.finfo(a.dtype).tiny)) ** 0.25, 1.0)
    return Factors(A * gain.view(-1, 1, 1), S / gain.view(-1, *[1] * (S.dim() - 1)))


def _largest_magnitude(weight: Tensor) -> float:
    if not weight.numel():
        return 0.0
    low, high = weight.aminmax()
    return max(-low.item(), high.item())


def _nothing(weight: Tensor, order: Order) -> Factors:
    """Factors of a zero weight: each term holds another block, all filters are zero."""
    blocks = order.n_out * order.n_in
    A = torch.eye(blocks, dtype=weight.dtype, device=weight.device)[: order.terms]
    return Factors(A.view(order.terms, order.n_out, order.n_in), _empty_filters(weight, order).zero_())


def _empty_filters(weight: Tensor, order: Order) -> Tensor:
    out, columns, *kernel = weight.shape
    return weight.new_empty(order.terms, out // order.n_out, columns // order.n_in, *kernel)


def _chunks(weight: Tensor, n_out: int) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of a weight that hold the same rows of every block, as (rows within a block, piece)."""
    blocks = weight.reshape(n_out, weight.shape[0] // n_out, *weight.shape[1:])
    rows = max(1, _CHUNK * blocks.shape[1] // weight.numel())
    for start in range(0, blocks.shape[1], rows):
        part = slice(start, start + rows)
        yield part, blocks[:, part].flatten(0, 1)


def _gram(weight: Tensor, order: Order, basis: Tensor | None, scale: float) -> Tensor:
    """B Bᵀ with B = basisᵀ·R(W)/scale (or R(W)/scale), in float64."""
    size = order.n_out * order.n_in
    gram = torch.zeros(size, size, dtype=torch.float64, device=weight.device)
    for _, piece in _chunks(weight, order.n_out):
        rows = rearrange(piece, order.n_out, order.n_in).double() / scale
        rows = rows if basis is None else basis.t() @ rows
        gram.addmm_(rows, rows.t())
    return gram


def _left_singular(weight: Tensor, order: Order, scale: float) -> tuple[Tensor, Tensor]:
    """Left singular vectors (in columns) and singular values of R(W)/scale, largest first."""
    vectors, values = _eigenpairs(_gram(weight, order, None, scale))
    if weight.dtype != torch.float64:
        return vectors, values
    # Squaring lost half of the digits of the small singular values. In the basis just found the rows are
    # nearly orthogonal, so their Gram matrix, scaled to a unit diagonal, is accurate down to the smallest:
    # R = V·D·(D⁻¹VᵀR), the last factor having Gram matrix H = L Lᵀ, and V·svd(D L) finishes the job.
    gram = _gram(weight, order, vectors, scale)
    sizes = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    roots, lengths = _eigenpairs(gram / sizes / sizes[:, None])
    left, values, _ = torch.linalg.svd(sizes[:, None] * roots * lengths)
    return vectors @ left, values


def _eigenpairs(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (in columns) and square roots of the eigenvalues of a Gram matrix, largest first."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt()


def _project(weight: Tensor, order: Order, basis: Tensor) -> Tensor:
    """The filters basisᵀ·R(W): (terms, out/n_out, in/n_in, *kernel), in the dtype of the weight."""
    S = _empty_filters(weight, order)
    for part, piece in _chunks(weight, order.n_out):
        rows = rearrange(piece, order.n_out, order.n_in).double()
        S[:, part] = (basis.t() @ rows).view(S[:, part].shape).to(S.dtype)
    return S


def relative_error(weight: Tensor, approximation: Tensor) -> float:
    """‖W − Ŵ‖ / ‖W‖ in float64; 0 for two zero weights, infinity for an approximation of zero that is not."""
    weight, approximation = weight.detach().double(), approximation.detach().double()
    return _ratio(float((weight - approximation).square().sum()), float(weight.square().sum()))


def factorization_error(weight: Tensor, factors: Factors) -> float:
    """‖W − Σ A_r ⊗ S_r‖ / ‖W‖ as `relative_error`, without holding the composed weight."""
    n_out = factors.A.shape[1]
    lost = total = 0.0
    for part, piece in _chunks(weight.detach(), n_out):
        approximation = compose(factors.A.detach(), factors.S.detach()[:, part])
        lost += float((piece.double() - approximation.double()).square().sum())
        total += float(piece.double().square().sum())
    return _ratio(lost, total)


def _ratio(lost: float, total: float) -> float:
    return math.sqrt(lost / total) if total else (math.inf if lost else 0.0)


def multiply(x: Tensor, A: Tensor, S: Tensor) -> Tensor:
    """X Wᵀ with W = Σ A_r ⊗ S_r, without composing W.

    The blocks of x are mixed by A first, z[i, r] = Σ_j A_r[i, j]·x[j], and then one matrix product with S,
    laid out as (out/n_out, terms·in/n_in), gives y[i] = Σ_r S_r z[i, r]. As many multiplications as a dense
    product for terms = n, while only 1/n of the numbers are read from memory.

    Args:
        x: (..., in).
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in); fastest where `S.transpose(0, 1)` is contiguous.

    Returns:
        (..., out).
    """
    terms, n_out, n_in = A.shape
    mixed = _mix(x.reshape(-1, n_in, S.shape[2]), A)
    y = _product(mixed.reshape(-1, terms * S.shape[2]), S.transpose(0, 1).flatten(1))
    return y.reshape(*x.shape[:-1], n_out * S.shape[1])


def multiply_channels(x: Tensor, A: Tensor, S: Tensor) -> Tensor:
    """`multiply` along axis 1: a convolution with a kernel of size 1.

    Args:
        x: (batch, in, *positions). The memory format (channels last or not) is kept.
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in).

    Returns:
        (batch, out, *positions).
    """
    if x.stride(1) == 1 and x.shape[1] > 1:
        return multiply(x.movedim(1, -1), A, S).movedim(-1, 1)
    terms, n_out, n_in = A.shape
    batch, _, *positions = x.shape
    size = math.prod(positions)
    mixed = _mix(x.reshape(batch, n_in, S.shape[2] * size), A)
    filters = S.transpose(0, 1).flatten(1)
    y = torch.matmul(filters, mixed.reshape(batch * n_out, terms * S.shape[2], size))
    return y.reshape(batch, n_out * S.shape[1], *positions)


def _mix(x: Tensor, A: Tensor) -> Tensor:
    """Z[b, (i, r)] = Σ_j A_r[i, j]·x[b, j]: (batch, n_in, size) → (batch, n_out·terms, size)."""
    terms, n_out, n_in = A.shape
    mix = A.transpose(0, 1).reshape(n_out * terms, n_in)
    # bmm, not matmul: the latter transposes and copies x whenever A needs a gradient.
    return torch.bmm(mix.expand(x.shape[0], -1, -1), x)


def _product(z: Tensor, filters: Tensor) -> Tensor:
    """Z·filtersᵀ, in the order that is faster for few rows."""
    if torch.compiler.is_compiling() or z.shape[0] > _FEW_ROWS:
        return F.linear(z, filters)
    return (filters @ z.t()).t()
