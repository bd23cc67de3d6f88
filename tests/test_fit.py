"""Factors from weights, and from what the weights compute."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from phnnify.algebra import Factors, Order, compose
from phnnify.algebras import named_algebra
from phnnify.calibrate import Statistics, gather
from phnnify.errors import ModelError
from phnnify.factorization import factorize
from phnnify.fit import fit_to_data, fit_weights
from tests.test_alternate import problem, problems

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


def test_a_weight_that_is_a_sum_of_kronecker_products_stays_exact() -> None:
    weight, _, statistics = problem(1, Order(4, 2, 3), 3, 4, 200)
    start = factorize(weight, Order(4, 2, 3))
    exact = compose(*start)
    y = Statistics(
        statistics.C, statistics.C @ exact.t(), float((exact @ statistics.C[0] @ exact.t()).trace()),
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
    "kind",
    [
        "constant",
        "constant numbers of any kind",
        "far from zero",
        "one direction",
        "dead channel",
        "fewer than columns",
        "one row",
        "zero weight",
    ],
)
def test_poor_inputs_give_finite_results(kind: str) -> None:
    torch.manual_seed(0)
    x = {
        "constant": torch.ones(50, 8),
        "constant numbers of any kind": torch.rand(1, 8).expand(50, 8),
        "far from zero": torch.randn(50, 8) + 30_000,
        "one direction": torch.randn(50, 1) * torch.randn(1, 8),
        "dead channel": torch.randn(50, 8) * torch.tensor([0.0] + [1.0] * 7),
        "fewer than columns": torch.randn(3, 8),
        "one row": torch.randn(1, 8),
        "zero weight": torch.randn(50, 8),
    }[kind]
    layer, start, statistics = layer_and(x)
    if kind == "zero weight":
        layer.weight.data.zero_()
        start, statistics = factorize(layer.weight, Order(2, 2, 2)), gather(layer, [(x, x)], centered=True)
    fit = fit_to_data(layer.weight, start, statistics)
    assert all(factor.isfinite().all() for factor in fit.factors[:2])
    assert fit.output_error is not None
    assert math.isfinite(fit.output_error)


def test_the_result_is_balanced_and_in_the_weights_dtype() -> None:
    layer, start, statistics = layer_and(torch.randn(50, 8))
    fit = fit_to_data(layer.weight.bfloat16(), Factors(start.A.bfloat16(), start.S.bfloat16()), statistics)
    assert fit.factors.A.dtype == fit.factors.S.dtype == torch.bfloat16
    a, s = (f.float().square().flatten(1).mean(1) for f in fit.factors[:2])
    torch.testing.assert_close(a, s, rtol=0.02, atol=0)


def test_a_fit_with_a_given_algebra_keeps_it_and_is_never_worse_than_the_projection() -> None:
    weight, x, statistics = problem(1, Order(4, 4, 4), 3, 4, 200)
    A = named_algebra("quaternion").A()
    start = fit_weights({"a": weight}, {"a": Order(4, 4, 4)}, given={"a": A})["a"]
    assert start.given
    fit = fit_to_data(weight, start.factors, statistics, given=True)
    assert torch.equal(fit.factors.A, A)
    assert fit.output_error is not None
    assert fit.closed_form_error is not None
    assert fit.output_error < fit.closed_form_error
    assert fit.weight_error > start.weight_error
    wanted = x @ weight.t()
    lost = (wanted - x @ compose(*fit.factors).t()).norm() / wanted.norm()
    assert fit.output_error == pytest.approx(float(lost), rel=1e-4)
