"""PHM mathematics, against torch.kron in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phnnify.algebra import Factors, Order, compose, relative_error
from tests.kronecker_sums import (
    ROUNDING,
    factors,
    kron_sum,
    many,
    random_factors,
)


@many
@given(factors)
def test_compose_is_the_sum_of_kronecker_products(pair: Factors) -> None:
    composed = compose(*pair)
    wanted = kron_sum(*pair)
    assert composed.dtype == pair.S.dtype
    assert composed.shape == wanted.shape
    torch.testing.assert_close(
        composed.double(), wanted, rtol=0, atol=ROUNDING[pair.S.dtype] * max(1.0, float(wanted.abs().max()))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_composed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    pair = random_factors(0, Order(4, 4, 16), 8, 8, (), dtype)
    assert torch.equal(compose(*pair), kron_sum(*pair).to(dtype))


def test_errors_of_zero_weights_are_defined() -> None:
    assert relative_error(torch.zeros(2, 2), torch.zeros(2, 2)) == 0
    assert relative_error(torch.zeros(2, 2), torch.ones(2, 2)) == math.inf


@pytest.mark.parametrize(
    ("sides", "n", "wanted"),
    [
        ((64, 32), 4, (4, 4, 4)),
        ((64, 3), 4, (4, 3, 3)),
        ((10, 64), 4, (2, 4, 2)),
        ((7, 64), 4, (1, 4, 1)),
        ((7, 13), 4, (1, 1, 1)),
        ((7, 7), 8, (7, 7, 6)),
        ((1, 64), 8, (1, 8, 1)),
        ((2, 2), 8, (2, 2, 1)),
        ((0, 8), 4, (1, 4, 1)),
        ((0, 8), 3, (1, 2, 1)),
        ((64, 64), 3, (4, 4, 5)),
        ((64, 3), 3, (2, 3, 2)),
        ((10, 64), 3, (2, 2, 1)),
        ((1000, 512), 6, (5, 4, 3)),
    ],
)
def test_the_closest_order_keeps_about_one_nth(
    sides: tuple[int, int], n: int, wanted: tuple[int, int, int]
) -> None:
    assert Order.closest(*sides, n) == Order(*wanted)


@many
@given(st.integers(1, 200), st.integers(1, 200), st.integers(2, 16))
def test_the_closest_order_divides_and_is_not_further_from_one_nth_than_the_largest_divisors(
    out: int, columns: int, n: int
) -> None:
    order = Order.closest(out, columns, n)
    assert order.fits((out, columns))
    largest = [max(d for d in range(1, n + 1) if side % d == 0) for side in (out, columns)]
    plain = Order(largest[0], largest[1], max(1, round(math.prod(largest) / n)))
    for found, down, side in zip((order.n_out, order.n_in), largest, (out, columns), strict=True):
        assert found == down or (side % n and n < found < 2 * n)
    far = [abs(math.log(form.parameters((out, columns)) * n / (out * columns))) for form in (order, plain)]
    assert far[0] <= far[1]
    if abs(plain.terms * n / math.prod(largest) - 1) <= 0.15:
        assert order == plain


@many
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 3, 9]), st.integers(2, 64))
def test_the_order_of_a_size_is_the_closest_but_where_its_algebra_would_outweigh_its_filters(
    out: int, columns: int, kernel: int, n: int
) -> None:
    shape = (out, columns, kernel)
    order, closest = Order.sized(shape, n), Order.closest(out, columns, n)
    assert order.fits(shape)
    if closest.terms * closest.n_out * closest.n_in <= closest.parameters(shape) / 2:
        assert order == closest
    else:
        far = [abs(math.log(form.parameters(shape) * n / math.prod(shape))) for form in (order, closest)]
        assert far[0] <= far[1]


@pytest.mark.parametrize(
    ("shape", "n", "wanted"),
    [
        ((200, 200), 16, (10, 10, 6)),
        ((200, 200), 32, (8, 8, 2)),
        ((16, 16, 3, 3), 4, (4, 4, 4)),
        ((16, 16, 3, 3), 8, (4, 4, 2)),
        ((64, 64, 3, 3), 16, (4, 4, 1)),
        ((2, 2), 2, (2, 2, 2)),
        ((7, 11), 4, (1, 1, 1)),
        ((5, 0), 4, (1, 1, 1)),
        ((0, 8), 4, (1, 4, 1)),
    ],
)
def test_the_order_of_a_size(shape: tuple[int, ...], n: int, wanted: tuple[int, int, int]) -> None:
    assert Order.sized(shape, n) == Order(*wanted)


@many
@given(factors)
def test_an_order_counts_the_numbers_of_its_factors(pair: Factors) -> None:
    assert pair.order.parameters(compose(*pair).shape) == pair.A.numel() + pair.S.numel()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 1), "at least 1"),
        ((2, 2, 0), "terms or a rank"),
        ((2, 2, -1), "at least 1"),
        ((2, 2, 1, -1), "at least 1"),
        ((2, 2, 5), "4 terms are exact"),
        ((2, 1, 0, 3), "blocks but no terms"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(*numbers)


def test_an_order_of_nothing_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"got 1, 32, 0 terms and rank 0$"):
        Order(1, 32, 0, 0)
