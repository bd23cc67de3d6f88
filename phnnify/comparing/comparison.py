"""Two networks side by side, as one plain value, and as JSON, Markdown, HTML and SVG.

What was not measured is None, and a note says why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from phnnify import __version__
from phnnify.change import UNMEASURED, Change
from phnnify.chart import Curve, curves_chart
from phnnify.comparing.latency import Latency, Spread
from phnnify.comparing.verdict import Verdict, judge
from phnnify.errors import ModelError
from phnnify.evaluate import Evaluation
from phnnify.pages import html_page, html_table, markdown_page, markdown_table
from phnnify.strict import json_text


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
        """Which network to take."""
        return judge(self.bytes.ratio, self.latency, self.evaluation)

    @property
    def words(self) -> str:
        """The verdict as sentences."""
        text = self.verdict.words(*self.names)
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
        return json_text(self.to_dict(), indent=2)

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
