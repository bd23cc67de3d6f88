"""Factors from weights, and from what the weights compute."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from phnnify.algebra import Factors, Order, compose, factorize
from phnnify.calibrate import Statistics, gather
from phnnify.errors import ModelError
from phnnify.fit import fit_to_data, fit_weights, solve_algebra, solve_filters

WEIGHTS = {
    "a": torch.randn(16, 8, generator=torch.Generator().manual_seed(0)),
    "b": torch.randn(8, 12, 3, generator=torch.Generator().manual_seed(1)).bfloat16(),
}
ORDERS = {"a": Order(4, 4, 4), "b": Order(2, 3, 2)}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_fit_is_the_closed_form_with_the_error_that_numpy_finds(name: str) -> None:
    fit = fit_weights(WEIGHTS, ORDERS)[name]
    wanted = factorize(WEIGHTS[name], ORDERS[name])
    assert torch.equal(fit.factors.A, wanted.A)
    assert torch.equal(fit.factors.S, wanted.S)
    w, approximation = WEIGHTS[name].double().numpy(), compose(*fit.factors).double().numpy()
    assert fit.weight_error == pytest.approx(np.linalg.norm(w - approximation) / np.linalg.norm(w), rel=1e-9)
    assert fit.output_error is None


def test_only_weights_with_an_order_are_fitted() -> None:
    assert list(fit_weights(WEIGHTS, {"b": ORDERS["b"]})) == ["b"]


def test_progress_is_told_in_numbers_of_weight_entries() -> None:
    told: list[tuple[int, int, str]] = []
    fit_weights(WEIGHTS, ORDERS, lambda *what: told.append(what))
    assert told == [(0, 128 + 288, "a"), (128, 128 + 288, "b"), (128 + 288, 128 + 288, "")]


def test_a_weight_that_is_not_finite_is_named() -> None:
    bad = WEIGHTS["a"].clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"a cannot be fitted: .*not finite") as caught:
        fit_weights({"a": bad}, {"a": ORDERS["a"]})
    assert "--exclude 'a'" in (caught.value.hint or "")


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
        Statistics(C, D, energy, torch.zeros(len(weight), dtype=torch.float64), zero, False, samples),
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
def test_a_fit_to_data_is_never_worse_than_the_closed_form(case: tuple[int, Order, int, int, int]) -> None:
    weight, x, statistics = problem(*case)
    start = factorize(weight, case[1])
    fit = fit_to_data(weight, start, statistics)
    assert fit.output_error is not None
    assert fit.closed_form_error is not None
    assert fit.output_error <= fit.closed_form_error
    for error, factors in ((fit.output_error, fit.factors), (fit.closed_form_error, start)):
        wanted = x @ weight.t()
        lost = (wanted - x @ compose(*factors).t()).norm() / wanted.norm()
        assert error == pytest.approx(float(lost), rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(problems)
def test_the_loss_never_rises_from_step_to_step(case: tuple[int, Order, int, int, int]) -> None:
    weight, _, statistics = problem(*case)
    order = case[1]
    C = statistics.C + 1e-3 * torch.eye(len(statistics.C), dtype=torch.float64)
    D = statistics.D + 1e-3 * weight.t()
    A, S = factorize(weight, order)
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
    A, S = factorize(weight, order)
    wanted = (x @ weight.t()).T.reshape(-1).numpy()

    def design(parts: list[Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.stack([(x @ part.t()).T.reshape(-1).numpy() for part in parts], 1)

    unit = torch.eye(S[0].numel(), dtype=torch.float64).reshape(-1, *S.shape[1:])
    filters = design([torch.kron(a, u) for a in A for u in unit])
    found = solve_filters(A, statistics.C, statistics.D)
    np.testing.assert_allclose(
        found.numpy().ravel(), np.linalg.lstsq(filters, wanted, rcond=None)[0], rtol=1e-4, atol=1e-5
    )
    unit = torch.eye(A[0].numel(), dtype=torch.float64).reshape(-1, *A.shape[1:])
    algebra = design([torch.kron(u, s) for s in found for u in unit])
    np.testing.assert_allclose(
        solve_algebra(found, statistics.C, statistics.D, order.n_out).numpy().ravel(),
        np.linalg.lstsq(algebra, wanted, rcond=None)[0], rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_a_weight_that_is_a_sum_of_kronecker_products_stays_exact() -> None:
    weight, _, statistics = problem(1, Order(4, 2, 3), 3, 4, 200)
    start = factorize(weight, Order(4, 2, 3))
    exact = compose(*start)
    y = Statistics(
        statistics.C, statistics.C @ exact.t(), float((exact @ statistics.C @ exact.t()).trace()),
        statistics.mean_y, statistics.mean_hat, False, statistics.rows,
    )  # fmt: skip
    fit = fit_to_data(exact, factorize(exact, Order(4, 2, 3)), y)
    assert fit.output_error == pytest.approx(0, abs=1e-7)
    assert fit.weight_error == pytest.approx(0, abs=1e-7)


def layer_and(x: Tensor) -> tuple[nn.Linear, Factors, Statistics]:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    return layer, factorize(layer.weight, Order(2, 2, 2)), gather(layer, [(x, x)], centered=True)


@pytest.mark.parametrize(
    "kind", ["constant", "one direction", "dead channel", "fewer than columns", "zero weight"]
)
def test_poor_inputs_give_finite_results(kind: str) -> None:
    torch.manual_seed(0)
    x = {
        "constant": torch.ones(50, 8),
        "one direction": torch.randn(50, 1) * torch.randn(1, 8),
        "dead channel": torch.randn(50, 8) * torch.tensor([0.0] + [1.0] * 7),
        "fewer than columns": torch.randn(3, 8),
        "zero weight": torch.randn(50, 8),
    }[kind]
    layer, start, statistics = layer_and(x)
    if kind == "zero weight":
        layer.weight.data.zero_()
        start, statistics = factorize(layer.weight, Order(2, 2, 2)), gather(layer, [(x, x)], centered=True)
    fit = fit_to_data(layer.weight, start, statistics)
    assert all(factor.isfinite().all() for factor in fit.factors)
    assert fit.output_error is not None
    assert math.isfinite(fit.output_error)


def test_the_result_is_balanced_and_in_the_weights_dtype() -> None:
    layer, start, statistics = layer_and(torch.randn(50, 8))
    fit = fit_to_data(layer.weight.bfloat16(), Factors(start.A.bfloat16(), start.S.bfloat16()), statistics)
    assert fit.factors.A.dtype == fit.factors.S.dtype == torch.bfloat16
    a, s = (f.float().square().flatten(1).mean(1) for f in fit.factors)
    torch.testing.assert_close(a, s, rtol=0.02, atol=0)
