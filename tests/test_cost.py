"""Which way of computing with a weight in factors is faster."""

from __future__ import annotations

import pytest

from phnnify.algebra import Order
from phnnify.cost import (
    ONNX,
    PYTORCH,
    Step,
    Target,
    composed,
    factored,
    prefers_dense,
    prefers_factored,
    seconds,
)

both = pytest.mark.parametrize("target", [PYTORCH, ONNX])


def prefers(order: Order, matrix: tuple[int, ...], positions: int, target: Target, stride: int = 1) -> bool:
    algebra = (order.terms, order.n_out, order.n_in)
    filters = (order.terms, matrix[0] // order.n_out, matrix[1] // order.n_in, *matrix[2:])
    return prefers_factored(algebra, filters, order.rank, positions, stride, target)


HIDING = Target(speed=100.0, bandwidth=400.0, half=0.0, overhead=1.0, hides=True)
CACHED = 2 * 2**19  # numbers in 4 MiB


def test_a_step_takes_as_long_as_its_arithmetic_or_its_traffic_and_an_overhead() -> None:
    step = Step(weights=50, rows=1, reads=10, writes=5)
    traffic = 4 * (50 + 20 * 10) / (3 * 400)
    assert step.time(10, HIDING) == 50 * 10 / 100 + 1
    assert step._replace(rows=0).time(10, HIDING) == pytest.approx(traffic + 1)
    assert step.time(10, HIDING._replace(hides=False)) == pytest.approx(50 * 10 / 100 + traffic + 1)


def test_weights_and_maps_that_stay_in_the_cache_are_read_faster() -> None:
    for few, many in (
        (Step(CACHED, 0, 0, 0), Step(CACHED + 1, 0, 0, 0)),
        (Step(0, 0, 6, 0), Step(0, 0, 7, 0)),
    ):
        faster, slower = (step.time(2**20, HIDING._replace(overhead=0.0)) for step in (few, many))
        assert faster == pytest.approx(slower / 3, rel=0.2)


def test_half_the_speed_is_reached_at_so_many_rows() -> None:
    target = HIDING._replace(bandwidth=1e9, half=12.0, overhead=0.0)
    assert Step(100, 1, 0, 0).time(12, target) == 2 * (100 * 12 / 100)


def test_half_the_speed_is_reached_at_fewer_rows_where_the_weight_stays_in_the_cache() -> None:
    target = HIDING._replace(bandwidth=1e9, half=12.0, overhead=0.0, near=2.0)
    assert Step(CACHED, 1, 0, 0).time(10, target) == CACHED * (10 + 2) / 100
    assert Step(CACHED + 1, 1, 0, 0).time(10, target) == (CACHED + 1) * (10 + 12) / 100


def test_small_low_rank_products_of_some_rows_are_composed_in_pytorch() -> None:
    rank, wide = (0, 1, 1), 2 * (200,)
    assert not prefers_factored(rank, (0, *wide), 25, 32, 1, PYTORCH)
    assert prefers_factored(rank, (0, *wide), 25, 512, 1, PYTORCH)


def test_products_of_few_rows_may_have_a_speed_of_their_own() -> None:
    target = HIDING._replace(bandwidth=1e9, half=12.0, overhead=0.0, few=(50.0, 4.0))
    assert Step(100, 1, 0, 0).time(16, target) == 100 * (16 + 4) / 50
    assert Step(100, 1, 0, 0).time(17, target) == 100 * (17 + 12) / 100


@both
def test_thin_convolutions_of_large_images_stay_composed(target: Target) -> None:
    assert not prefers(Order(4, 4, 2), (64, 256, 1, 1), 56 * 56 * 32, target)
    assert prefers(Order(4, 4, 2), (512, 512, 3, 3), 7 * 7 * 32, target)


def test_convolutions_of_size_one_take_the_filters_first_as_they_run() -> None:
    order = Order(4, 4, 2)
    assert factored(order, (64, 256, 1, 1))[0].weights == order.terms * 16 * 64  # the filters
    assert factored(order, (64, 256))[0].weights == order.terms * 16  # the algebra


def test_what_is_fused_into_a_composed_convolution_counts_against_the_factors() -> None:
    alone = ONNX._replace(fused=0)
    matrix, positions = (256, 64, 3, 3), 56 * 56 * 32
    assert prefers(Order(4, 4, 2), matrix, positions, alone)
    assert not prefers(Order(4, 4, 2), matrix, positions, ONNX)


@pytest.mark.parametrize(
    ("order", "kernel"),
    [(Order(4, 4, 4), ()), (Order(4, 4, 2, 3), (3, 3)), (Order(32, 2, 2), ()), (Order.low_rank(5), ())],
    ids=str,
)
def test_the_steps_read_every_factor_and_multiply_as_products_says(
    order: Order, kernel: tuple[int, ...]
) -> None:
    matrix = (32, 16, *kernel)
    steps = factored(order, matrix)
    assert sum(step.weights for step in steps) == order.parameters(matrix)
    whole = composed(matrix)
    assert [step.weights for step in whole] == [Order(1, 1, 1).parameters(matrix) - 1]


def test_as_many_terms_as_blocks_multiply_as_much_as_the_weight_and_fewer_save() -> None:
    matrix = (64, 64, 3, 3)
    for terms in (1, 2, 4):
        filters = factored(Order(4, 4, terms), matrix)[0]
        assert filters.weights * filters.rows == terms / 4 * 64 * 64 * 9


@both
def test_large_weights_with_one_row_are_read_in_factors(target: Target) -> None:
    for n in (2, 4, 8):
        assert prefers(Order(n, n, n), (4096, 4096), 1, target)


def test_with_some_hundred_rows_the_composed_weight_is_as_fast_and_is_taken() -> None:
    assert prefers(Order(4, 4, 4), (4096, 4096), 8, ONNX)
    assert prefers(Order(4, 4, 4), (4096, 4096), 64, ONNX)
    assert not prefers(Order(4, 4, 4), (4096, 4096), 512, ONNX)


@both
def test_small_weights_are_composed_since_operators_cost_more_than_numbers(target: Target) -> None:
    assert not prefers(Order(4, 4, 4), (32, 32), 1, target)


@both
def test_where_arithmetic_is_the_limit_only_fewer_terms_are_worth_it(target: Target) -> None:
    matrix = (256, 256, 3, 3)
    assert not prefers(Order(4, 4, 4), matrix, 14 * 14 * 32, target)
    assert prefers(Order(4, 4, 2), matrix, 14 * 14 * 32, target)
    assert prefers(Order.low_rank(32), matrix, 14 * 14 * 32, target)
    assert not prefers(Order.low_rank(255), matrix, 14 * 14 * 32, target)


@both
@pytest.mark.parametrize("order", [Order(4, 64, 2), Order(64, 4, 2), Order(4, 4, 1, 2), Order.low_rank(4)])
def test_convolutions_of_few_channels_stay_composed(order: Order, target: Target) -> None:
    assert not prefers(order, (256, 256, 3, 3), 14 * 14 * 32, target)


def test_the_time_grows_with_the_positions_and_with_the_stride() -> None:
    steps = factored(Order(4, 4, 2), (64, 64, 3, 3))
    assert seconds(steps, 100, ONNX) < seconds(steps, 1000, ONNX)
    strided = factored(Order(2, 4, 2), (64, 64, 3, 3), 4)
    assert seconds(strided, 1000, ONNX) > seconds(factored(Order(2, 4, 2), (64, 64, 3, 3)), 1000, ONNX)


def test_without_an_input_the_weight_is_composed_where_factors_multiply_over_four_times_as_much() -> None:
    assert not prefers_dense(Order(4, 4, 4), (64, 64))
    assert not prefers_dense(Order(4, 4, 12), (64, 64))
    assert prefers_dense(Order(4, 4, 13), (64, 64))
