"""What a person sees in the terminal: tables on stdout, progress and talk on stderr. Alone imports rich."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from phnnify.conversion import Watcher
from phnnify.errors import PhnnifyError
from phnnify.export import OnnxFile
from phnnify.report import HEADINGS, LEVEL_HEADINGS, Report, layer_cells, level_rows, summary

_NAME_WIDTH = 28  # columns of a layer's name
_TALK = 52  # columns of what is going on
_LONGEST = 2000  # characters of a message


def show_report(report: Report, console: Console | None = None) -> None:
    """The layers, the whole network, and what the reader should know."""
    console = console or Console()
    console.print(_layers(report))
    console.print(_whole(report))
    if report.levels:
        console.print(_levels(report))
    if report.onnx:
        console.print(_onnx_line(report.onnx))
    for note in report.notes:
        console.print(Text("note: ", "yellow") + Text(note, "default"))


def _layers(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column(HEADINGS[0], overflow="fold", max_width=_NAME_WIDTH)
    table.add_column(HEADINGS[1], no_wrap=True)
    for heading in HEADINGS[2:4]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(HEADINGS[4], overflow="fold")
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


def _whole(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for heading in ("\nwhole network", "\nbefore", "\nafter", "\nkept"):
        table.add_column(heading, justify="left" if "network" in heading else "right", no_wrap=True)
    for row in summary(report):
        table.add_row(*row)
    return table


def _levels(report: Report) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for heading in LEVEL_HEADINGS:
        table.add_column(f"\n{heading}", justify="right", no_wrap=True)
    for row in level_rows(report):
        table.add_row(*row)
    return table


def _onnx_line(onnx: OnnxFile) -> Text:
    any_batch = len(onnx.batches) > 1
    batch = "any batch size" if any_batch else f"batch size fixed at {onnx.batches[0]} by the network"
    return Text(
        f"{onnx.path}: {onnx.bytes:,} bytes, opset {onnx.opset}, {batch}; "
        f"ONNX Runtime differs from PyTorch by at most {onnx.max_rel_diff:.0e}"
    )


def show_onnx(onnx: OnnxFile) -> None:
    """One line about a checked ONNX file."""
    Console().print(_onnx_line(onnx), soft_wrap=True)


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
