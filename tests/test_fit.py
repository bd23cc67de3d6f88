"""Factors from weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phnnify.algebra import Order, compose, factorize
from phnnify.errors import ModelError
from phnnify.fit import fit_weights

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
