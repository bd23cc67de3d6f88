"""Factors from weights: how near a PHM weight of a given order comes to a dense one.

Without data there is the closed form (`algebra.factorize`), which minimises the error of the weight alone.
With the statistics of a layer's inputs (`calibrate`), the same factors are fitted to what the layer computes:

    minimise E|W x − Ŵ x̂|² = tr(Ŵ C Ŵᵀ) − 2 tr(Ŵ D) + energy

by alternating exact least squares. Either step is one linear system, shared by all outputs:

- filters, A fixed: (t·k/n_in)², from Σ_i M_i C M_iᵀ with M_i[(r, a), (j, b)] = A_r[i, j]·δ(a, b);
- algebra, S fixed: (t·n_in)².

A ridge pulls Ŵ towards W, so that a weight that is exactly a Kronecker sum stays exact, inputs that never
vary do not matter, and few inputs are not believed too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from phnnify.algebra import Factors, Order, balanced, compose, factorization_error, factorize
from phnnify.calibrate import Statistics
from phnnify.errors import ModelError

_ROUNDS = 15
_PROGRESS = 1e-4  # a round that gains less than this part of the squared error is the last
# Of the mean diagonal of C; the second is for statistics of few rows, which say less about new inputs.
# Measured on ResNet-20 (many rows: 1e-2 is best) and an MLP with 512 rows for 784 inputs (1e-1 is best).
_RIDGE, _RIDGE_FEW_ROWS = 1e-2, 1e-1
_JITTER = 1e-10  # of the mean diagonal of a system, in case that terms coincide


@dataclass(frozen=True)
class Fit:
    """The factors of one weight, and how far they are from it.

    Attributes:
        factors: In the weight's dtype.
        weight_error: ‖W−Ŵ‖/‖W‖.
        output_error: sqrt(E‖W x − Ŵ x̂‖² / E‖W x‖²) where there was data; None without.
        closed_form_error: The same for the closed form, which was taken where it is not above.
    """

    factors: Factors
    weight_error: float
    output_error: float | None = None
    closed_form_error: float | None = None


Progress = Callable[[int, int, str], None]
"""Called with (done, all, name of the next): numbers of weight entries, so that time left can be told."""


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


def fit_to_data(weight: Tensor, start: Factors, statistics: Statistics) -> Fit:
    """Fit the factors of one weight to what it computes; never worse than the start.

    Args:
        weight: (out, in, *kernel), of one group.
        start: The closed form.
        statistics: Of the layer's inputs.

    Returns:
        The fit, in the weight's dtype.
    """
    W = weight.detach().flatten(1).double()
    scale = float(statistics.C.diagonal().mean())
    before = _output_error(_composed(start), statistics)
    if scale == 0:  # nothing ever flows: whatever the factors are, the output is the constant
        return Fit(start, factorization_error(weight, start), before, before)
    ridge = (_RIDGE + _RIDGE_FEW_ROWS * min(1.0, len(statistics.C) / statistics.rows)) * scale
    C = statistics.C + ridge * torch.eye(len(statistics.C), dtype=torch.float64, device=W.device)
    D = statistics.D + ridge * W.t()
    A, S = start.A.double(), start.S.double().flatten(2)
    constant = statistics.energy + ridge * float(W.square().sum())
    loss = math.inf
    for _ in range(_ROUNDS):
        S = solve_filters(A, C, D)
        A = solve_algebra(S, C, D, start.A.shape[1])
        last, loss = loss, constant + _varying_loss(compose(A, S), C, D)
        if last - loss <= _PROGRESS * loss:
            break
    fitted = balanced(Factors(A, S.view(start.S.shape)))
    rounded = Factors(fitted.A.to(weight.dtype), fitted.S.to(weight.dtype))
    after = _output_error(_composed(rounded), statistics)
    if not after < before:
        return Fit(start, factorization_error(weight, start), before, before)
    return Fit(rounded, factorization_error(weight, rounded), after, before)


def solve_filters(A: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The best filters for a given algebra: one factorisation, one right-hand side for each output row.

    Args:
        A: (terms, n_out, n_in).
        C: (k, k), positive definite.
        D: (k, out), the covariance of the inputs with the wanted outputs.

    Returns:
        S: (terms, out/n_out, k/n_in).
    """
    terms, n_out, n_in = A.shape
    width, rows = len(C) // n_in, D.shape[1] // n_out
    pairs = torch.einsum("rij,sil->rsjl", A, A)
    normal = torch.einsum("rsjl,jalb->rasb", pairs, C.view(n_in, width, n_in, width))
    wanted = torch.einsum("rij,jaip->rap", A, D.view(n_in, width, n_out, rows))
    S = _solve(normal.reshape(terms * width, -1), wanted.reshape(terms * width, rows))
    return S.view(terms, width, rows).transpose(1, 2).contiguous()


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
    terms, rows, width = S.shape
    n_in = len(C) // width
    seen = torch.einsum("rpa,jalb->rpjlb", S, C.view(n_in, width, n_in, width))
    normal = torch.einsum("rpjlb,spb->rjsl", seen, S)
    wanted = torch.einsum("rpa,jaip->rji", S, D.view(n_in, width, n_out, rows))
    A = _solve(normal.reshape(terms * n_in, -1), wanted.reshape(terms * n_in, n_out))
    return A.view(terms, n_in, n_out).transpose(1, 2).contiguous()


def _solve(normal: Tensor, wanted: Tensor) -> Tensor:
    jitter = _JITTER * normal.diagonal().mean() + torch.finfo(normal.dtype).tiny
    normal = normal + jitter * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    triangle, failed = torch.linalg.cholesky_ex(normal)
    if failed:
        solution: Tensor = torch.linalg.lstsq(normal, wanted, driver="gelsd").solution
        return solution
    return torch.cholesky_solve(wanted, triangle)


def _composed(factors: Factors) -> Tensor:
    return compose(factors.A.double(), factors.S.double()).flatten(1)


def _varying_loss(W: Tensor, C: Tensor, D: Tensor) -> float:
    """tr(W C Wᵀ) − 2 tr(W D)."""
    return float(((W @ C) * W).sum() - 2 * (W * D.t()).sum())


def _output_error(approximation: Tensor, statistics: Statistics) -> float:
    """sqrt(E|W x − Ŵ x̂|² / E|W x|²)."""
    lost = statistics.energy + _varying_loss(approximation, statistics.C, statistics.D)
    return math.sqrt(max(lost, 0.0) / statistics.energy) if statistics.energy > 0 else 0.0
