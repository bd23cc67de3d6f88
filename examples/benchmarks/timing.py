"""Side by side timing: noise of the machine hits every candidate alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from phnnify.comparing.latency import rest


def interleaved(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each candidate over `rounds` rounds, each of which calls every one once.

    Before that comes a rest, as in `phnnify compare`: the threads of the one before would still look for
    work, and a second copy of the same network took twice as long. A call that is not counted fills the
    caches. Every other round goes backwards. Two rounds at first are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + 2):
        for name, call in list(candidates.items())[:: -1 if i % 2 else 1]:
            rest()
            call()
            start = time.perf_counter()
            call()
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def verdict(passed: bool) -> str:
    """A word for a table."""
    return "PASS" if passed else "MISS"
