r"""PHM mathematics on tensors: weights that are sums of Kronecker products, and perhaps a low-rank term.

    W = Σ_r A_r ⊗ S_r + U V,    r = 1 … terms

with the algebra `A` of shape (terms, n_out, n_in) and the filters `S` of shape
(terms, out/n_out, in/n_in, *kernel). `W` has shape (out, in, *kernel); the kernel axes ride along with
the second factor. With n_out = n_in = terms = n a weight keeps 1/n of its parameters. The low-rank term,
`U` of shape (out, rank) and `V` of shape (rank, in, *kernel), is the other end of the same family (a
Kronecker sum of order (out, 1)); where rank is 0 both are None, and where terms is 0 it stands alone.

Everything rests on one rearrangement (Van Loan & Pitsianis 1993): let R(W) have one row per block (i, j)
of W and one column per position within a block. Then R(Σ A_r ⊗ S_r) = Σ vec(A_r) vec(S_r)ᵀ, so that
Kronecker sums of t terms are matrices of rank t (`factorization` finds the nearest to a given weight).

Papers: PHM, arXiv 2102.08597; PHNNs, arXiv 2110.04176.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDED = 0.15  # of 1/n, up to which the share of an order may differ by rounding its terms


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
            got = f"{self.n_out}, {self.n_in}, {self.terms} terms and rank {self.rank}"
            raise ValueError(f"an order needs numbers of at least 1, and terms or a rank, got {got}")
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
    def sized(cls, shape: Sequence[int], n: int) -> Order:
        """The order that keeps about 1/n of a weight of shape (out, in, *kernel), its algebra counted too.

        That is `closest`, but where its A, which grows as n³, would hold more numbers than its S: there it is
        the one of the smaller orders, with terms for 1/n, whose size is nearest to 1/n.
        """
        order, size = cls.closest(shape[0], shape[1], n), math.prod(shape)
        if not size or (order.n_out * order.n_in) ** 2 <= size:
            return order
        most = min(n, math.isqrt(math.isqrt(size)) + 2)
        smaller = [cls.closest(shape[0], shape[1], m) for m in range(2, most)]
        below = {(form.n_out, form.n_in) for form in smaller} - {(1, 1)}
        forms = [cls(*blocks, max(1, round(math.prod(blocks) / n))) for blocks in sorted(below)]
        return min([order, *forms], key=lambda form: abs(math.log(form.parameters(shape) * n / size)))

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


def balanced(factors: Factors) -> Factors:
    """The same weight with A_r and S_r of equal mean square in every term, and U and V likewise.

    A term of which one factor vanishes is left as it is.
    """
    A, S, U, V = factors
    A, S = level(A, S)
    if U is None or V is None:
        return Factors(A, S)
    U, V = level(U.t(), V)
    return Factors(A, S, U.t().contiguous(), V)


def level(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs along the first axis scaled to equal mean squares, their products kept."""
    a, b = left.flatten(1).square().mean(1), right.flatten(1).square().mean(1)
    gain = torch.where((a > 0) & (b > 0), (b / a.clamp_min(torch.finfo(a.dtype).tiny)) ** 0.25, 1.0)
    spread = [gain.view(-1, *[1] * (factor.dim() - 1)) for factor in (left, right)]
    return left * spread[0], right / spread[1]


def empty_factors(weight: Tensor, order: Order, device: torch.device | None = None) -> Factors:
    """Factors of an order for a weight (out, in, *kernel), not filled; by default on its device."""
    out, columns, *kernel = weight.shape
    A = weight.new_empty(order.terms, order.n_out, order.n_in, device=device)
    S = weight.new_empty(order.terms, out // order.n_out, columns // order.n_in, *kernel, device=device)
    if not order.rank:
        return Factors(A, S)
    U = weight.new_empty(out, order.rank, device=device)
    return Factors(A, S, U, weight.new_empty(order.rank, columns, *kernel, device=device))


def relative_error(weight: Tensor, approximation: Tensor) -> float:
    """‖W − Ŵ‖ / ‖W‖ in float64; 0 for two zero weights, infinity for an approximation of zero that is not."""
    weight, approximation = weight.detach().double(), approximation.detach().double()
    return error_ratio(float((weight - approximation).square().sum()), float(weight.square().sum()))


def error_ratio(lost: float, total: float) -> float:
    """sqrt(lost/total) of sums of squares; 0 where both vanish, infinity where only the total does."""
    return math.sqrt(lost / total) if total else (math.inf if lost else 0.0)
