"""Side by side timing: noise of the machine hits every candidate alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from phnnify.comparing.latency import turn

FEWEST, MOST = 5, 25  # rounds


@dataclass(frozen=True)
class Times:
    """Seconds of each candidate, one for each round."""

    seconds: Mapping[str, list[float]]

    def of(self, name: str) -> float:
        """The median of one."""
        return median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as long one takes as another: the median over the rounds."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return median(first / second for first, second in pairs)


def interleaved(candidates: Mapping[str, Callable[[], Any]], seconds: float) -> Times:
    """Rounds in which every candidate has a turn, for about `seconds`, but at least FEWEST of them.

    A turn is that of `phnnify compare`: a rest, calls that are not counted, and some that are. Every other
    round goes backwards. A round at first is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for call in candidates.values():
        turn(call)
    rounds = int(seconds / (time.perf_counter() - start))
    for i in range(max(FEWEST, min(MOST, rounds))):
        for name, call in list(candidates.items())[:: -1 if i % 2 else 1]:
            times[name].append(turn(call))
    return Times(times)


def verdict(passed: bool) -> str:
    """A word for a table."""
    return "PASS" if passed else "MISS"
