"""Side by side timing: noise of the machine hits every candidate alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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


Calls = Callable[[], Any] | Sequence[Callable[[], Any]]


def interleaved(candidates: Mapping[str, Calls], seconds: float) -> Times:
    """Rounds in which every candidate has a turn, for about `seconds`, but at least FEWEST of them.

    Of a candidate that is several calls, such as the same file in several sessions of ONNX Runtime (their
    times differ by up to a tenth, for as long as they live), each has its turn in another round.

    A turn is that of `phnnify compare`: a rest, calls that are not counted, and some that are. Every other
    round goes backwards. A round at first is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for calls in candidates.values():
        turn(_of_round(calls, 0))
    rounds = int(seconds / (time.perf_counter() - start))
    for i in range(max(FEWEST, min(MOST, rounds))):
        for name, calls in list(candidates.items())[:: -1 if i % 2 else 1]:
            times[name].append(turn(_of_round(calls, i)))
    return Times(times)


def _of_round(calls: Calls, number: int) -> Callable[[], Any]:
    return calls if callable(calls) else calls[number % len(calls)]


def verdict(passed: bool) -> str:
    """A word for a table."""
    return "PASS" if passed else "MISS"
