"""Two calls measured side by side."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import count, product, repeat
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phnnify.comparing import latency
from phnnify.comparing.latency import Duel, Spread, duel, median_interval, quartiles


class Clock:
    """A clock that only calls move, by their own time times what the machine does to it just then."""

    def __init__(self, noise: Iterator[float]) -> None:
        self.now, self.noise = 0.0, noise

    def perf_counter(self) -> float:
        return self.now

    def call(self, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds * next(self.noise)

        return call

    def sleep(self, seconds: float) -> None:
        """Rest."""
        self.now += seconds


def duel_of(first: float, second: float, noise: Iterator[float], seconds: float) -> Duel:
    """A duel of calls that take so long but for the noise."""
    clock = Clock(noise)
    with patch.object(latency, "time", clock):
        return duel(clock.call(first), clock.call(second), seconds=seconds)


def test_what_takes_a_third_of_the_time_is_three_times_as_fast() -> None:
    found = duel_of(3e-3, 1e-3, repeat(1.0), 0.7)
    assert (found.before.median, found.after.median) == pytest.approx((3e-3, 1e-3))
    assert (found.speedup.low, found.speedup.median, found.speedup.high) == pytest.approx((3, 3, 3))
    assert found.outcome == "faster"
    assert found.rounds == int(0.7 / (0.020 + 0.006 + 0.012 + 0.020 + 0.005 + 0.010))


def test_noise_that_hits_both_is_not_taken_for_a_difference() -> None:
    draw = random.Random(0)
    noise = (draw.lognormvariate(0, 0.5) for _ in count())
    assert duel_of(2e-3, 2e-3, noise, 5.0).outcome == "same"
    assert duel_of(4e-3, 2e-3, noise, 5.0).outcome == "faster"
    assert duel_of(2e-3, 4e-3, noise, 5.0).outcome == "slower"


def test_both_have_as_many_turns_and_each_is_first_in_half_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def turn(call: Callable[[], str]) -> float:
        turns.append(call())
        return 1.0

    monkeypatch.setattr(latency, "turn", turn)
    found = duel(lambda: "a", lambda: "b", seconds=1e9)
    assert found.rounds == 25
    assert turns == ["a", "b"] + ["a", "b", "b", "a"] * 12 + ["a", "b"]


@pytest.mark.parametrize(
    ("speedup", "outcome"),
    [
        (Spread(1.5, 1.2, 1.9), "faster"),
        (Spread(1.5, 0.9, 2.0), "same"),  # perhaps noise
        (Spread(1.02, 1.01, 1.03), "same"),  # certain, and too little to matter
        (Spread(0.5, 0.4, 0.6), "slower"),
        (Spread(0.5, 0.2, 1.1), "same"),
        (Spread(0.98, 0.97, 0.99), "same"),
    ],
)
def test_only_what_is_beyond_the_noise_and_matters_is_called_faster_or_slower(
    speedup: Spread, outcome: str
) -> None:
    anything = Spread(1, 1, 1)
    assert Duel(anything, anything, speedup, 9).outcome == outcome


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_quartiles_enclose_half_of_the_values_or_more(values: list[float]) -> None:
    found = quartiles(values)
    assert found.low <= found.median <= found.high
    assert 2 * sum(found.low <= value <= found.high for value in values) >= len(values)


@pytest.mark.parametrize("n", [7, 9, 12])
def test_the_interval_misses_the_median_in_at_most_one_of_twenty_cases_and_is_the_narrowest(n: int) -> None:
    ranks = list(range(n))
    found = median_interval([float(rank) for rank in ranks])
    k = int(found.low) + 1
    assert found.high == n - k
    # Brute force: in which part of all equally likely outcomes (above or below the true median) do the k-th
    # smallest and the k-th largest lie on the same side of it?
    below = [sum(signs) for signs in product((0, 1), repeat=n)]
    assert sum(b < k or n - b < k for b in below) / 2**n <= 0.05
    assert sum(b < k + 1 or n - b < k + 1 for b in below) / 2**n > 0.05


def test_too_few_values_have_no_interval() -> None:
    assert median_interval([1.0, 2.0, 3.0]) == Spread(2.0, -math.inf, math.inf)
