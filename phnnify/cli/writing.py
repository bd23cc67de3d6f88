"""What a command writes and says: refused before the work where it could only fail, done after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from phnnify.errors import DistillationError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from phnnify.data_options import DataOptions
    from phnnify.distilling.recipe import RunFiles
    from phnnify.export import OnnxFile
    from phnnify.forms import ExportForm
    from phnnify.inputs import InputSpec
    from phnnify.pages import Described
    from phnnify.pipeline import Result
    from phnnify.report import Report
    from phnnify.watching import Watcher


def is_first() -> bool:
    """Whether this is the process, of those that `accelerate launch` started, that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def check_targets(
    model: Path, targets: Sequence[Path | None], reports: Sequence[Path], *, output: Path | None = None
) -> None:
    """Refuse what could only fail after the work is done.

    Args:
        model: What is read.
        targets: Other files to write.
        reports: Those of them that are reports.
        output: The file or folder for the converted network.

    Raises:
        UsageError: an output is the input, two outputs are the same, or a report has an unknown ending.
        FileError: an output cannot be written.
    """
    from phnnify import pages
    from phnnify.files import check_target
    from phnnify.store import check_output

    given = [target for target in (output, *targets) if target is not None]
    for target in given:
        (check_output if target is output else check_target)(target)
        if _holds(target, model) or (target.exists() and _holds(model, target)):
            raise UsageError(f"{target} would overwrite the original", hint="give another name with -o")
    if len({target.resolve() for target in given}) < len(given):
        raise UsageError("two outputs have the same name")
    for path in reports:
        pages.check_ending(path)


def check_ending(option: str, target: Path | None, ending: str) -> None:
    """Refuse a file of another kind, which may be one that was not meant to be written over.

    Raises:
        UsageError: its name ends in something else.
    """
    if target and target.suffix != ending:
        raise UsageError(f"{option} {target} must end in {ending}")


def _holds(place: Path, path: Path) -> bool:
    """Whether a path is that of a file or folder, or of something in it."""
    return place.resolve() in (path.resolve(), *path.resolve().parents)


def run_files(target: Path, resume: bool, log: Path | None) -> RunFiles:
    """What a distillation leaves beside its output.

    Raises:
        UsageError: a run that was stopped left its state there, and was neither resumed nor given up.
    """
    from phnnify.distilling.recipe import RunFiles

    checkpoint = _checkpoint_of(target)
    if checkpoint.exists() and not resume:
        raise UsageError(
            f"{checkpoint} is the state of a run that was not finished",
            hint="--resume goes on with it; delete it to start anew",
        )
    return RunFiles(checkpoint, resume, log)


def _checkpoint_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.checkpoint")


@contextmanager
def at_work(*, quiet: bool) -> Iterator[Watcher]:
    """Tell on stderr what is going on. stdout is for results: what the network's own code prints is talk."""
    from phnnify import render

    with redirect_stdout(sys.stderr), render.progress(quiet=quiet) as watch:
        yield watch


def save_network(result: Result, target: Path, folder: Path) -> str | None:
    """Write the converted network and its plan, if this is the process that writes.

    Args:
        result: What to write.
        target: Where to.
        folder: What it was read from; where that is a folder, its small files go along.

    Returns:
        What to know about the file, if anything.
    """
    from phnnify import store
    from phnnify.measure import copied

    if not is_first():
        return None
    original = folder if folder.is_dir() else None
    network = copied(result.model, {}).cpu()
    return store.save(network, target, result.plan, original=original, inputs=result.inputs)


def keep_network(result: Result, target: Path, folder: Path, *, failed: bool, quiet: bool) -> None:
    """Write the converted network before something that could lose it.

    Args:
        result: As for `save_network`.
        target: As for `save_network`.
        folder: As for `save_network`.
        failed: Whether it could not be compared with the original, which is then said.
        quiet: Whether nothing is said.
    """
    from phnnify import render

    save_network(result, target, folder)
    if failed and not quiet and is_first():
        render.say(f"wrote {target}; its comparison with the original failed")


def save_final(result: Result, target: Path, before: int, folder: Path, watch: Watcher) -> Report:
    """Write the final network, drop the state of a run that led to it, and add both sizes, in bytes."""
    from phnnify import store
    from phnnify.change import Change
    from phnnify.distilling.checkpoint import remove_checkpoint

    watch(f"writing {target.name}", 0, 0)
    note = save_network(result, target, folder)
    if result.report.distillation:
        remove_checkpoint(_checkpoint_of(target))
    return result.report.with_files(Change(before, store.size_of(target)), note=note)


@dataclass(frozen=True)
class Quantizing:
    """How an ONNX file is written in smaller numbers.

    Attributes:
        kind: 'int8' or 'fp16'.
        data: A reference to calibration inputs.
        evaluation: A reference to inputs on which the smaller numbers are compared with the network.
        data_options: How references become inputs.
        samples: How many calibration inputs are used.
    """

    kind: str
    data: str | None
    evaluation: str | None
    data_options: DataOptions
    samples: int


def write_onnx(
    network: nn.Module,
    path: Path,
    inputs: Sequence[InputSpec],
    quantizing: Quantizing | None,
    *,
    form: ExportForm,
    batch: int | None = None,
    opset: int,
    seed: int,
) -> OnnxFile:
    """Write a checked ONNX file, in smaller numbers where that is asked for.

    Args:
        network: What to write.
        path: Where to.
        inputs: What it takes; where nobody says so, as the calibration data does.
        quantizing: How it is made smaller, if it is.
        form: As for `export_onnx`.
        batch: As for `export_onnx`.
        opset: As for `export_onnx`.
        seed: For everything random.
    """
    from phnnify.batches import calibration_batches, input_specs
    from phnnify.data import read_data
    from phnnify.export import export_onnx
    from phnnify.quantizing.quantized import export_quantized

    if quantizing is None:
        return export_onnx(network, path, inputs, form=form, batch=batch, opset=opset, seed=seed)
    how, options = quantizing, quantizing.data_options
    calibration = (
        calibration_batches(read_data(how.data, options, samples=how.samples, seed=seed), how.samples)
        if how.data
        else []
    )
    return export_quantized(
        network, path, inputs or input_specs(calibration), how.kind, calibration=calibration,
        data=read_data(how.evaluation, options) if how.evaluation else None,
        form=form, batch=batch, opset=opset, seed=seed,
    )  # fmt: skip


def write_reports(report: Described, paths: Sequence[Path]) -> None:
    """Write the report in the form of each file's ending."""
    from phnnify.pages import write_report

    for path in paths:
        write_report(report, path)


def print_report(report: Report, *, quiet: bool, as_json: bool) -> None:
    """Print the report on stdout, as tables or as JSON."""
    from phnnify import render

    if as_json:
        typer.echo(report.to_json())
    elif not quiet:
        render.show_report(report)


def conclude(
    report: Report, written: Sequence[Path], trouble: str | None, *, quiet: bool, as_json: bool
) -> None:
    """Print the report and name the files; fail where the distillation did, now that all was written.

    Raises:
        DistillationError: it was given up.
    """
    from phnnify import render

    print_report(report, quiet=quiet, as_json=as_json)
    if not (quiet or as_json):
        render.say(f"wrote {', '.join(map(str, written))}")
    if trouble:
        raise DistillationError(
            f"{trouble}; what was written is its best state", hint="a lower --rate, or other --data"
        )
