"""What a conversion did, as one plain value, and as JSON, Markdown and HTML.

Parts that were not measured are None (`null`), never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from phnnify import __version__
from phnnify.change import UNMEASURED, Change
from phnnify.choose import Choice, Level
from phnnify.distilling.course import Course
from phnnify.distilling.shown import MOMENT_HEADINGS, course_charts, moment_rows
from phnnify.evaluate import Evaluation
from phnnify.export import OnnxFile
from phnnify.fit import Fit
from phnnify.layer_report import LAYER_HEADINGS, LayerReport, layer_cells
from phnnify.notes import after_distillation, folded_norms
from phnnify.pages import html_page, html_table, markdown_page, markdown_table
from phnnify.plan import Plan
from phnnify.strict import json_text
from phnnify.trace import Site, Trace


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

    def with_distillation(self, course: Course, evaluation: Evaluation | None) -> Report:
        """The report once the network has learned from its original, and was compared with it again."""
        outdated = self.evaluation.notes() if self.evaluation else ()
        notes = after_distillation([note for note in self.notes if note not in outdated], course)
        notes = (*notes, *(evaluation.notes() if evaluation else ()))
        return replace(self, notes=notes, distillation=course, evaluation=evaluation)

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
        return json_text(self.to_dict(), indent=2)

    @property
    def title(self) -> str:
        """What a page is called."""
        return f"phnnify: n = {self.n}"

    def to_markdown(self) -> str:
        """The report as Markdown."""
        parts = [*self.notes, markdown_table(SUMMARY_HEADINGS, summary(self))]
        if self.levels:
            parts += ["## Sizes", markdown_table(LEVEL_HEADINGS, level_rows(self))]
        if self.distillation:
            parts += ["## Distillation", markdown_table(MOMENT_HEADINGS, moment_rows(self.distillation))]
        parts += ["## Layers", markdown_table(LAYER_HEADINGS, map(layer_cells, self.layers))]
        return markdown_page(self.title, parts)

    def to_html(self) -> str:
        """The report as one HTML page that needs nothing else."""
        parts = [html_table(SUMMARY_HEADINGS, summary(self))]
        if self.levels:
            parts += ["<h2>Sizes</h2>", html_table(LEVEL_HEADINGS, level_rows(self))]
        if self.distillation:
            parts += ["<h2>Distillation</h2>", course_charts(self.distillation)]
        parts += ["<h2>Layers</h2>", html_table(LAYER_HEADINGS, map(layer_cells, self.layers))]
        return html_page(self.title, self.notes, parts)


SUMMARY_HEADINGS = ("whole network", "before", "after", "kept")
LEVEL_HEADINGS = ("size of the network", "parameters", "expected change of the answer")


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
    notes = [*([trace.note] if trace.note else []), *folded_norms(plan, sites), *notes]
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


def level_rows(report: Report) -> list[tuple[str, ...]]:
    """One row under `LEVEL_HEADINGS` for each size."""
    total = report.params.before or 0
    return [(f"{x.share:.0%}", f"{int(x.share * total):,}", f"{x.damage:.3f}") for x in report.levels]


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
