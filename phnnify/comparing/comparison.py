"""Two networks side by side, as one plain value: what they weigh, how fast they are, and which one to take.

What was not measured is None, and a note says why.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phnnify import __version__
from phnnify.change import UNMEASURED, Change
from phnnify.chart import Curve, curves_chart
from phnnify.comparing.latency import Duel, Spread
from phnnify.errors import ModelError
from phnnify.evaluate import Evaluation
from phnnify.pages import html_page, html_table, markdown_page, markdown_table

SIZE_GAIN = 1.1  # times smaller (or larger), from which on a file counts as such
ACCURACY = (0.01, 0.05)  # a drop that counts against the second network, and one that decides
AGREEMENT = (0.05, 0.25)  # the same without labels: other answers, or the relative error of the output


@dataclass(frozen=True)
class EngineCosts:
    """What both networks cost in one engine.

    Attributes:
        engine: 'PyTorch', 'torch.compile' or 'ONNX Runtime'.
        bytes: Of the file that it reads.
        load_seconds: Until the first answer, in a fresh process.
        peak_bytes: The memory that takes at its height.
        reason: Why nothing was timed in this engine; None where it was.
    """

    engine: str
    bytes: Change[int] = UNMEASURED
    load_seconds: Change[float] = UNMEASURED
    peak_bytes: Change[int] = UNMEASURED
    reason: str | None = None


@dataclass(frozen=True)
class Latency:
    """Both networks in one engine at one batch size."""

    engine: str
    batch: int
    duel: Duel


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


@dataclass(frozen=True)
class Comparison:
    """Everything that was found about two networks.

    Attributes:
        names: Of the first and the second.
        params: Their parameters.
        bytes: Their files.
        engines: What they cost in each engine.
        latency: How fast they are there, at each batch size.
        evaluation: Agreement and accuracy; None without data.
        threads: On how many threads.
        notes: What was not measured and why.
    """

    names: tuple[str, str]
    params: Change[int]
    bytes: Change[int]
    engines: tuple[EngineCosts, ...]
    latency: tuple[Latency, ...]
    evaluation: Evaluation | None
    threads: int
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Which network to take.

        The second one gains where its file is at least 1.1 times smaller, and in each engine and batch size
        where it is faster (`Duel.outcome`: the 95 % interval of the ratio excludes 1, and its median is at
        least 1.03). It loses by the same rules turned round, and where its accuracy is more than 1 point
        lower; without labels, where more than 5 % of the answers differ, or of the output's norm.

        keep: it gains nothing, or loses more than 5 points of accuracy (without labels: 25 % of the answers).
        take: it gains something, and loses nothing.
        trade: anything else.
        """
        gains = [*_size_words(self.bytes.ratio, "smaller"), *_speed_words(self.latency, "faster")]
        inverse = 1 / self.bytes.ratio if self.bytes.ratio else None
        losses = [*_size_words(inverse, "larger"), *_speed_words(self.latency, "slower")]
        lost, decides = _lost(self.evaluation)
        losses += lost
        if not gains or decides:
            return Verdict("keep", tuple(gains), tuple(losses))
        return Verdict("trade" if losses else "take", tuple(gains), tuple(losses))

    @property
    def words(self) -> str:
        """The verdict as sentences."""
        first, second = f"A ({self.names[0]})", f"B ({self.names[1]})"
        found = self.verdict
        good, bad = "; ".join(found.gains), "; ".join(found.losses)
        if found.decision == "take":
            text = f"Take {second}: it {good}."
        elif found.decision == "trade":
            text = f"A trade: {second} {good}; but it {bad}."
        else:
            text = f"Keep {first}: {second} {bad or 'gains nothing that was measured'}"
            text += f", though it {good}." if good else "."
        return text if self.evaluation else f"{text} What it answers was not compared: that needs --data."

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON form; those that a conversion's report has too mean the same."""
        evaluation = self.evaluation
        return {
            "phnnify": __version__,
            "names": {"before": self.names[0], "after": self.names[1]},
            "params": asdict(self.params),
            "bytes": asdict(self.bytes),
            "threads": self.threads,
            "engines": [asdict(engine) for engine in self.engines],
            "latency": [
                {"engine": x.engine, "batch": x.batch, **asdict(x.duel), "outcome": x.duel.outcome}
                for x in self.latency
            ],
            "accuracy": asdict(evaluation.accuracy) if evaluation and evaluation.accuracy else None,
            "agreement": asdict(evaluation.agreement) if evaluation else None,
            "verdict": {**asdict(self.verdict), "words": self.words},
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """As Markdown."""
        parts = [
            self.words,
            *self.notes,
            markdown_table(COST_HEADINGS, cost_rows(self)),
            "## Latency",
            markdown_table(LATENCY_HEADINGS, latency_rows(self)),
        ]
        return markdown_page(self.title, parts)

    def to_html(self) -> str:
        """As one HTML page that needs nothing else."""
        parts = [
            html_table(COST_HEADINGS, cost_rows(self)),
            "<h2>Latency</h2>",
            html_table(LATENCY_HEADINGS, latency_rows(self)),
            self.to_svg() if self.latency else "",
        ]
        return html_page(self.title, (self.words, *self.notes), parts)

    def to_svg(self) -> str:
        """Latency against batch size, a curve for each network and engine, as an `<svg>` element.

        Raises:
            ModelError: nothing was timed.
        """
        if not self.latency:
            raise ModelError(f"nothing was timed, so there is nothing to draw: {'; '.join(self.notes)}")
        curves = []
        for place, engine in enumerate(dict.fromkeys(x.engine for x in self.latency)):
            rows = [x for x in self.latency if x.engine == engine]
            for name, dashed in zip("AB", (True, False), strict=True):
                spreads = [x.duel.before if dashed else x.duel.after for x in rows]
                points = [
                    (x.batch, 1e3 * s.median, 1e3 * s.low, 1e3 * s.high)
                    for x, s in zip(rows, spreads, strict=True)
                ]
                curves.append(Curve(f"{engine}, {name}", place, dashed, points))
        return curves_chart(f"milliseconds of a call; {self.title}", "samples in a batch", curves)

    @property
    def title(self) -> str:
        """Which network is A, and which is B."""
        return f"A: {self.names[0]}, B: {self.names[1]}"


COST_HEADINGS = ("", "A", "B", "B / A")
LATENCY_HEADINGS = ("engine", "batch", "A, ms", "B, ms", "A / B, 95 % sure", "B is")


def cost_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Rows (what, first, second, ratio) about everything but latency; without those that nobody measured."""
    rows = [
        _row("file, bytes", comparison.bytes, "{:,.0f}"),
        _row("parameters", comparison.params, "{:,.0f}"),
    ]
    for costs in comparison.engines:
        rows += [
            _row(f"{costs.engine}: file, bytes", costs.bytes, "{:,.0f}"),
            _row(f"{costs.engine}: first answer, ms", costs.load_seconds, "{:,.0f}", 1e3),
            _row(f"{costs.engine}: peak memory, MB", costs.peak_bytes, "{:,.1f}", 1e-6),
        ]
    return [row for row in rows if row[1] or row[2]] + _answer_rows(comparison.evaluation)


def _row(what: str, change: Change[float], form: str, unit: float = 1) -> tuple[str, ...]:
    numbers = ["" if n is None else form.format(n * unit) for n in (change.before, change.after)]
    return (what, *numbers, f"{1 / change.ratio:.1%}" if change.ratio else "")


def _answer_rows(evaluation: Evaluation | None) -> list[tuple[str, ...]]:
    if evaluation is None:
        return []
    accuracy, agreement = evaluation.accuracy, evaluation.agreement
    rows: list[tuple[str, ...]] = []
    if accuracy:
        rows.append((f"{accuracy.metric} accuracy", f"{accuracy.teacher:.1%}", f"{accuracy.student:.1%}", ""))
    if agreement.top1 is not None:
        rows.append(("same answer", "", f"{agreement.top1:.1%}", ""))
    rows.append(("error of the output", "", f"{agreement.relative_error:.1%}", ""))
    return rows


def latency_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """One row under LATENCY_HEADINGS for each engine and batch size."""
    return [
        (
            x.engine,
            str(x.batch),
            _milliseconds(x.duel.before),
            _milliseconds(x.duel.after),
            f"{x.duel.speedup.median:.2f} ({x.duel.speedup.low:.2f}, {x.duel.speedup.high:.2f})",
            x.duel.outcome,
        )
        for x in comparison.latency
    ]


def _milliseconds(spread: Spread) -> str:
    """The median and half of the distance of the quartiles, with three digits."""
    digits = 3 if spread.median < 1e-3 else 2 if spread.median < 1e-2 else 1 if spread.median < 0.1 else 0
    return f"{1e3 * spread.median:.{digits}f} ± {500 * (spread.high - spread.low):.{digits}f}"


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
