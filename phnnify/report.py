"""What a conversion did, as one plain value, and as JSON, Markdown and HTML.

Parts that were not measured are None (`null`), never guessed.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from phnnify import __version__, algebras
from phnnify.change import UNMEASURED, Change
from phnnify.chart import line_chart
from phnnify.choose import Choice, Level
from phnnify.distilling.course import Course
from phnnify.evaluate import Evaluation
from phnnify.export import OnnxFile
from phnnify.fit import Fit
from phnnify.pages import html_page, html_table, markdown_table
from phnnify.plan import Plan
from phnnify.trace import Site, Trace

NEEDS_DISTILLATION = (
    "Fitted to the weights alone, without data: expect a network near chance. "
    "It needs distillation from the original before use."
)
NOTHING_FITTED = "Nothing was fitted: all weights are drawn anew, to be trained from scratch."
FITTED = "Fitted to {samples} inputs, layer after layer."
ADVICE = (
    "Distillation from the original (--distill) brings it nearer still; look at the accuracy before you use "
    "it."
)
FOLDED = "{kind} folded into the weights of {names}: converted, they have none."
LEARNED = (
    "Learned from the original for {steps:,} steps of {batch} inputs, {minutes:.1f} minutes at the highest "
    "rate of {rate:.1e}{kept}. Errors of single layers are those before."
)
_SHOWN = 5  # names in a note


@dataclass(frozen=True)
class LayerReport:
    """What happened to one weight, and why.

    Attributes:
        status: 'converted' or 'kept'; `reason` says why it was kept.
        order: [n_out, n_in]; with `terms`, None where it was kept.
        rank: Of a low-rank term; 0 where there is none, None where it was kept.
        algebra: 'learned', 'shared' (its numbers count with the first layer that has it), or the name of a
            fixed one (which counts nowhere); None where it was kept.
        params_share, flops_share: Its part of the network's parameters, and of the FLOPs of all weights whose
            FLOPs are known.
        calls, flops: Of one forward pass on the example input; None where unknown.
        weight_error: ‖W−Ŵ‖/‖W‖. output_error: the same for its outputs, where there was data.
        predicted_error: What its output error was expected to be, on the inputs that the original sees.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    status: str
    reason: str | None
    order: tuple[int, int] | None
    terms: int | None
    rank: int | None
    algebra: str | None
    params_before: int
    params_after: int
    params_share: float
    calls: int | None
    flops: int | None
    flops_share: float | None
    weight_error: float | None = None
    output_error: float | None = None
    predicted_error: float | None = None


@dataclass(frozen=True)
class Report:
    """The report of a conversion or an inspection. `to_json` has the keys that stay."""

    n: int
    params: Change[int]
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    bytes: Change[int] = UNMEASURED
    onnx: OnnxFile | None = None
    evaluation: Evaluation | None = None
    predicted_damage: float | None = None
    levels: tuple[Level, ...] = ()
    distillation: Course | None = None

    @property
    def converted(self) -> Change[int]:
        """Parameters of the converted weights alone."""
        rows = [layer for layer in self.layers if layer.status == "converted"]
        return Change(sum(r.params_before for r in rows), sum(r.params_after for r in rows))

    def with_files(self, sizes: Change[int], onnx: OnnxFile | None = None, note: str | None = None) -> Report:
        """The report once files are written; `note` is what to know about the model file."""
        more = [each for each in (note, onnx.note if onnx else None) if each]
        return replace(self, bytes=sizes, onnx=onnx, notes=(*self.notes, *more))

    def to_dict(self) -> dict[str, Any]:
        """The keys of the JSON form."""
        accuracy = self.evaluation.accuracy if self.evaluation else None
        return {
            "phnnify": __version__,
            "n": self.n,
            "params": asdict(self.params),
            "params_converted": asdict(self.converted),
            "bytes": asdict(self.bytes),
            "layers": [asdict(layer) for layer in self.layers],
            "notes": list(self.notes),
            "predicted_damage": self.predicted_damage,
            "levels": [asdict(level) for level in self.levels],
            "accuracy": asdict(accuracy) if accuracy else None,
            "agreement": asdict(self.evaluation.agreement) if self.evaluation else None,
            "distillation": asdict(self.distillation) if self.distillation else None,
            "latency": None,
            "onnx": asdict(self.onnx) if self.onnx else None,
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_markdown(self) -> str:
        """The report as Markdown."""
        parts = [
            f"# phnnify: n = {self.n}",
            *self.notes,
            markdown_table(SUMMARY_HEADINGS, summary(self)),
        ]
        if self.levels:
            parts += ["## Sizes", markdown_table(LEVEL_HEADINGS, level_rows(self))]
        if self.distillation:
            parts += ["## Distillation", markdown_table(MOMENT_HEADINGS, moment_rows(self.distillation))]
        parts += ["## Layers", markdown_table(HEADINGS, [layer_cells(layer) for layer in self.layers])]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """The report as one HTML page that needs nothing else."""
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        overview = html_table(SUMMARY_HEADINGS, summary(self))
        rows = html_table(HEADINGS, [layer_cells(layer) for layer in self.layers])
        sizes = f"<h2>Sizes</h2>{html_table(LEVEL_HEADINGS, level_rows(self))}" if self.levels else ""
        title = f"phnnify: n = {self.n}"
        learned = f"<h2>Distillation</h2>{_charts(self.distillation)}" if self.distillation else ""
        return html_page(title, f"{notes}{overview}{sizes}{learned}<h2>Layers</h2>{rows}")

    def with_distillation(self, course: Course, evaluation: Evaluation | None) -> Report:
        """The report once the network has learned from its original, and was compared with it again."""
        best = course.best_step
        kept = "" if best is None else f"; what is kept is its best state, of step {best:,}"
        note = LEARNED.format(
            steps=course.steps, batch=course.batch, minutes=course.seconds / 60, rate=course.rate, kept=kept
        )
        notes = [note for note in self.notes if note not in (ADVICE, NEEDS_DISTILLATION)]
        return replace(self, notes=(*notes, note), distillation=course, evaluation=evaluation)


SUMMARY_HEADINGS = ("whole network", "before", "after", "kept")
LEVEL_HEADINGS = ("size of the network", "parameters", "expected change of the answer")
MOMENT_HEADINGS = ("step", "minutes", "loss", "rate", "on --eval")
HEADINGS = ("layer", "shape", "before", "after", "error, or why it stays")


def make_report(
    trace: Trace,
    plan: Plan,
    fits: Mapping[str, Fit] | None = None,
    notes: Sequence[str] = (),
    expected: Choice | None = None,
    levels: tuple[Level, ...] = (),
) -> Report:
    """Put together what the stages know.

    Args:
        trace: The sites.
        plan: The decision about each of them.
        fits: The fit of each converted one; None where nothing was fitted.
        notes: What a reader should know, in sentences.
        expected: What the choice of the plan predicted.
        levels: Sizes of the network and the damage expected at each.
    """
    sites = {site.name: site for site in trace.sites}
    sizes = plan.sizes({name: sites[name].matrix or () for name in plan.conversions})
    flops = sum(site.flops or 0 for site in trace.sites)
    layers = []
    for decision in plan.decisions:
        site, order = sites[decision.name], decision.order
        fit = fits[decision.name] if fits and order else None
        layers.append(
            LayerReport(
                name=site.name,
                kind=site.kind,
                shape=site.shape,
                status="converted" if order else "kept",
                reason=decision.reason,
                order=(order.n_out, order.n_in) if order else None,
                terms=order.terms if order else None,
                rank=order.rank if order else None,
                algebra=decision.algebra if order else None,
                params_before=_parameters(site),
                params_after=sizes.get(site.name, _parameters(site)),
                params_share=site.share,
                calls=site.calls,
                flops=site.flops,
                flops_share=site.flops / flops if flops and site.flops is not None else None,
                weight_error=fit.weight_error if fit else None,
                output_error=fit.output_error if fit else None,
                predicted_error=expected.errors.get(site.name) if expected and order else None,
            )
        )
    saved = sum(layer.params_before - layer.params_after for layer in layers)
    notes = [*([trace.note] if trace.note else []), *_folded(plan, sites), *notes]
    return Report(
        plan.n,
        Change(trace.parameters, trace.parameters - saved),
        tuple(layers),
        tuple(notes),
        predicted_damage=expected.damage if expected else None,
        levels=levels,
    )


def _parameters(site: Site) -> int:
    """Those of the original, where a norm may have been folded."""
    return site.parameters + (site.norm.parameters if site.norm else 0)


def _folded(plan: Plan, sites: Mapping[str, Site]) -> Iterator[str]:
    """One sentence for each kind of norm that converted weights had."""
    kinds: dict[str, list[str]] = {}
    for name in plan.conversions:
        if norm := sites[name].norm:
            kinds.setdefault(norm.kind, []).append(name)
    for kind, names in kinds.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield FOLDED.format(kind=kind.capitalize(), names=", ".join(names[:_SHOWN]) + more)


def level_rows(report: Report) -> list[tuple[str, ...]]:
    """One row under `LEVEL_HEADINGS` for each size."""
    total = report.params.before or 0
    return [(f"{x.share:.0%}", f"{int(x.share * total):,}", f"{x.damage:.3f}") for x in report.levels]


def moment_rows(course: Course) -> list[tuple[str, ...]]:
    """One row under `MOMENT_HEADINGS` for each time that the student was measured, else for ten moments."""
    shown = [m for m in course.history if m.metric is not None]
    shown = shown or [course.history[i * (len(course.history) - 1) // 9] for i in range(10) if course.history]
    return [
        (
            f"{m.step:,}",
            f"{m.seconds / 60:.1f}",
            "" if m.loss is None else f"{m.loss:.4g}",
            f"{m.rate:.1e}",
            "" if m.metric is None else f"{m.metric:.1%}",
        )
        for m in shown
    ]


def _charts(course: Course) -> str:
    """The loss, and what was measured, over the steps."""
    measured = [(m.step, m.metric) for m in course.history if m.metric is not None]
    curves = {
        "loss": [(m.step, m.loss) for m in course.history if m.loss is not None],
        f"{course.metric} on the evaluation data": measured,
        "learning rate": [(m.step, m.rate) for m in course.history],
    }
    return "".join(line_chart(title, "steps", points) for title, points in curves.items() if points)


def summary(report: Report) -> list[tuple[str, ...]]:
    """Rows (what, before, after, kept) about the whole network."""
    rows = [
        _summary_row("parameters", report.params),
        _summary_row("converted part", report.converted),
        _summary_row("model file, bytes", report.bytes),
    ]
    if report.onnx:
        rows.append(("ONNX file, bytes", "", f"{report.onnx.bytes:,}", ""))
    if report.predicted_damage is not None:
        rows.append(("expected change of the answer", "", f"{report.predicted_damage:.3f}", ""))
    rows = [row for row in rows if row[1] or row[2]]
    return rows + _evaluation_rows(report.evaluation) if report.evaluation else rows


def _evaluation_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    accuracy, agreement = evaluation.accuracy, evaluation.agreement
    rows: list[tuple[str, ...]] = []
    if accuracy:
        rows.append((f"{accuracy.metric} accuracy", f"{accuracy.teacher:.1%}", f"{accuracy.student:.1%}", ""))
        if accuracy.student_before is not None:
            rows.append(("  before its distillation", "", f"{accuracy.student_before:.1%}", ""))
    if agreement.top1 is not None:
        rows.append(("same answer as the original", "", f"{agreement.top1:.1%}", ""))
        if agreement.kl is not None:
            rows.append(("divergence of the answers, nats", "", f"{agreement.kl:.3f}", ""))
    else:
        rows.append(("error of the output", "", f"{agreement.relative_error:.1%}", ""))
    return rows


def _summary_row(what: str, change: Change[int]) -> tuple[str, ...]:
    numbers = ["" if number is None else f"{number:,}" for number in (change.before, change.after)]
    return (what, *numbers, "" if change.kept is None else f"{change.kept:.1%}")


def layer_cells(layer: LayerReport) -> tuple[str, ...]:
    """One row under `HEADINGS`."""
    shape = "×".join(map(str, layer.shape))
    if layer.status == "kept":
        return layer.name, shape, f"{layer.params_before:,}", "kept", layer.reason or ""
    last = form_of(layer)
    if layer.output_error is not None:
        last = f"{layer.output_error:.1%} of its output; {last}"
    elif layer.weight_error is not None:
        last = f"{layer.weight_error:.1%} of the weight; {last}"
    elif layer.predicted_error is not None:
        last = f"{layer.predicted_error:.1%} of its output expected; {last}"
    elif layer.flops_share is not None:
        last += f"; {layer.flops_share:.1%} of FLOPs"
    return layer.name, shape, f"{layer.params_before:,}", f"{layer.params_after:,}", last


def form_of(layer: LayerReport) -> str:
    """What a converted weight is made of, such as `order 8×4, 6 terms, rank 2`."""
    kronecker = f"order {layer.order[0]}×{layer.order[1]}, {layer.terms} terms" if layer.order else ""
    algebra = f"{layer.algebra} algebra" if layer.algebra not in (None, algebras.LEARNED) else ""
    rank = f"rank {layer.rank}" if layer.rank else ""
    return ", ".join(filter(None, [kronecker if layer.terms else "", algebra, rank]))
