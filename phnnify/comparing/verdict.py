"""Which of two networks to take, and why: the rule, and its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phnnify.comparing.latency import Latency
from phnnify.evaluate import Evaluation

SIZE_GAIN = 1.1  # times smaller (or larger), from which on a file counts as such
ACCURACY = (0.01, 0.05)  # a drop that counts against the second network, and one that decides
AGREEMENT = (0.05, 0.25)  # the same without labels: other answers, or the relative error of the output


@dataclass(frozen=True)
class Verdict:
    """Which network to take, and why.

    Attributes:
        decision: 'take' the second one, 'keep' the first one, or 'trade' one good for another.
        gains, losses: What speaks for the second network, and against it, in words.
    """

    decision: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]

    def words(self, before: str, after: str) -> str:
        """As a sentence about A and B, whose names are given."""
        first, second = f"A ({before})", f"B ({after})"
        good, bad = "; ".join(self.gains), "; ".join(self.losses)
        if self.decision == "take":
            return f"Take {second}: it {good}."
        if self.decision == "trade":
            return f"A trade: {second} {good}; but it {bad}."
        text = f"Keep {first}: {second} {bad or 'gains nothing that was measured'}"
        return f"{text}, though it {good}." if good else f"{text}."


def judge(smaller: float | None, latency: Sequence[Latency], evaluation: Evaluation | None) -> Verdict:
    """Which network to take.

    The second one gains where its file is at least 1.1 times smaller, and in each engine and batch size
    where it is faster (`Duel.outcome`: the 95 % interval of the ratio excludes 1, and its median is at
    least 1.03). It loses by the same rules turned round, and where its accuracy is more than 1 point
    lower; without labels, where more than 5 % of the answers differ, or of the output's norm.

    keep: it gains nothing, or loses more than 5 points of accuracy (without labels: 25 % of the answers).
    take: it gains something, and loses nothing.
    trade: anything else.

    Args:
        smaller: How many times smaller its file is; None where that is not known.
        latency: How fast both are.
        evaluation: What they answer; None where that was not compared.
    """
    gains = (*_size_words(smaller, "smaller"), *_speed_words(latency, "faster"))
    lost, decides = _lost(evaluation)
    inverse = 1 / smaller if smaller else None
    losses = (*_size_words(inverse, "larger"), *_speed_words(latency, "slower"), *lost)
    if not gains or decides:
        return Verdict("keep", gains, losses)
    return Verdict("trade" if losses else "take", gains, losses)


def _size_words(ratio: float | None, word: str) -> list[str]:
    return [f"is {ratio:.1f} times {word}"] if ratio is not None and ratio >= SIZE_GAIN else []


def _speed_words(rows: Sequence[Latency], outcome: str) -> list[str]:
    """For each engine, the batch sizes at which it is so, with the ratios."""
    words = []
    for engine in dict.fromkeys(x.engine for x in rows):
        found = [x for x in rows if x.engine == engine and x.duel.outcome == outcome]
        if found:
            batches = ", ".join(str(x.batch) for x in found)
            ratios = ", ".join(f"{x.duel.speedup.median:.2f}" for x in found)
            words.append(f"is {outcome} in {engine} at batch {batches} ({ratios} times as fast)")
    return words


def _lost(evaluation: Evaluation | None) -> tuple[list[str], bool]:
    """What was lost in words, if it counts, and whether it alone decides."""
    if evaluation is None:
        return [], False
    accuracy, agreement = evaluation.accuracy, evaluation.agreement
    counts, decides = ACCURACY if accuracy else AGREEMENT
    drop = evaluation.drop
    if drop <= counts:
        return [], False
    if accuracy:
        change = f"from {accuracy.teacher:.1%} to {accuracy.student:.1%}"
        words = f"loses {100 * drop:.1f} points of accuracy, {change} on {agreement.samples:,} inputs"
    elif agreement.top1 is not None:
        words = f"answers {drop:.1%} of {agreement.samples:,} inputs differently"
    else:
        words = f"is off by {drop:.1%} of the output"
    return [words], drop > decides
