"""What is found about two networks, made up."""

from __future__ import annotations

from phnnify.comparing.latency import Duel, Latency, Spread
from phnnify.evaluate import Accuracy, Agreement, Evaluation


def times(engine: str, batch: int, before: float, speedup: float) -> Latency:
    """The first network takes `before` seconds, the second is `speedup` times as fast."""
    around = Spread(speedup, 0.99 * speedup, 1.01 * speedup)
    after = before / speedup
    spreads = [Spread(middle, 0.9 * middle, 1.1 * middle) for middle in (before, after)]
    return Latency(engine, batch, Duel(spreads[0], spreads[1], around, 9))


def judged(teacher: float, student: float) -> Evaluation:
    """The accuracy of both."""
    return Evaluation(Agreement(1000, 0.9, 0.1, 0.2), Accuracy("top-1", teacher, student))
