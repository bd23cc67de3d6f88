"""Budgets: reading them, and spending them best."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phnnify.algebra import Order
from phnnify.budget import Budget, Point, allocate, parse_budget
from phnnify.errors import PlanError, UsageError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("25%", Budget(share=0.25)),
        (" 12.5 % ", Budget(share=0.125)),
        ("1.5MB", Budget(bytes=1_500_000)),
        ("64kb", Budget(bytes=64_000)),
        ("2 MiB", Budget(bytes=2 * 2**20)),
        (".5GB", Budget(bytes=500_000_000)),
        ("900B", Budget(bytes=900)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "25", "%", "0%", "100%", "150%", "-3%", "1.5XB", "many", "0MB", "1e3%"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(text)


def test_a_budget_becomes_a_number_of_parameters() -> None:
    assert Budget(share=0.25).parameters(1000, 4000) == 250
    assert Budget(bytes=1000).parameters(1000, 4000) == 250


def points(sizes: list[int], damages: list[float]) -> tuple[Point, ...]:
    """Falling sizes with rising damages; the first is the weight as it is. Loss 1, so that cost is damage."""
    pairs = zip(sorted(set(sizes), reverse=True), sorted(damages), strict=False)
    return (Point(None, 100, 0.0), *(Point(Order.low_rank(1), size, damage, 1.0) for size, damage in pairs))


curve = st.builds(
    points,
    st.lists(st.integers(1, 99), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
)


@given(st.lists(curve, min_size=1, max_size=4), st.integers(0, 400))
def test_no_choice_is_better_by_more_than_one_step(curves: list[tuple[Point, ...]], limit: int) -> None:
    named = {str(i): points for i, points in enumerate(curves)}
    fitting = [chosen for chosen in itertools.product(*curves) if sum(p.parameters for p in chosen) <= limit]
    if not fitting:
        with pytest.raises(PlanError, match="take at least"):
            allocate(named, limit)
        return
    found = allocate(named, limit)
    assert sum(p.parameters for p in found.values()) <= limit
    best = min(sum(p.cost for p in chosen) for chosen in fitting)
    step = max(p.cost for points in curves for p in points)
    assert sum(p.cost for p in found.values()) <= best + step + 1e-9


@given(st.lists(curve, min_size=1, max_size=4))
def test_with_room_for_all_every_weight_stays(curves: list[tuple[Point, ...]]) -> None:
    found = allocate({str(i): points for i, points in enumerate(curves)}, 100 * len(curves))
    assert all(point.order is None for point in found.values())


def test_cost_is_damage_times_loss() -> None:
    assert Point(None, 1, 0.5, 0.25).cost == 0.125
