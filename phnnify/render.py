"""What a person sees in the terminal: tables on stdout, progress and talk on stderr. Alone imports rich."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from phnnify.comparing.comparison import COST_HEADINGS, LATENCY_HEADINGS, Comparison, cost_rows, latency_rows
from phnnify.errors import PhnnifyError
from phnnify.export import OnnxFile
from phnnify.layer_report import LAYER_HEADINGS, layer_cells
from phnnify.learned import Found
from phnnify.quantizing.quantized import QuantizedFile
from phnnify.report import (
    LEVEL_HEADINGS,
    SUMMARY_HEADINGS,
    Report,
    level_rows,
    summary,
)
from phnnify.watching import Watcher

_PARTS = {
    "network": "of the network",
    "predicted": "predicted, of those",
    "predictor": "of the small network that predicts them",
}
_DISTANCE = (
    "Distances are those of the spaces that the matrices span, whatever the basis between terms: 0 the same, "
    "1 orthogonal; random: what to expect without any likeness."
)
_NAME_WIDTH = 28  # columns of a layer's name
_TALK = 52  # columns of what is going on
_LONGEST = 2000  # characters of a message


def show_report(report: Report, console: Console | None = None) -> None:
    """The layers, the whole network, and what the reader should know."""
    console = console or Console()
    console.print(_layers(report))
    console.print(_numbers(SUMMARY_HEADINGS, summary(report)))
    if report.levels:
        console.print(_numbers(LEVEL_HEADINGS, level_rows(report)))
    if report.onnx:
        console.print(_onnx_line(report.onnx))
    for note in report.notes:
        console.print(Text("note: ", "yellow") + Text(note, "default"))


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """What two networks cost, how fast they are, which to take, and what was not measured."""
    console = console or Console()
    for letter, name in zip("AB", comparison.names, strict=True):
        console.print(Text(f"{letter}: {name}"))
    console.print(_numbers(COST_HEADINGS, cost_rows(comparison)))
    if comparison.latency:
        console.print(_numbers(LATENCY_HEADINGS, latency_rows(comparison)))
    console.print(Text("\nverdict: ", "bold") + Text(comparison.words, "default"))
    for note in comparison.notes:
        console.print(Text("note: ", "yellow") + Text(note, "default"))


def _numbers(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table after an empty line: words to the left, numbers to the right."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        numeric = any(row[place][:1].isdigit() for row in rows)
        table.add_column(f"\n{heading}", justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _layers(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column(LAYER_HEADINGS[0], overflow="fold", max_width=_NAME_WIDTH)
    table.add_column(LAYER_HEADINGS[1], no_wrap=True)
    for heading in LAYER_HEADINGS[2:4]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(LAYER_HEADINGS[4], overflow="fold")
    for layer in report.layers:
        name, *cells = layer_cells(layer)
        style = "dim" if layer.status == "kept" else "default"
        table.add_row(Text(_broken(name)), *map(Text, cells), style=style)
    return table


def _broken(name: str) -> str:
    """A long dotted name in lines that end at dots."""
    lines = [""]
    for part in re.findall(r"[^.]*\.|[^.]+", name):
        if lines[-1] and len(lines[-1] + part) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _onnx_line(onnx: OnnxFile) -> Text:
    any_batch = len(onnx.batches) > 1
    batch = "any batch size" if any_batch else f"batch size fixed at {onnx.batches[0]} by the network"
    lengths = [text for text in onnx.inputs if "?" in text]
    batch += f", any size of the axes marked in {', '.join(lengths)}" if lengths else ""
    if isinstance(onnx, QuantizedFile):
        return Text(f"{onnx.path}: {onnx.bytes:,} bytes, opset {onnx.opset}, {batch}; {_price(onnx)}")
    return Text(
        f"{onnx.path}: {onnx.bytes:,} bytes, opset {onnx.opset}, {batch}; "
        f"ONNX Runtime differs from PyTorch by at most {onnx.max_rel_diff:.0e}"
    )


def _price(onnx: QuantizedFile) -> str:
    """What smaller numbers gain and cost."""
    agreement, accuracy = onnx.evaluation.agreement, onnx.evaluation.accuracy
    text = f"{onnx.kind}, {onnx.float_bytes / onnx.bytes:.1f} times smaller than in float32"
    text += f", calibrated on {onnx.calibrated:,} inputs" if onnx.calibrated else ""
    text += f"; on {agreement.samples:,} {'random ' if onnx.measured_on != 'data' else ''}inputs it "
    text += f"differs from PyTorch by {agreement.relative_error:.2%} of the output"
    text += "" if agreement.top1 is None else f", answers {agreement.top1:.1%} alike"
    if accuracy:
        text += f", and its {accuracy.metric} accuracy is {accuracy.student:.1%} in place of "
        text += f"{accuracy.teacher:.1%}"
    return text


def show_algebras(found: Sequence[Found]) -> None:
    """One row for each algebra: the weights that have it, its form, and how far it is from named ones."""
    console = Console()
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("weight", overflow="fold", max_width=_NAME_WIDTH)
    for heading in ("algebra", "order", "terms", "random"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "algebra" else "right")
    table.add_column("distance from named ones", overflow="fold")
    for each in found:
        terms, n_out, n_in = each.A.shape
        distances = ", ".join(f"{name} {distance:.3f}" for name, distance in each.distances.items())
        cells = (
            each.kind,
            f"{n_out}×{n_in}",
            str(terms),
            f"{each.random:.3f}",
            distances or "none of this form",
        )
        table.add_row(Text(_broken(each.title)), *map(Text, cells))
    console.print(table)
    console.print(Text(_DISTANCE, "dim"))


def show_onnx(onnx: OnnxFile) -> None:
    """One line about a checked ONNX file, and its note."""
    Console().print(_onnx_line(onnx), soft_wrap=True)
    if onnx.note:
        show_note(onnx.note)


def show_note(note: str) -> None:
    """What to know about a file that was written."""
    Console().print(Text(f"note: {note}"), soft_wrap=True)


def show_hyper(found: Mapping[str, Any]) -> None:
    """What `hypernet.summary` found, as a table."""
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("parameters")
    table.add_column("number", justify="right", no_wrap=True)
    for part, count in found["params"].items():
        table.add_row(_PARTS[part], f"{count:,}")
    Console().print(table)
    for label, entries in (("inputs", found.get("inputs", {})), ("predicted", found.get("predicted", ()))):
        shown = [f"{name}:{size}" for name, size in entries.items()] if label == "inputs" else list(entries)
        if shown:
            Console().print(Text(f"{label}: {', '.join(shown)}"), soft_wrap=True)


def show_error(error: PhnnifyError) -> None:
    """`error: …` on stderr, and the hint after a blank line."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", "bold red") + Text(_printable(str(error)), "default"))
    if error.hint:
        console.print(Text("\nhint: ", "bold cyan") + Text(_printable(error.hint), "default"))


def _printable(text: str) -> str:
    """Names from a file may hold anything: no control character reaches the terminal, and no endless text."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def say(message: str) -> None:
    """A line of talk, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(message))


@contextmanager
def progress(*, quiet: bool) -> Iterator[Watcher]:
    """A bar on stderr that a pipeline's stages move; nothing where nobody could see it move."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(14),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task: TaskID | None = None

        def watch(what: str, done: int, total: int) -> None:
            nonlocal task
            if task is None or bar.tasks[0].total != (total or None):  # a bar cannot forget its total
                if task is not None:
                    bar.remove_task(task)
                task = bar.add_task("", total=total or None)
            bar.update(task, description=what[:_TALK].ljust(_TALK), completed=done)

        yield watch
