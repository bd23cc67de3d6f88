"""Factors from weights: how near a PHM weight of a given order comes to a dense one.

Without data there is the closed form (`factorization.factorize`; `project` where the algebra is given),
which minimises the error of the weight alone.
With the statistics of a layer's inputs (`calibrate`), the same factors are fitted to what the layer computes,
E|W x − Ŵ x̂|² → min, by alternating exact least squares (`alternate`).

A ridge pulls Ŵ towards W, so that a weight that is exactly a Kronecker sum stays exact, inputs that never
vary do not matter, and few inputs are not believed too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phnnify.algebra import Factors, Order, compose
from phnnify.alternate import Problem, nearest, nearest_filters
from phnnify.calibrate import Statistics
from phnnify.errors import ModelError
from phnnify.factorization import factorization_error, factorize, project
from phnnify.watching import Progress

_ROUNDS = 15
# Of the mean diagonal of C; the second is for statistics of few rows, which say less about new inputs.
# Measured on ResNet-20 (many rows: 1e-2 is best) and an MLP with 512 rows for 784 inputs (1e-1 is best).
_RIDGE, _RIDGE_FEW_ROWS = 1e-2, 1e-1
_STILL = 1e-12  # of the square of the mean: a smaller variance is the rounding of float32


@dataclass(frozen=True)
class Fit:
    """The factors of one weight, and how far they are from it.

    Attributes:
        factors: In the weight's dtype.
        weight_error: ‖W−Ŵ‖/‖W‖.
        output_error: sqrt(E‖W x − Ŵ x̂‖² / E‖W x‖²) where there was data; None without.
        closed_form_error: The same for the closed form, which was taken where it is not above.
        given: Whether the algebra was given, so that only filters are fitted.
    """

    factors: Factors
    weight_error: float
    output_error: float | None = None
    closed_form_error: float | None = None
    given: bool = False


def fit_weights(
    weights: Mapping[str, Tensor],
    orders: Mapping[str, Order],
    progress: Progress | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> dict[str, Fit]:
    """Fit every weight that has an order, in closed form.

    Args:
        weights: By name, (out, in, *kernel).
        orders: By name.
        progress: Told before each weight, and at the end.
        given: The algebras (terms, n_out, n_in) of those weights that do not find their own, by name.

    Raises:
        ModelError: a weight holds values that are not finite.
    """
    total = sum(weights[name].numel() for name in orders)
    done, fits = 0, {}
    for name, order in orders.items():
        if progress:
            progress(done, total, name)
        fits[name] = _fit_weight(name, weights[name], order, (given or {}).get(name))
        done += weights[name].numel()
    if progress:
        progress(done, total, "")
    return fits


def _fit_weight(name: str, weight: Tensor, order: Order, A: Tensor | None) -> Fit:
    try:
        factors = factorize(weight, order) if A is None else project(weight, A)
    except ValueError as error:
        raise ModelError(
            f"{name} cannot be fitted: {error}",
            hint=f"the file may be damaged or its training diverged; --exclude {name!r} keeps this weight",
        ) from None
    return Fit(factors, factorization_error(weight, factors), given=A is not None)


def fit_to_data(
    weight: Tensor,
    start: Factors,
    statistics: Statistics,
    measure: Callable[[Tensor], float] | None = None,
    *,
    given: bool = False,
) -> Fit:
    """Fit the factors of one weight to what it computes; never worse than the start.

    Args:
        weight: (out, in, *kernel).
        start: The closed form.
        statistics: Of the layer's inputs.
        measure: The output error of a weight (out, in·|kernel|); by default what the statistics say.
        given: Keep the algebra of the start.

    Returns:
        The fit, in the weight's dtype.

    Raises:
        ValueError: the statistics have no whole covariance, and there is no other measure.
    """
    measure = measure or _measure(statistics)
    problem = regularised(weight, statistics)
    # Where nothing ever flows the output is the constant, whatever the factors are.
    found = start if problem is None else _nearest(problem, start, weight.dtype, given)
    return _better(weight, start, found, measure, given)


def _measure(statistics: Statistics) -> Callable[[Tensor], float]:
    def measure(W: Tensor) -> float:
        error = statistics.error(W)
        if error is None:
            raise ValueError("statistics of a layer that is too wide say nothing about its output error")
        return error

    return measure


def _nearest(problem: Problem, start: Factors, dtype: torch.dtype, given: bool) -> Factors:
    if given:
        return Factors(start.A, nearest_filters(problem, start.A.double()).to(dtype))
    return nearest(problem, start.order, _ROUNDS, start)[0].to(dtype)


def _better(
    weight: Tensor, start: Factors, found: Factors, measure: Callable[[Tensor], float], given: bool
) -> Fit:
    """What was found where that is better than the start."""
    before, after = measure(_composed(start)), measure(_composed(found))
    factors, error = (found, after) if after < before else (start, before)
    return Fit(factors, factorization_error(weight, factors), error, before, given)


def fit_to_problem(weight: Tensor, start: Factors, problem: Problem, *, given: bool = False) -> Fit:
    """Fit the factors of one weight to a problem given; never worse than the start.

    The output errors are sqrt(loss/energy) of the problem.

    Args:
        weight: (out, in).
        start: The closed form.
        problem: What the factors are to do.
        given: Keep the algebra of the start.
    """

    def lost(W: Tensor) -> float:
        return (max(problem.loss(W), 0.0) / problem.energy) ** 0.5 if problem.energy > 0 else 0.0

    return _better(weight, start, _nearest(problem, start, weight.dtype, given), lost, given)


def regularised(weight: Tensor, statistics: Statistics, ridge: float | None = None) -> Problem | None:
    """The least-squares problem that statistics pose, with a ridge towards the weight (out, in, *kernel).

    The ridge is a part of the mean diagonal of C; by default as large as did best where the weight's outputs
    are all that counts.

    One problem for all groups. Those of an ordinary convolution meet rows of the weight: each row's best
    values are found under its own group's covariance, and approximated under the mean of all. Those of a
    transposed one meet columns, so that C is block-diagonal. Of a layer that is too wide the diagonal counts.

    None where no input ever varies.
    """
    W = weight.detach().flatten(1).double()
    kernel = tuple(weight.shape[1:])
    groups, width = statistics.C.shape[:2]
    whole = statistics.C.dim() == 3
    scale = float((statistics.C.diagonal(dim1=1, dim2=2) if whole else statistics.C).mean())
    if scale <= (_STILL * float(statistics.mean_hat.square().mean()) if statistics.centered else 0.0):
        return None
    if ridge is None:
        ridge = _RIDGE + _RIDGE_FEW_ROWS * min(1.0, width / statistics.rows)
    ridge = ridge * scale
    if statistics.D is None:
        C = statistics.C.flatten() if statistics.by_columns else statistics.C.mean(0)
        return _towards(W, C + ridge, kernel)
    eye = ridge * torch.eye(width, dtype=torch.float64, device=W.device)
    C, D = statistics.C + eye, statistics.D + ridge * statistics.grouped(W).mT
    if statistics.by_columns:
        energy = statistics.energy + ridge * float(W.square().sum())
        blocks: Tensor = torch.block_diag(*C)  # type: ignore[no-untyped-call]
        return Problem(blocks, D.flatten(0, 1), energy, kernel)
    if groups > 1:
        best = torch.linalg.solve(C, D).mT.flatten(0, 1)
        return _towards(best, C.mean(0), kernel)
    energy = statistics.energy + ridge * float(W.square().sum())
    return Problem(C[0], D[0], energy, kernel)


def _towards(W: Tensor, C: Tensor, kernel: tuple[int, ...]) -> Problem:
    """The problem to do what a weight (out, k) does."""
    product = W * C if C.dim() == 1 else W @ C
    return Problem(C, product.t(), float((product * W).sum()), kernel)


def _composed(factors: Factors) -> Tensor:
    return compose(*factors.to(torch.float64)).flatten(1)
