r"""PHM mathematics on tensors: weights that are sums of Kronecker products, and perhaps a low-rank term.

    W = Σ_r A_r ⊗ S_r + U V,    r = 1 … terms

with the algebra `A` of shape (terms, n_out, n_in) and the filters `S` of shape
(terms, out/n_out, in/n_in, *kernel). `W` has shape (out, in, *kernel); the kernel axes ride along with
the second factor. With n_out = n_in = terms = n a weight keeps 1/n of its parameters. The low-rank term,
`U` of shape (out, rank) and `V` of shape (rank, in, *kernel), is the other end of the same family (a
Kronecker sum of order (out, 1)); where rank is 0 both are None, and where terms is 0 it stands alone.

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
from torch import Tensor

_CHUNK = 1 << 21  # elements of a weight that are rearranged at a time: bounds the extra memory
_NOISE = (1e-8, 1e-15)  # relative rounding of singular values found with one and with two passes
_ROUNDED = 0.15  # of 1/n, up to which the share of an order may differ by rounding its terms
_MIXED_ROUNDS = 4  # between Kronecker products and the low-rank term


@dataclass(frozen=True)
class Order:
    """The form of a weight: n_out × n_in blocks, written with `terms` Kronecker products, and a `rank`.

    Raises:
        ValueError: a number is out of range, or there are more terms than blocks (n_out·n_in are exact).
    """

    n_out: int
    n_in: int
    terms: int
    rank: int = 0

    def __post_init__(self) -> None:
        if min(self.n_out, self.n_in) < 1 or min(self.terms, self.rank) < 0 or not self.terms + self.rank:
            raise ValueError(f"an order needs numbers of at least 1, and terms or a rank, got {self}")
        if self.terms > self.n_out * self.n_in:
            raise ValueError(f"{self} has more terms than blocks; {self.n_out * self.n_in} terms are exact")
        if not self.terms and self.n_out * self.n_in > 1:
            raise ValueError(f"{self} has blocks but no terms; a low-rank weight has n_out = n_in = 1")

    @classmethod
    def closest(cls, out_size: int, in_size: int, n: int) -> Order:
        """The order that keeps about 1/n of an (out_size, in_size) weight.

        n_out and n_in are the largest divisors of their side up to n, and terms = round(n_out·n_in/n), at
        least 1; where n divides both sides that is (n, n, n). Where rounding takes that far from 1/n (n = 3
        and sides that are powers of 2), sides that n does not divide may also have their smallest divisor
        from n to 2n: what comes nearer to 1/n is taken.
        """
        sides = out_size, in_size
        n_out, n_in = (_largest_divisor(side, n) for side in sides)
        order = cls(n_out, n_in, max(1, round(n_out * n_in / n)))
        if n_out * n_in == 1 or not min(sides) or abs(order.terms * n / (n_out * n_in) - 1) <= _ROUNDED:
            return order
        above = [next((d for d in range(n, 2 * n) if side % d == 0), 0) for side in sides]
        n_out, n_in = (up or down for up, down in zip(above, (n_out, n_in), strict=True))
        other = cls(n_out, n_in, max(1, round(n_out * n_in / n)))
        wanted = out_size * in_size / n
        return min(order, other, key=lambda form: abs(math.log(form.parameters(sides) / wanted)))

    @classmethod
    def low_rank(cls, rank: int) -> Order:
        """A low-rank weight without Kronecker products."""
        return cls(1, 1, 0, rank)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a weight of shape (out, in, *kernel) divides into such blocks and can have that rank."""
        blocks = shape[0] % self.n_out == 0 and shape[1] % self.n_in == 0
        return blocks and self.rank <= min(shape[0], math.prod(shape[1:]))

    def parameters(self, shape: Sequence[int]) -> int:
        """How many numbers the factors hold for a weight of this shape (out, in, *kernel)."""
        blocks, columns = self.n_out * self.n_in, math.prod(shape[1:])
        return self.terms * (blocks + shape[0] * columns // blocks) + self.rank * (shape[0] + columns)

    def __str__(self) -> str:
        kronecker = f"order ({self.n_out}, {self.n_in}) with {self.terms} terms" if self.terms else ""
        return " and ".join(filter(None, [kronecker, f"rank {self.rank}" if self.rank else ""]))


class Factors(NamedTuple):
    """A (terms, n_out, n_in), S (terms, out/n_out, in/n_in, *kernel), U (out, rank), V (rank, in, *kernel).

    U and V are None where the rank is 0; without terms, A is (0, 1, 1) and S is (0, out, in, *kernel).
    """

    A: Tensor
    S: Tensor
    U: Tensor | None = None
    V: Tensor | None = None

    @property
    def order(self) -> Order:
        """The order they have."""
        terms, n_out, n_in = self.A.shape
        return Order(n_out, n_in, terms, 0 if self.U is None else self.U.shape[1])

    @property
    def entries(self) -> int:
        """How many numbers they hold."""
        return sum(factor.numel() for factor in self if factor is not None)

    def to(self, dtype: torch.dtype) -> Factors:
        """The same in another dtype."""
        U, V = (None if factor is None else factor.to(dtype) for factor in self[2:])
        return Factors(self.A.to(dtype), self.S.to(dtype), U, V)

    def detach(self) -> Factors:
        """The same without gradients."""
        U, V = (None if factor is None else factor.detach() for factor in self[2:])
        return Factors(self.A.detach(), self.S.detach(), U, V)


def _largest_divisor(size: int, limit: int) -> int:
    return next((d for d in range(min(size, limit), 0, -1) if size % d == 0), 1)


def compose(A: Tensor, S: Tensor, U: Tensor | None = None, V: Tensor | None = None) -> Tensor:
    """The weight Σ_r A_r ⊗ S_r + U V.

    Args:
        A: (terms, n_out, n_in).
        S: (terms, out/n_out, in/n_in, *kernel).
        U: (out, rank), or None.
        V: (rank, in, *kernel), or None.

    Returns:
        (out, in, *kernel), in the dtype of S. Half precision is computed in float32.
    """
    if S.dtype in (torch.float16, torch.bfloat16):
        return compose(*Factors(A, S, U, V).to(torch.float32)).to(S.dtype)
    if U is None or V is None:
        return _kronecker_sum(A, S)
    product = (U @ V.flatten(1)).view(U.shape[0], *V.shape[1:])
    return product + _kronecker_sum(A, S) if len(A) else product


def _kronecker_sum(A: Tensor, S: Tensor) -> Tensor:
    _, n_out, n_in = A.shape
    rows, columns, *kernel = S.shape[1:]
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
    """The nearest weight of an order, in closed form: inverse of `compose`.

    Without a low-rank term it minimises ‖W − Σ A_r ⊗ S_r‖. The left singular vectors of R(W) are the
    eigenvectors of its Gram matrix R Rᵀ, which has only (n_out·n_in)² entries; one more pass over the weight
    gives the filters. Time is linear in the size of the weight and extra memory is the result plus a bounded
    buffer. Without terms it is the truncated singular value decomposition of W, an eigenproblem of its
    smaller side. With both, the two alternate on what the other leaves, a few rounds from the low-rank end.

    Arithmetic is in float64. The terms come in order of falling weight, balanced (A_r and S_r have the same
    mean square, U and V too) and with the entry of largest magnitude in each A_r positive. Where nothing is
    left for a term, its S_r vanishes and its A_r does not, so that training can still move it.

    Van Loan & Pitsianis 1993, "Approximation with Kronecker products".

    Args:
        weight: (out, in, *kernel), any floating dtype.
        order: Blocks and terms; n_out divides out, n_in divides in.

    Returns:
        The factors, in the dtype and on the device of the weight.

    Raises:
        ValueError: the order does not fit the weight, or the weight holds NaN or infinity.
    """
    weight = _checked(weight, order)
    scale = _largest_magnitude(weight)
    if not order.rank:
        return _nearest_sum(weight, order, scale)
    U, V = truncated(weight, order.rank)
    A, S = _nothing(weight, order)[:2]
    if order.terms:
        whole = weight.double()
        for _ in range(_MIXED_ROUNDS):
            rest = whole - compose(A[:0], S[:0], U.double(), V.double())
            A, S = _nearest_sum(rest, order, _largest_magnitude(rest))[:2]
            U, V = truncated(whole - compose(A, S), order.rank)
    return Factors(A, S, U, V).to(weight.dtype)


def project(weight: Tensor, A: Tensor) -> Factors:
    """The nearest weight with a given algebra: the filters S = (Â Âᵀ)⁻¹ Â R(W), where Â has rows vec(A_r).

    Args:
        weight: (out, in, *kernel), any floating dtype.
        A: (terms, n_out, n_in); n_out divides out, n_in divides in.

    Returns:
        The factors, in the dtype and on the device of the weight.

    Raises:
        ValueError: the algebra does not fit the weight, or the weight holds NaN or infinity.
    """
    order = Order(A.shape[1], A.shape[2], len(A))
    weight = _checked(weight, order)
    inverse = torch.linalg.pinv(A.to(weight.device, torch.float64).flatten(1))
    return Factors(A.to(weight), _project(weight, order, inverse))


def common_algebra(weights: Sequence[Tensor], order: Order) -> Tensor:
    """The one algebra with which all weights can be approximated best, each with filters of its own.

    It minimises Σ ‖W − Σ A_r ⊗ S_r‖²/‖W‖²: the leading eigenvectors of the sum of the Gram matrices
    R Rᵀ/‖W‖². Its mean square is that of all filters together, as `project` finds them.

    Args:
        weights: Each (out, in, *kernel); at least one.
        order: Blocks and terms; it fits all weights.

    Returns:
        A (terms, n_out, n_in), in the dtype and on the device of the first weight.

    Raises:
        ValueError: the order does not fit a weight, or a weight holds NaN or infinity.
    """
    blocks = order.n_out * order.n_in
    grams = [_gram(_checked(weight, order), order, None, 1.0) for weight in weights]
    shares = [gram / gram.trace().clamp_min(torch.finfo(gram.dtype).tiny) for gram in grams]
    vectors = _eigenpairs(torch.stack([share.to(grams[0]) for share in shares]).sum(0))[0][:, : order.terms]
    held = sum(order.terms * weight.numel() // blocks for weight in weights)
    filters = sum(float((vectors.t() @ gram.to(vectors) @ vectors).trace()) for gram in grams) / held
    scale = (filters * blocks) ** 0.25 or 1.0
    A = (vectors * scale).t().reshape(order.terms, order.n_out, order.n_in)
    return A.to(weights[0].dtype).contiguous()


def _checked(weight: Tensor, order: Order) -> Tensor:
    """The weight without gradients, if it can be written in an order."""
    if weight.dim() < 2 or not order.fits(weight.shape):
        raise ValueError(f"{order} does not fit a weight of shape {tuple(weight.shape)}")
    weight = weight.detach()
    if not math.isfinite(_largest_magnitude(weight)):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} holds values that are not finite")
    return weight


def truncated(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product U V to a weight: its truncated singular value decomposition.

    Args:
        weight: (out, in, *kernel).
        rank: At most the smaller side.

    Returns:
        U (out, rank) and V (rank, in, *kernel), balanced, in the weight's dtype.
    """
    W = weight.flatten(1).double()
    if len(W) <= W.shape[1]:
        U = torch.linalg.eigh(W @ W.t())[1][:, -rank:].flip(1)
        V = U.t() @ W
    else:
        V = torch.linalg.eigh(W.t() @ W)[1][:, -rank:].flip(1).t()
        U = W @ V.t()
    U, V = _level(U.t(), V)
    return U.t().to(weight.dtype).contiguous(), V.view(rank, *weight.shape[1:]).to(weight.dtype)


def _nearest_sum(weight: Tensor, order: Order, scale: float) -> Factors:
    """The nearest Kronecker sum; `scale` is the largest magnitude in the weight."""
    if scale == 0:
        return _nothing(weight, order)
    wide = order.n_out * order.n_in <= weight.numel() // (order.n_out * order.n_in)
    many = order.terms > weight.numel() // (order.n_out * order.n_in)
    vectors, values = (_left_singular if wide or many else _left_singular_thin)(weight, order, scale)
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
    """The same weight with A_r and S_r of equal mean square in every term, and U and V likewise.

    A term of which one factor vanishes is left as it is.
    """
    A, S, U, V = factors
    A, S = _level(A, S)
    if U is None or V is None:
        return Factors(A, S)
    U, V = _level(U.t(), V)
    return Factors(A, S, U.t().contiguous(), V)


def _level(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs along the first axis scaled to equal mean squares, their products kept."""
    a, b = left.flatten(1).square().mean(1), right.flatten(1).square().mean(1)
    gain = torch.where((a > 0) & (b > 0), (b / a.clamp_min(torch.finfo(a.dtype).tiny)) ** 0.25, 1.0)
    spread = [gain.view(-1, *[1] * (factor.dim() - 1)) for factor in (left, right)]
    return left * spread[0], right / spread[1]


def _largest_magnitude(weight: Tensor) -> float:
    if not weight.numel():
        return 0.0
    low, high = weight.aminmax()
    return max(-low.item(), high.item())


def _nothing(weight: Tensor, order: Order) -> Factors:
    """Factors of a zero weight: each term holds another block, all filters are zero."""
    blocks = order.n_out * order.n_in
    A = torch.eye(blocks, dtype=weight.dtype, device=weight.device)[: order.terms]
    return Factors(A.view(order.terms, order.n_out, order.n_in), empty_factors(weight, order).S.zero_())


def empty_factors(weight: Tensor, order: Order, device: torch.device | None = None) -> Factors:
    """Factors of an order for a weight (out, in, *kernel), not filled; by default on its device."""
    out, columns, *kernel = weight.shape
    A = weight.new_empty(order.terms, order.n_out, order.n_in, device=device)
    S = weight.new_empty(order.terms, out // order.n_out, columns // order.n_in, *kernel, device=device)
    if not order.rank:
        return Factors(A, S)
    U = weight.new_empty(out, order.rank, device=device)
    return Factors(A, S, U, weight.new_empty(order.rank, columns, *kernel, device=device))


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


def _left_singular_thin(weight: Tensor, order: Order, scale: float) -> tuple[Tensor, Tensor]:
    """As `_left_singular`, for more blocks than positions within a block."""
    R = rearrange(weight, order.n_out, order.n_in).double() / scale
    if weight.dtype == torch.float64:
        left, values, _ = torch.linalg.svd(R, full_matrices=False)
        return left, values
    right, values = _eigenpairs(R.t() @ R)
    left = R @ right
    return left / left.norm(dim=0).clamp_min(torch.finfo(left.dtype).tiny), values


def _eigenpairs(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (in columns) and square roots of the eigenvalues of a Gram matrix, largest first."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt()


def _project(weight: Tensor, order: Order, basis: Tensor) -> Tensor:
    """The filters basisᵀ·R(W): (terms, out/n_out, in/n_in, *kernel), in the dtype of the weight."""
    S = empty_factors(weight, order).S
    for part, piece in _chunks(weight, order.n_out):
        rows = rearrange(piece, order.n_out, order.n_in).double()
        S[:, part] = (basis.t() @ rows).view(S[:, part].shape).to(S.dtype)
    return S


def relative_error(weight: Tensor, approximation: Tensor) -> float:
    """‖W − Ŵ‖ / ‖W‖ in float64; 0 for two zero weights, infinity for an approximation of zero that is not."""
    weight, approximation = weight.detach().double(), approximation.detach().double()
    return _ratio(float((weight - approximation).square().sum()), float(weight.square().sum()))


def factorization_error(weight: Tensor, factors: Factors) -> float:
    """‖W − Ŵ‖ / ‖W‖ as `relative_error`, without holding the composed weight Ŵ."""
    A, S, U, V = factors.detach()
    n_out = factors.A.shape[1]
    lost = total = 0.0
    for part, piece in _chunks(weight.detach(), n_out):
        rows = None if U is None else U.view(n_out, -1, U.shape[1])[:, part].flatten(0, 1)
        approximation = compose(A, S[:, part], rows, V)
        lost += float((piece.double() - approximation.double()).square().sum())
        total += float(piece.double().square().sum())
    return _ratio(lost, total)


def _ratio(lost: float, total: float) -> float:
    return math.sqrt(lost / total) if total else (math.inf if lost else 0.0)
