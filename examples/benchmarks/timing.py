"""Side by side timing: noise of the machine hits every candidate alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from phnnify.comparing.latency import turn

FEWEST, MOST = 3, 25  # rounds


def interleaved(candidates: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The median seconds of each candidate over rounds in which every one has a turn, for about `seconds`.

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
    return {name: median(values) for name, values in times.items()}


def verdict(passed: bool) -> str:
    """A word for a table."""
    return "PASS" if passed else "MISS"
