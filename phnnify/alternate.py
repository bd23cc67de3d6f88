"""Alternating exact least squares: the factors that come nearest to a wanted weight under a covariance.

    minimise  E|y − Ŵ x|² = tr(Ŵ C Ŵᵀ) − 2 tr(Ŵ D) + E|y|²,    Ŵ = Σ_r A_r ⊗ S_r + U V

with C = E[x xᵀ] of shape (k, k) and D = E[x yᵀ] of shape (k, out). Each step is the exact minimum over one
part, the others fixed, so the loss never rises:

- filters S: a system of side terms·k/n_in, from Σ_i M_i C M_iᵀ with M_i[(r, a), (j, b)] = A_r[i, j]·δ(a, b);
- algebra A: a system of side terms·n_in;
- low-rank term: W* = (C⁻¹ D)ᵀ less the Kronecker sum, truncated in the norm of C.

For an input too wide for a covariance C is a diagonal, and the systems fall apart into small ones of side
terms, for each position within a block and for each block.

Both systems are the same for all outputs. In the rearrangement of C with one row per pair of blocks (j, l)
and one column per pair of positions (a, b) they are one matrix product each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from phnnify.algebra import Factors, Order, balanced, compose
from phnnify.factorization import factorize

_PROGRESS = 1e-4  # a round that gains less than this part of the squared error is the last
_JITTER = 1e-10  # of the mean diagonal of a system, in case that terms coincide
_NOTHING = 1e-13  # of a system's largest eigenvalue
_EXACT_SIDE = 512  # up to here a truncation is an eigenproblem each round, beyond it is improved by iteration


@dataclass(frozen=True)
class Problem:
    """What a weight is to do: in float64.

    Attributes:
        C: (k, k), positive definite; or (k,), its diagonal.
        D: (k, out).
        energy: E|y|².
        kernel: The axes (in, *kernel) that k stands for.
    """

    C: Tensor
    D: Tensor
    energy: float
    kernel: tuple[int, ...]

    @cached_property
    def _triangle(self) -> Tensor:
        """The lower Cholesky factor of C."""
        factor: Tensor = self.C.sqrt() if self.C.dim() == 1 else torch.linalg.cholesky(self.C)
        return factor

    @cached_property
    def best(self) -> Tensor:
        """W* = (C⁻¹ D)ᵀ, the weight that is best without any constraint: (out, k)."""
        if self.C.dim() == 1:
            return (self.D / self.C[:, None]).t().contiguous()
        return torch.cholesky_solve(self.D, self._triangle).t().contiguous()

    @property
    def spread(self) -> Tensor:
        """The roots of C's diagonal: (k,)."""
        return (self.C if self.C.dim() == 1 else self.C.diagonal()).sqrt()

    def times(self, W: Tensor) -> Tensor:
        """W C for a weight (out, k)."""
        return W * self.C if self.C.dim() == 1 else W @ self.C

    def scaled(self, W: Tensor) -> Tensor:
        """W L with C = L Lᵀ, whose norm is what a weight (out, k) loses."""
        return W * self._triangle if self.C.dim() == 1 else W @ self._triangle

    @cached_property
    def least(self) -> float:
        """The loss of `best`."""
        return self.energy - float((self.best * self.D.t()).sum())

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in, *kernel)."""
        return (self.D.shape[1], *self.kernel)

    def loss(self, W: Tensor) -> float:
        """E|y − W x|² of a weight (out, k)."""
        return self.energy + float((self.times(W) * W).sum() - 2 * (W * self.D.t()).sum())


def nearest(
    problem: Problem, order: Order, rounds: int, start: Factors | None = None
) -> tuple[Factors, float]:
    """The factors of an order that lose least, and their loss; balanced.

    Args:
        problem: What the weight is to do.
        order: Blocks, terms and rank; it fits the problem's shape.
        rounds: At most so many, of one step for each part.
        start: Kronecker products to start from, where the rank is 0; by default the closed form of what the
            low-rank term leaves of `best`.
    """
    W = problem.best
    U, V = _truncated(problem, W, order.rank)
    if not order.terms:
        S = W.new_empty(0, *problem.shape)
        return balanced(Factors(W.new_empty(0, 1, 1), S, U, V.view(-1, *problem.kernel))), problem.loss(U @ V)
    if start is None or order.rank:
        rest = (W - U @ V).view(problem.shape)
        start = factorize(rest.float(), Order(order.n_out, order.n_in, order.terms))
    A, S = start.A.to(W.dtype), start.S.to(W.dtype).flatten(2)
    C = _pairs(problem.C, order.n_in)
    last = loss = math.inf
    for _ in range(rounds):
        D = _blocks(
            problem.D - problem.times(U @ V).t() if order.rank else problem.D, order.n_out, order.n_in
        )
        S = _filters(A, C, D)
        A = _algebra(S, C, D)
        K = compose(A, S)
        if order.rank:
            U, V = _truncated(problem, W - K, order.rank, U)
            K = K + U @ V
        last, loss = loss, problem.loss(K)
        if last - loss <= _PROGRESS * max(loss, 0.0):
            break
    S = S.view(*S.shape[:2], -1, *problem.kernel[1:])
    found = Factors(A, S, U, V.view(-1, *problem.kernel)) if order.rank else Factors(A, S)
    return balanced(found), loss


def nearest_filters(problem: Problem, A: Tensor) -> Tensor:
    """The filters (terms, out/n_out, in/n_in, *kernel) that lose least with A (terms, n_out, n_in)."""
    S = solve_filters(A, problem.C, problem.D)
    return S.view(*S.shape[:2], -1, *problem.kernel[1:])


def low_rank_losses(problem: Problem) -> Tensor:
    """The least loss of every rank from 0 to the smaller side, exactly: (min(out, k) + 1,)."""
    M = problem.scaled(problem.best)
    squares = torch.linalg.eigvalsh(M @ M.t() if len(M) <= M.shape[1] else M.t() @ M).flip(0).clamp_min(0)
    captured = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
    losses: Tensor = problem.least + (squares.sum() - captured).clamp_min(0)
    return losses


def _truncated(problem: Problem, R: Tensor, rank: int, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """U (out, rank), V (rank, k): nearest to R (out, k) in the norm of C.

    With U's columns orthonormal the best V is Uᵀ R, and U spans the leading eigenvectors of R C Rᵀ. For large
    sides `start` is improved by orthogonal iteration, which never loses.
    """
    out, k = R.shape
    if not rank:
        return R.new_empty(out, 0), R.new_empty(0, k)
    if start is not None and min(out, k) > _EXACT_SIDE:
        U = start
        for _ in range(2):
            U = torch.linalg.qr(R @ problem.times(U.t() @ R).t())[0]
    elif out <= k:
        U = torch.linalg.eigh(problem.times(R) @ R.t())[1][:, -rank:]
    else:
        M = problem.scaled(R)
        U = torch.linalg.qr(M @ torch.linalg.eigh(M.t() @ M)[1][:, -rank:])[0]
    return U, U.t() @ R


def solve_filters(A: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The best filters for a given algebra: one factorisation, one right-hand side for each output row.

    Args:
        A: (terms, n_out, n_in).
        C: (k, k), positive definite; or (k,), its diagonal.
        D: (k, out), the covariance of the inputs with the wanted outputs.

    Returns:
        S: (terms, out/n_out, k/n_in).
    """
    _, n_out, n_in = A.shape
    return _filters(A, _pairs(C, n_in), _blocks(D, n_out, n_in))


def solve_algebra(S: Tensor, C: Tensor, D: Tensor, n_out: int) -> Tensor:
    """The best algebra for given filters: one system for all of its rows.

    Args:
        S: (terms, out/n_out, k/n_in).
        C: (k, k), positive definite.
        D: (k, out).
        n_out: The number of blocks down.

    Returns:
        A: (terms, n_out, n_in).
    """
    n_in = len(C) // S.shape[2]
    return _algebra(S, _pairs(C, n_in), _blocks(D, n_out, n_in))


def _pairs(C: Tensor, n_in: int) -> Tensor:
    """C by pairs of blocks (j, l) and pairs of positions (a, b): (n_in², (k/n_in)²).

    A diagonal C by blocks and positions, (1, n_in, k/n_in).
    """
    width = len(C) // n_in
    if C.dim() == 1:
        return C.view(1, n_in, width)
    return C.view(n_in, width, n_in, width).transpose(1, 2).reshape(n_in * n_in, width * width)


def _blocks(D: Tensor, n_out: int, n_in: int) -> Tensor:
    """D by blocks (i, j) and positions (a, p): (n_out, n_in, k/n_in, out/n_out)."""
    k, out = D.shape
    return D.view(n_in, k // n_in, n_out, out // n_out).permute(2, 0, 1, 3).contiguous()


def _filters(A: Tensor, C: Tensor, D: Tensor) -> Tensor:
    terms, n_out, n_in = A.shape
    width, rows = D.shape[2:]
    if C.dim() == 3:
        gram = torch.einsum("rij,sij->jrs", A, A)
        wanted = torch.einsum("rij,ijap->arp", A, D)
        return _solve_many(torch.einsum("jrs,ja->ars", gram, C[0]), wanted).permute(1, 2, 0).contiguous()
    flat = A.transpose(0, 1).reshape(n_out, terms * n_in)
    gram = (flat.t() @ flat).view(terms, n_in, terms, n_in).transpose(1, 2).reshape(-1, n_in * n_in)
    normal = (gram @ C).view(terms, terms, width, width).transpose(1, 2).reshape(terms * width, -1)
    wanted = A.flatten(1) @ D.flatten(2).flatten(0, 1)
    S = _solve(normal, wanted.view(terms * width, rows))
    return S.view(terms, width, rows).transpose(1, 2).contiguous()


def _algebra(S: Tensor, C: Tensor, D: Tensor) -> Tensor:
    terms, rows, width = S.shape
    n_out, n_in = D.shape[:2]
    if C.dim() == 3:
        gram = torch.einsum("rpa,spa->ars", S, S)
        wanted = torch.einsum("rpa,ijap->jri", S, D)
        return _solve_many(torch.einsum("ars,ja->jrs", gram, C[0]), wanted).permute(1, 2, 0).contiguous()
    flat = S.transpose(0, 1).reshape(rows, terms * width)
    gram = (flat.t() @ flat).view(terms, width, terms, width).transpose(1, 2).reshape(-1, width * width)
    normal = (gram @ C.t()).view(terms, terms, n_in, n_in).transpose(1, 2).reshape(terms * n_in, -1)
    wanted = S.transpose(1, 2).flatten(1) @ D.flatten(2).flatten(0, 1).t()
    A = _solve(normal, wanted.view(terms, n_out, n_in).transpose(1, 2).reshape(terms * n_in, n_out))
    return A.view(terms, n_in, n_out).transpose(1, 2).contiguous()


def _solve(normal: Tensor, wanted: Tensor) -> Tensor:
    jitter = _JITTER * normal.diagonal().mean() + torch.finfo(normal.dtype).tiny
    normal = normal + jitter * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    triangle, failed = torch.linalg.cholesky_ex(normal)
    if not failed:
        return torch.cholesky_solve(wanted, triangle)
    return _solve_many(normal, wanted)


def _solve_many(normal: Tensor, wanted: Tensor) -> Tensor:
    """One system or a batch of them, with directions of no weight left at zero."""
    values, vectors = torch.linalg.eigh(normal)
    inverse = torch.where(values > _NOTHING * values[..., -1:].abs(), 1 / values, 0.0)
    solution: Tensor = vectors @ (inverse[..., None] * (vectors.mT @ wanted))
    return solution
