"""The search for the form of one weight."""

from __future__ import annotations

import math

import pytest
import torch

from phnnify.algebra import Factors, Order, compose
from phnnify.alternate import Problem, nearest
from phnnify.search import Search, _divisors


def posed(weight: torch.Tensor, seed: int = 0) -> Problem:
    """To do what a weight does, under inputs with some strong directions."""
    k = weight[0].numel()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * k, k, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, k)
    C = x.t() @ x / len(x)
    W = weight.flatten(1).double()
    return Problem(C, C @ W.t(), float((W @ C @ W.t()).trace()), tuple(weight.shape[1:]))


def of_form(order: Order, shape: tuple[int, ...]) -> torch.Tensor:
    torch.manual_seed(0)
    A = torch.randn(order.terms, order.n_out, order.n_in)
    S = torch.randn(order.terms, shape[0] // order.n_out, shape[1] // order.n_in, *shape[2:])
    if not order.rank:
        return compose(A, S)
    return compose(A, S, torch.randn(shape[0], order.rank), torch.randn(order.rank, *shape[1:]))


@pytest.mark.parametrize(
    "order", [Order(16, 4, 3), Order(4, 4, 2), Order.low_rank(3), Order(1, 8, 3)], ids=str
)
@pytest.mark.parametrize("shape", [(32, 16, 3), (32, 16)])
def test_the_form_that_a_weight_has_is_found(order: Order, shape: tuple[int, ...]) -> None:
    weight = of_form(order, shape)
    found = Search(posed(weight)).best(order.parameters(shape))
    assert found is not None
    assert found.parameters <= order.parameters(shape)
    assert found.loss < 1e-3


@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("thorough", [True, False])
def test_nothing_is_behind_low_rank_and_the_papers_form(n: int, thorough: bool) -> None:
    torch.manual_seed(1)
    weight = torch.randn(16, 24, 3) @ torch.randn(3, 3)
    problem, papers = posed(weight), Order.closest(16, 24, n)
    size = papers.parameters(weight.shape)
    search = Search(problem)
    found = search.best(size, n, thorough=thorough)
    low = search.low_rank(size)
    assert found is not None
    assert low is not None
    assert found.parameters <= size
    assert found.loss <= low.loss + 1e-9
    assert found.loss <= 1.05 * nearest(problem, papers, 2)[1] / problem.energy + 1e-9
    assert found.loss == pytest.approx(
        problem.loss(compose(*search.factors(found.order)).flatten(1)) / problem.energy, rel=0.05, abs=1e-3
    )


def test_no_form_is_smaller_than_the_smallest() -> None:
    search = Search(posed(torch.randn(8, 8)))
    assert search.best(3) is None
    smallest = search.best(20)
    assert smallest is not None
    assert smallest.parameters <= 20


def test_zero_weights_and_prime_sides_are_served() -> None:
    found = Search(posed(torch.randn(7, 11))).best(40)
    assert found is not None
    assert found.parameters <= 40
    zero = Search(posed(torch.zeros(8, 8))).best(40)
    assert zero is None or math.isfinite(zero.loss)


def test_a_diagonal_covariance_is_searched_too() -> None:
    weight = of_form(Order(4, 4, 2), (16, 16))
    C = torch.logspace(0, -1, 16, dtype=torch.float64)
    W = weight.double()
    problem = Problem(C, (W * C).t(), float((W * W * C).sum()), (16,))
    found = Search(problem).best(Order(4, 4, 2).parameters((16, 16)))
    assert found is not None
    assert found.loss < 1e-3


def test_divisions_reach_single_rows_and_are_fewer_for_large_weights() -> None:
    assert sorted(_divisors(200, 1000)) == [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 200]
    assert _divisors(4096, 1 << 24) == [1, 2, 4, 8, 16, 32]


def test_the_same_weight_gives_the_same_form() -> None:
    weight = torch.randn(16, 16, 3, generator=torch.Generator().manual_seed(4))
    assert Search(posed(weight)).best(200) == Search(posed(weight)).best(200)


def test_factors_have_the_order_asked_for() -> None:
    factors = Search(posed(torch.randn(8, 8))).factors(Order(2, 2, 1, 1))
    assert isinstance(factors, Factors)
    assert factors.order == Order(2, 2, 1, 1)
