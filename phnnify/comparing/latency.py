"""How long two calls take, measured side by side, so that what else the machine does hits both alike.

They take turns, each first in every other round. A turn begins with a rest, in which the threads of the other
one stop looking for work (with them at it, a second copy of the same network took twice as long), and with
calls that are not counted: they wake the threads, and fill the caches that the other one emptied. The median
of the calls that follow is the turn's time. The two turns of a round make one ratio; what is said about the
ratio is the median over all rounds with its 95 % confidence interval, by order statistics: it supposes
nothing about the noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

CLEAR = 1.03  # a median ratio below this (or above its inverse) is called none, however sure it is
_REST = 0.02  # seconds before a turn: torch's threads look for work for a while
_WARM = 0.005  # seconds of calls in a turn that are not counted, at least one call: threads wake up late
_TURN = 0.01  # seconds of calls that are, at least one
_FEWEST, _MOST = 7, 25  # rounds; 7 are the fewest whose extremes hold the median with 95 % confidence

Call = Callable[[], Any]


@dataclass(frozen=True)
class Spread:
    """A median and what lies around it: for times the quartiles, for a ratio its confidence interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Duel:
    """Two calls side by side.

    Attributes:
        before, after: Seconds of a call of the first and of the second, with quartiles over the rounds.
        speedup: The first one's time by the second one's, with its 95 % confidence interval.
        rounds: How often both had their turn.
    """

    before: Spread
    after: Spread
    speedup: Spread
    rounds: int

    @property
    def outcome(self) -> str:
        """'faster' or 'slower' (the second one), where the interval excludes 1 and the median is clear of it.

        Else 'same'.
        """
        if self.speedup.low > 1 and self.speedup.median >= CLEAR:
            return "faster"
        if self.speedup.high < 1 and self.speedup.median <= 1 / CLEAR:
            return "slower"
        return "same"


@dataclass(frozen=True)
class Latency:
    """Both networks in one engine at one batch size."""

    engine: str
    batch: int
    duel: Duel


def duel(before: Call, after: Call, *, seconds: float = 2.0) -> Duel:
    """Let two calls take turns.

    Args:
        before: The first.
        after: The second.
        seconds: About how long it may take, where 7 rounds take no longer.
    """
    start = time.perf_counter()
    turn(before), turn(after)
    each = time.perf_counter() - start
    rounds = min(_MOST, max(_FEWEST, int(seconds / each)))
    times: list[tuple[float, float]] = []
    for i in range(rounds):
        second = turn(after) if i % 2 else None
        first = turn(before)
        times.append((first, turn(after) if second is None else second))
    firsts, seconds_ = zip(*times, strict=True)
    return Duel(
        quartiles(firsts), quartiles(seconds_), median_interval([a / b for a, b in times]), len(times)
    )


def turn(call: Call) -> float:
    """The median seconds of some calls in a row, after a rest and calls that are not counted."""
    time.sleep(_REST)
    _calls(call, _WARM)
    return median(_calls(call, _TURN))


def _calls(call: Call, seconds: float) -> list[float]:
    """How long each call took: at least one, and as many as fit into so many seconds."""
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def quartiles(values: Sequence[float]) -> Spread:
    """The median, and the values between which half of them lie."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Spread(median(ordered), ordered[quarter], ordered[-1 - quarter])


def median_interval(values: Sequence[float]) -> Spread:
    """The median with a confidence interval of at least 95 %, from order statistics.

    Of n independent values, the k-th smallest and the k-th largest enclose the median of what they come from
    except with probability 2·P(Binomial(n, 1/2) < k). The largest k that leaves at most 5 % is taken; below
    six values there is none, and the interval has no bounds.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while k < n // 2 and outside + math.comb(n, k) / 2**n <= 0.025:
        outside += math.comb(n, k) / 2**n
        k += 1
    if k == 0:
        return Spread(median(ordered), -math.inf, math.inf)
    return Spread(median(ordered), ordered[k - 1], ordered[n - k])
