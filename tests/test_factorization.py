"""The nearest factors, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phnnify import factorization
from phnnify.algebra import Factors, Order, compose, relative_error
from phnnify.factorization import common_algebra, factorization_error, factorize, project
from tests.kronecker_sums import (
    KERNELS,
    ROUNDING,
    factors,
    kron_sum,
    many,
    numpy_rearranged,
    random_factors,
)


@many
@given(factors)
def test_a_sum_of_as_many_kronecker_products_comes_back(pair: Factors) -> None:
    weight = kron_sum(*pair).to(torch.float64 if pair.S.dtype == torch.float64 else torch.float32)
    error = relative_error(weight, compose(*factorize(weight, pair.order)))
    assert error < (1e-10 if weight.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-6, 1e-9])
def test_terms_of_very_different_size_come_back_in_float64(smallest: float) -> None:
    pair = random_factors(1, Order(4, 4, 3), 6, 5, (3, 3), torch.float64)
    scales = torch.tensor([1.0, smallest**0.5, smallest], dtype=torch.float64)
    weight = compose(pair.A * scales[:, None, None], pair.S)
    assert relative_error(weight, compose(*factorize(weight, pair.order))) < 1e-14


@many
@given(factors)
def test_all_terms_reproduce_any_weight(pair: Factors) -> None:
    order = Order(pair.order.n_out, pair.order.n_in, pair.order.n_out * pair.order.n_in)
    shape = (3 * order.n_out, 2 * order.n_in, *pair.S.shape[3:])
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(pair.S.numel())).to(pair.S.dtype)
    tolerance = {**ROUNDING, torch.float32: 1e-6}[weight.dtype]
    assert relative_error(weight, compose(*factorize(weight, order))) < tolerance


@many
@given(factors, st.integers(0, 100))
def test_the_error_is_the_tail_of_the_singular_values_so_no_factors_are_nearer(
    pair: Factors, seed: int
) -> None:
    order = pair.order
    shape = (3 * order.n_out, 4 * order.n_in, *pair.S.shape[3:])
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values = np.linalg.svd(numpy_rearranged(weight, order.n_out, order.n_in), compute_uv=False)
    least = math.sqrt((values[order.terms :] ** 2).sum() / (values**2).sum())
    found = factorize(weight, order)
    assert relative_error(weight, compose(*found)) == pytest.approx(least, rel=1e-5, abs=1e-6)


@many
@given(factors)
def test_factors_are_balanced_sorted_and_signed(pair: Factors) -> None:
    weight = torch.randn(
        4 * pair.order.n_out, 4 * pair.order.n_in, generator=torch.Generator().manual_seed(3)
    )
    order = Order(pair.order.n_out, pair.order.n_in, min(pair.order.terms, 16))
    A, S, *_ = factorize(weight, order)
    squares_a, squares_s = A.square().mean((1, 2)), S.square().mean((1, 2))
    torch.testing.assert_close(squares_a, squares_s, rtol=1e-4, atol=0)
    assert (squares_a.diff() <= 1e-6).all()
    flat = A.flatten(1)
    assert (flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all()


def test_the_same_weight_gives_the_same_bytes_and_its_negative_negative_filters() -> None:
    weight = torch.randn(32, 48, 3, 3, generator=torch.Generator().manual_seed(0))
    first, again, negative = (factorize(w, Order(4, 4, 4)) for w in (weight, weight.clone(), -weight))
    assert torch.equal(first.A, again.A)
    assert torch.equal(first.S, again.S)
    torch.testing.assert_close(negative.A, first.A)
    torch.testing.assert_close(negative.S, -first.S)


@pytest.mark.parametrize("shape", [(4, 4), (4, 12), (8, 4, 3), (4, 4, 3, 3), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factorize_leaves_its_weight_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 7
    before = weight.clone()
    factorize(weight, Order(4, 4, 4))
    assert torch.equal(weight, before)


def test_a_zero_weight_gives_zero_filters_and_an_algebra_that_can_still_learn() -> None:
    A, S, *_ = factorize(torch.zeros(8, 12, 3), Order(4, 4, 4))
    assert torch.equal(S, torch.zeros(4, 2, 3, 3))
    assert A.flatten(1).norm(dim=1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_terms_with_nothing_left_to_describe_are_finite(dtype: torch.dtype) -> None:
    weight = torch.kron(torch.eye(4, dtype=dtype), torch.ones(3, 3, dtype=dtype))
    found = factorize(weight, Order(4, 4, 16))
    assert all(factor.isfinite().all() for factor in (found.A, found.S))
    assert (found.A.flatten(1).norm(dim=1) > 0).all()
    assert relative_error(weight, compose(*found)) < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    weight = torch.ones(8, 8)
    weight[3, 5] = bad
    with pytest.raises(ValueError, match="not finite"):
        factorize(weight, Order(2, 2, 2))


@pytest.mark.parametrize(
    ("shape", "order"), [((6, 8), Order(4, 4, 4)), ((8, 6), Order(4, 4, 4)), ((8,), Order(2, 1, 1))]
)
def test_an_order_that_does_not_divide_is_refused(shape: tuple[int, ...], order: Order) -> None:
    with pytest.raises(ValueError, match="does not fit a weight of shape"):
        factorize(torch.ones(shape), order)


@pytest.mark.parametrize(
    ("magnitude", "dtype"),
    [(1e30, torch.float32), (1e-30, torch.float32), (1e200, torch.float64), (1e-200, torch.float64)],
)
def test_very_large_and_very_small_weights_are_fitted_as_well(magnitude: float, dtype: torch.dtype) -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = factorize(weight * magnitude, Order(4, 4, 16))
    torch.testing.assert_close(compose(*found) / magnitude, weight, rtol=1e-5, atol=1e-6)


def test_the_memory_layout_of_a_weight_does_not_matter() -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    wanted = factorize(weight, Order(4, 4, 4))
    for other in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.transpose(0, 1).contiguous().transpose(0, 1),
    ):
        found = factorize(other, Order(4, 4, 4))
        torch.testing.assert_close(found.A, wanted.A)
        torch.testing.assert_close(found.S, wanted.S)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_working_in_pieces_changes_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(40, 12, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    whole = factorize(weight, Order(4, 3, 5))
    monkeypatch.setattr(factorization, "_CHUNK", 100)
    pieces = factorize(weight, Order(4, 3, 5))
    torch.testing.assert_close(pieces.A, whole.A)
    torch.testing.assert_close(pieces.S, whole.S)
    assert factorization_error(weight, pieces) == pytest.approx(relative_error(weight, compose(*whole)))


@many
@given(factors)
def test_factorization_error_is_numpys(pair: Factors) -> None:
    weight = torch.randn(compose(*pair).shape, generator=torch.Generator().manual_seed(5)).to(pair.S.dtype)
    w, approximation = weight.double().numpy(), compose(*pair).double().numpy()
    wanted = np.linalg.norm(w - approximation) / np.linalg.norm(w)
    assert factorization_error(weight, pair) == pytest.approx(wanted, rel=1e-9)
    assert relative_error(weight, compose(*pair)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "order",
    [Order.low_rank(1), Order.low_rank(3), Order(2, 3, 2, 2), Order(4, 1, 1, 1), Order(1, 1, 1, 2)],
    ids=str,
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_weight_with_a_low_rank_term_is_found_again(order: Order, kernel: tuple[int, ...]) -> None:
    shape = (8, 6, *kernel)
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (order.terms, order.n_out, order.n_in),
        (order.terms, 8 // order.n_out, 6 // order.n_in, *kernel),
    ]
    sizes += [(8, order.rank), (order.rank, 6, *kernel)]
    A, S, U, V = (torch.randn(size, dtype=torch.float64, generator=generator) for size in sizes)
    low_rank = np.einsum("or,r...->o...", U.numpy(), V.numpy())
    weight = compose(A, S, U, V)
    wanted = torch.from_numpy(low_rank) + (kron_sum(A, S) if order.terms else 0)
    torch.testing.assert_close(weight, wanted)
    assert weight.shape == shape
    found = factorize(weight, order)
    assert found.order == order
    assert found.entries == order.parameters(shape)
    alone = [relative_error(weight, compose(*factorize(weight, Order.low_rank(order.rank))))]
    if order.terms:
        alone.append(
            factorization_error(weight, factorize(weight, Order(order.n_out, order.n_in, order.terms)))
        )
        assert factorization_error(weight, found) <= min(alone) + 1e-9
    else:
        assert factorization_error(weight, found) < 1e-6


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 3, 3, 3)])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_low_rank_weight_is_the_truncated_svd(shape: tuple[int, ...], rank: int) -> None:
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    u, s, v = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)
    wanted = (u[:, :rank] * s[:rank]) @ v[:rank]
    found = compose(*factorize(weight, Order.low_rank(rank)))
    np.testing.assert_allclose(found.flatten(1).numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize("order", [Order(2, 2, 2, 2), Order.low_rank(2)], ids=str)
def test_factors_of_a_low_rank_term_are_balanced(order: Order) -> None:
    weight = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    _, _, U, V = factorize(weight, order)
    assert U is not None
    assert V is not None
    torch.testing.assert_close(U.square().mean(0), V.square().mean(1))
    zero = factorize(torch.zeros(8, 6), order)
    assert not compose(*zero).any()
    assert all(bool(f.isfinite().all()) for f in zero if f is not None)


def test_more_rank_than_the_smaller_side_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 5 does not fit a weight of shape"):
        factorize(torch.randn(4, 9), Order.low_rank(5))


@many
@given(st.integers(0, 2**31), st.sampled_from([(), (3,)]))
def test_a_projection_is_the_least_squares_solution(seed: int, kernel: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, *kernel, dtype=torch.float64, generator=draw)
    A = torch.randn(3, 2, 4, dtype=torch.float64, generator=draw)
    found = project(weight, A)
    assert torch.equal(found.A, A)
    columns = [torch.kron(a, torch.eye(6, dtype=torch.float64).view(6, 3, 2)[i]) for a in A for i in range(6)]
    design = np.stack([column.flatten().numpy() for column in columns], 1)
    wanted = np.linalg.lstsq(design, weight.reshape(48, -1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.S.reshape(18, -1), wanted, atol=1e-9)


def test_a_projection_onto_the_algebra_of_the_closed_form_is_the_closed_form() -> None:
    weight = torch.randn(12, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    wanted = factorize(weight, Order(4, 4, 4))
    torch.testing.assert_close(compose(*project(weight, wanted.A)), compose(*wanted))


def test_the_common_algebra_of_one_weight_is_its_own() -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    A = common_algebra([weight], Order(4, 4, 3))
    assert A.dtype == weight.dtype
    found, wanted = project(weight, A), factorize(weight, Order(4, 4, 3))
    torch.testing.assert_close(compose(*found), compose(*wanted))
    torch.testing.assert_close(found.A.square().mean(), found.S.square().mean())


def test_weights_with_one_algebra_are_found_exactly_together_however_large_they_are() -> None:
    draw = torch.Generator().manual_seed(0)
    A = torch.randn(3, 4, 4, dtype=torch.float64, generator=draw)
    sizes = {1e-6: (2, 3), 1.0: (1, 5), 1e6: (4, 2)}
    weights = [
        compose(A, c * torch.randn(3, *s, dtype=torch.float64, generator=draw)) for c, s in sizes.items()
    ]
    found = common_algebra(weights, Order(4, 4, 3))
    for weight in weights:
        assert relative_error(weight, compose(*project(weight, found))) < 1e-7


def test_zero_weights_have_a_common_algebra_that_can_learn() -> None:
    A = common_algebra([torch.zeros(8, 8)], Order(2, 2, 2))
    assert A.isfinite().all()
    assert torch.linalg.matrix_rank(A.flatten(1)) == 2


def test_projections_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        project(torch.ones(4, 4), torch.ones(1, 3, 3))
    with pytest.raises(ValueError, match="not finite"):
        common_algebra([torch.full((4, 4), torch.nan)], Order(2, 2, 2))
