"""Which form of a weight loses least at a given size: how many blocks, terms, and what rank.

A weight of the size of order n may also be a low-rank product, a Kronecker sum with more and other blocks
(rectangular ones too, up to single rows and columns), or both. All of them are tried under the covariance C
of the inputs, in three steps that each cost less for more candidates:

1. low rank: the losses of all ranks are exact, from the singular values of W* C^½;
2. blocks: for every division into n_out × n_in blocks, the part of R(W* · diag(C)^½) beyond the terms that
   the size allows ranks the divisions; no fit is needed for that;
3. the best few divisions are fitted for two rounds, the best of these with part of the size given to a rank
   too, and the best of all for more rounds.

The systems of a fit have a side of at most the layer's inputs (or `_SIDE`), so that the time of a site is
cubic in its width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phnnify.algebra import Factors, Order, rearrange
from phnnify.alternate import Problem, low_rank_losses, nearest

_DIVISORS = 64  # sides are divided into so many parts at most, or into single rows and columns
_FEWER_DIVISORS = (1, 2, 3, 4, 8, 16, 32)  # of weights with more numbers than `_LARGE`
_LARGE = 1 << 19
_HUGE = 1 << 22  # numbers of a weight above which only low rank and the papers' form are compared
_GRAM = 1024  # side of the Gram matrices whose spectrum ranks divisions
_SIDE = 1024  # side of a fit's systems that is always permitted
_FITTED = 6  # divisions that are fitted
_FEW = 3  # where many sizes are searched
_PARTS = (0.75, 0.5, 0.25)  # of the size, for Kronecker products beside a low-rank term
_HOPELESS = 2.0  # times the loss of low rank: what loses more after two rounds is not pursued
_ROUNDS = 6
_TIE = 0.05  # low rank, which runs fastest, is taken where others lose hardly less


@dataclass(frozen=True)
class Form:
    """A form of one weight and what it loses: E|W x − Ŵ x|² / E|W x|² under the (regularised) statistics."""

    order: Order
    parameters: int
    loss: float


class Search:
    """The search for one weight; what does not depend on the size is computed once.

    Args:
        problem: What the weight is to do.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._low_rank = low_rank_losses(problem)
        self._tails: dict[tuple[int, int], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight, (out, in, *kernel)."""
        return self._problem.shape

    def factors(self, order: Order) -> Factors:
        """Those of that order which lose least."""
        return nearest(self._problem, order, _ROUNDS)[0]

    def best(self, size: int, n: int | None = None, *, thorough: bool = True) -> Form | None:
        """The form with at most `size` numbers that loses least (low rank where it is as good as that).

        None where none is so small.

        Args:
            size: In numbers.
            n: Also consider the papers' form of this n, if it is no larger.
            thorough: Fit more candidates, and for longer; weights with more numbers than `_LARGE` never are.
        """
        shape = self.shape
        thorough = thorough and math.prod(shape) <= _LARGE
        found = [form for form in [self.low_rank(size)] if form]
        limit = found[0].loss if found else math.inf
        tried = [self._fit(order, 2) for order in self._divisions(size, thorough)]
        if n and (papers := Order.closest(shape[0], shape[1], n)).parameters(shape) <= size:
            tried.append(self._fit(papers, 2))
        tried = sorted((form for form in tried if form.loss < _HOPELESS * limit), key=lambda form: form.loss)
        mixed = [
            self._fit(order, 2)
            for form in tried[: 2 if thorough else 1]
            for order in self._with_rank(form.order, size)
        ]
        tried = sorted([*tried, *mixed], key=lambda form: form.loss)
        found += [self._fit(form.order, _ROUNDS) for form in tried[:2]] if thorough else tried[:1]
        return min(found, key=lambda form: form.loss * (1 + _TIE * bool(form.order.terms)), default=None)

    def low_rank(self, size: int) -> Form | None:
        """The low-rank form with at most `size` numbers."""
        shape = self._problem.shape
        rank = min(size // (shape[0] + math.prod(shape[1:])), len(self._low_rank) - 1)
        if not rank:
            return None
        return self._form(Order.low_rank(rank), float(self._low_rank[rank]))

    def _fit(self, order: Order, rounds: int) -> Form:
        return self._form(order, nearest(self._problem, order, rounds)[1])

    def _form(self, order: Order, loss: float) -> Form:
        relative = max(loss, 0.0) / self._problem.energy if self._problem.energy > 0 else 0.0
        return Form(order, order.parameters(self._problem.shape), relative)

    def _divisions(self, size: int, thorough: bool) -> list[Order]:
        """The most promising Kronecker sums of at most `size` numbers; what is left over goes to a rank."""
        shape = self._problem.shape
        columns = math.prod(shape[1:])
        if math.prod(shape) > _HUGE:
            return []
        if self._tails is None:
            self._tails = _tails(self._problem)
        ranked = []
        for (n_out, n_in), tail in self._tails.items():
            terms = min(size // Order(n_out, n_in, 1).parameters(shape), len(tail) - 1)
            side = max(columns if thorough else columns // 2, _SIDE)
            if terms and terms * n_in <= side and terms * columns // n_in <= side:
                order = Order(n_out, n_in, terms)
                rank = (size - order.parameters(shape)) // (shape[0] + columns)
                ranked.append((float(tail[terms]), Order(n_out, n_in, terms, _bounded(rank, shape))))
        ranked.sort(key=lambda pair: (pair[0], str(pair[1])))
        return [order for _, order in ranked[: _FITTED if thorough else _FEW]]

    def _with_rank(self, order: Order, size: int) -> list[Order]:
        """The same division with fewer terms, and a rank for the rest of the size."""
        shape = self._problem.shape
        row = shape[0] + math.prod(shape[1:])
        orders = []
        for part in _PARTS:
            terms = round(order.terms * part)
            if not 0 < terms < order.terms:
                continue
            fewer = Order(order.n_out, order.n_in, terms)
            rank = _bounded((size - fewer.parameters(shape)) // row, shape)
            if rank > order.rank:
                orders.append(Order(order.n_out, order.n_in, terms, rank))
        return list(dict.fromkeys(orders))


def _bounded(rank: int, shape: Sequence[int]) -> int:
    return min(rank, shape[0], math.prod(shape[1:]))


def _tails(problem: Problem) -> dict[tuple[int, int], Tensor]:
    """By division (n_out, n_in): what is left of R(W* · diag(C)^½) after 0, 1, 2, … terms, squared."""
    out, columns, *_ = problem.shape
    W = (problem.best * problem.spread).view(problem.shape)
    tails = {}
    for n_out in _divisors(out, W.numel()):
        for n_in in _divisors(columns, W.numel()):
            blocks = n_out * n_in
            if blocks == 1 or min(blocks, W.numel() // blocks) > _GRAM:
                continue
            R = rearrange(W, n_out, n_in)
            gram = R @ R.t() if len(R) <= R.shape[1] else R.t() @ R
            squares = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
            captured = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
            tails[n_out, n_in] = (squares.sum() - captured).clamp_min(0)
    return tails


def _divisors(side: int, size: int) -> list[int]:
    if size > _LARGE:
        return [d for d in _FEWER_DIVISORS if side % d == 0]
    return [d for d in {*range(1, _DIVISORS + 1), side} if side % d == 0]
