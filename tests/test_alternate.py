"""Alternating least squares: never rising, exact where it can be, each step as brute force has it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phnnify.algebra import Factors, Order, compose
from phnnify.alternate import (
    Problem,
    low_rank_losses,
    nearest,
    nearest_filters,
    solve_algebra,
    solve_filters,
)
from phnnify.calibrate import Statistics
from phnnify.factorization import factorize


def problem(
    seed: int, order: Order, rows: int, columns: int, samples: int
) -> tuple[Tensor, Tensor, Statistics]:
    """A random weight, inputs whose directions differ in size, and their statistics."""
    generator = torch.Generator().manual_seed(seed)
    k = columns * order.n_in
    weight = torch.randn(rows * order.n_out, k, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, k, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, k)
    x = x @ torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0]
    C, D = x.t() @ x / samples, x.t() @ (x @ weight.t()) / samples
    zero = torch.zeros(k, dtype=torch.float64)
    energy = float((x @ weight.t()).square().sum() / samples)
    return (
        weight,
        x,
        Statistics(
            C[None],
            D[None],
            energy,
            torch.zeros(1, len(weight), dtype=torch.float64),
            zero[None],
            False,
            samples,
        ),
    )


problems = st.tuples(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)).map(
        lambda o: Order(o[0], o[1], min(o[2], o[0] * o[1]))
    ),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 40),
)


@settings(deadline=None, max_examples=40)
@given(problems)
def test_the_loss_never_rises_from_step_to_step(case: tuple[int, Order, int, int, int]) -> None:
    weight, _, statistics = problem(*case)
    order = case[1]
    assert statistics.D is not None
    C = statistics.C[0] + 1e-3 * torch.eye(weight.shape[1], dtype=torch.float64)
    D = statistics.D[0] + 1e-3 * weight.t()
    A, S, *_ = factorize(weight, order)
    S = S.flatten(2)
    losses = [loss(A, S, C, D)]
    for _ in range(4):
        S = solve_filters(A, C, D)
        losses.append(loss(A, S, C, D))
        A = solve_algebra(S, C, D, order.n_out)
        losses.append(loss(A, S, C, D))
    size = max(map(abs, losses)) + 1e-9
    assert all(after <= before + 1e-7 * size for before, after in itertools.pairwise(losses))


def loss(A: Tensor, S: Tensor, C: Tensor, D: Tensor) -> float:
    W = compose(A, S)
    return float((W @ C @ W.t()).diagonal().sum() - 2 * (W @ D).diagonal().sum())


def test_each_step_is_the_brute_force_least_squares() -> None:
    order = Order(3, 2, 4)
    weight, x, statistics = problem(5, order, 4, 3, 60)
    A, S, *_ = factorize(weight, order)
    wanted = (x @ weight.t()).T.reshape(-1).numpy()

    def design(parts: list[Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.stack([(x @ part.t()).T.reshape(-1).numpy() for part in parts], 1)

    unit = torch.eye(S[0].numel(), dtype=torch.float64).reshape(-1, *S.shape[1:])
    filters = design([torch.kron(a, u) for a in A for u in unit])
    assert statistics.D is not None
    C, D = statistics.C[0], statistics.D[0]
    found = solve_filters(A, C, D)
    np.testing.assert_allclose(
        found.numpy().ravel(), np.linalg.lstsq(filters, wanted, rcond=None)[0], rtol=1e-4, atol=1e-5
    )
    unit = torch.eye(A[0].numel(), dtype=torch.float64).reshape(-1, *A.shape[1:])
    algebra = design([torch.kron(u, s) for s in found for u in unit])
    np.testing.assert_allclose(
        solve_algebra(found, C, D, order.n_out).numpy().ravel(),
        np.linalg.lstsq(algebra, wanted, rcond=None)[0], rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def posed(seed: int, shape: tuple[int, ...]) -> Problem:
    """A problem whose wanted outputs are not quite those of any weight: the inputs have moved."""
    generator = torch.Generator().manual_seed(seed)
    out, k = shape[0], math.prod(shape[1:])
    x = torch.randn(3 * k, k, generator=generator, dtype=torch.float64) * torch.logspace(0, -1, k)
    y = x @ torch.randn(k, out, generator=generator, dtype=torch.float64)
    moved = x + 0.1 * torch.randn(3 * k, k, generator=generator, dtype=torch.float64)
    C, D = moved.t() @ moved / len(x), moved.t() @ y / len(x)
    return Problem(C, D, float(y.square().sum()) / len(x), shape[1:])


FORMS = [Order(2, 2, 2), Order(4, 3, 2, 1), Order(8, 2, 3, 2), Order.low_rank(3), Order(1, 6, 2, 1)]


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (16, 6)])
@pytest.mark.parametrize("order", FORMS, ids=str)
def test_more_rounds_never_lose_more_and_the_loss_is_that_of_the_factors(
    order: Order, shape: tuple[int, ...]
) -> None:
    task = posed(1, shape)
    results = [nearest(task, order, rounds) for rounds in (1, 2, 4, 8)]
    for (factors, loss), (_, later) in itertools.pairwise(results):
        assert later <= loss + 1e-9 * task.energy
        assert factors.order == order
        assert loss == pytest.approx(task.loss(compose(*factors).flatten(1)), rel=1e-9)
    assert results[-1][1] >= task.least - 1e-9 * task.energy


@pytest.mark.parametrize("shape", [(8, 6), (4, 12), (4, 2, 3)])
def test_low_rank_losses_are_those_of_the_low_rank_weights(shape: tuple[int, ...]) -> None:
    task = posed(2, shape)
    losses = low_rank_losses(task)
    side = min(shape[0], math.prod(shape[1:]))
    assert len(losses) == side + 1
    assert losses[0] == pytest.approx(task.energy)
    assert losses[-1] == pytest.approx(task.least, rel=1e-6)
    for rank in (1, side // 2):
        assert losses[rank] == pytest.approx(nearest(task, Order.low_rank(rank), 1)[1], rel=1e-6)


def test_no_low_rank_weight_does_better_by_descent() -> None:
    task = posed(3, (5, 7))
    U, V = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((5, 2), (2, 7)))
    optimizer = torch.optim.LBFGS([U, V], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        W = U @ V
        loss = ((W @ task.C) * W).sum() - 2 * (W * task.D.t()).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert float(low_rank_losses(task)[2]) <= task.loss((U @ V).detach()) + 1e-6 * task.energy


@pytest.mark.parametrize("order", [Order(2, 3, 2, 1), Order(4, 2, 3)], ids=str)
def test_a_weight_of_the_order_is_found_exactly(order: Order) -> None:
    torch.manual_seed(0)
    factors = [
        torch.randn(order.terms, order.n_out, order.n_in),
        torch.randn(order.terms, 8 // order.n_out, 12 // order.n_in),
    ]
    factors += [20 * torch.randn(8, 1), torch.randn(1, 12)] if order.rank else []
    weight = compose(*Factors(*factors)).double()
    C = posed(4, (8, 12)).C
    task = Problem(C, C @ weight.t(), float((weight @ C @ weight.t()).trace()), (12,))
    assert nearest(task, order, 200)[1] < 1e-3 * task.energy if order.rank else 1e-9 * task.energy


def test_iteration_stands_in_for_large_eigenproblems(monkeypatch: pytest.MonkeyPatch) -> None:
    task, order = posed(5, (12, 10)), Order(4, 2, 2, 3)
    exact = nearest(task, order, 12)[1]
    monkeypatch.setattr("phnnify.alternate._EXACT_SIDE", 4)
    assert nearest(task, order, 12)[1] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("order", FORMS, ids=str)
def test_a_diagonal_covariance_is_solved_as_the_matrix_that_it_is(order: Order) -> None:
    whole = posed(6, (8, 6, 3))
    diagonal = whole.C.diagonal()
    W = whole.best
    narrow = Problem(diagonal, (W * diagonal).t(), float((W * W * diagonal).sum()), (6, 3))
    wide = Problem(diagonal.diag(), narrow.D, narrow.energy, (6, 3))
    torch.testing.assert_close(narrow.best, wide.best)
    torch.testing.assert_close(low_rank_losses(narrow), low_rank_losses(wide))
    for rounds in (1, 5):
        found, loss = nearest(narrow, order, rounds)
        wanted, least = nearest(wide, order, rounds)
        assert loss == pytest.approx(least, rel=1e-5)
        torch.testing.assert_close(compose(*found), compose(*wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_nearest_filters_are_a_stationary_point_and_have_the_weights_shape(diagonal: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8 * 3, dtype=torch.float64, generator=draw)
    W = torch.randn(6, 8, 3, dtype=torch.float64, generator=draw)
    C = x.t() @ x / 200
    C = C.diagonal().clone() if diagonal else C
    flat = W.flatten(1)
    product = flat * C if diagonal else flat @ C
    problem = Problem(C, product.t(), float((product * flat).sum()), (8, 3))
    A = torch.randn(3, 2, 4, dtype=torch.float64, generator=draw)
    S = nearest_filters(problem, A).requires_grad_()
    assert S.shape == (3, 3, 2, 3)
    W_hat = compose(A, S).flatten(1)
    loss = (problem.times(W_hat) * W_hat).sum() - 2 * (W_hat * problem.D.t()).sum()
    (gradient,) = torch.autograd.grad(loss, S)
    torch.testing.assert_close(gradient, torch.zeros_like(S), atol=1e-7, rtol=0)
