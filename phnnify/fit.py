"""Factors from weights: how near a PHM weight of a given order comes to a dense one.

Without data there is the closed form (`algebra.factorize`), which minimises the error of the weight alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from phnnify.algebra import Factors, Order, factorization_error, factorize
from phnnify.errors import ModelError


@dataclass(frozen=True)
class Fit:
    """The factors of one weight, and their relative error ‖W−Ŵ‖/‖W‖ once rounded to the weight's dtype."""

    factors: Factors
    weight_error: float


Progress = Callable[[int, int, str], None]
"""Called with (done, all, name of the next) — numbers of weight entries, so that time left can be told."""


def fit_weights(
    weights: Mapping[str, Tensor], orders: Mapping[str, Order], progress: Progress | None = None
) -> dict[str, Fit]:
    """Fit every weight that has an order, in closed form.

    Args:
        weights: By name, (out, in, *kernel).
        orders: By name.
        progress: Told before each weight, and at the end.

    Raises:
        ModelError: a weight holds values that are not finite.
    """
    total = sum(weights[name].numel() for name in orders)
    done, fits = 0, {}
    for name, order in orders.items():
        if progress:
            progress(done, total, name)
        fits[name] = _fit_weight(name, weights[name], order)
        done += weights[name].numel()
    if progress:
        progress(done, total, "")
    return fits


def _fit_weight(name: str, weight: Tensor, order: Order) -> Fit:
    try:
        factors = factorize(weight, order)
    except ValueError as error:
        raise ModelError(
            f"{name} cannot be fitted: {error}",
            hint=f"the file may be damaged or its training diverged; --exclude {name!r} keeps this weight",
        ) from None
    return Fit(factors, factorization_error(weight, factors))
