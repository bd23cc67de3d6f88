"""`phnnify distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phnnify.cli import options
from phnnify.cli.reading import read_data_options, read_recipe, read_source
from phnnify.cli.writing import (
    at_work,
    check_targets,
    conclude,
    is_first,
    run_files,
    save_final,
    write_reports,
)

Teacher = Annotated[Path, typer.Argument(metavar="TEACHER", help="The original; see MODEL of convert.")]
Student = Annotated[Path, typer.Argument(metavar="STUDENT", help="What convert wrote.")]
Data = Annotated[str, typer.Option(metavar="REF", help="Inputs to learn on; see convert.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The trained student, as convert writes it. By default STUDENT-distilled, in STUDENT's form.",
    ),
]


def distill(
    teacher: Teacher,
    student: Student,
    data: Data,
    output: Output = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    evaluation: options.Eval = None,
    size: options.Size = None,
    mean: options.Mean = "",
    std: options.Std = "",
    steps: options.Steps = None,
    epochs: options.Epochs = None,
    minutes: options.Minutes = None,
    batch: options.BatchSize = 128,
    optimizer: options.Optimizer = "adamw",
    rate: options.Rate = None,
    loss: options.Loss = "auto",
    temperature: options.Temperature = None,
    labels: options.Labels = None,
    hidden: options.Hidden = None,
    augment: options.Augment = "none",
    precision: options.Precision = "auto",
    checkpoint_minutes: options.CheckpointMinutes = 5.0,
    log: options.LogFile = None,
    resume: options.Resume = False,
    report: options.Reports = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train a converted network to answer as its original does."""
    from phnnify import pipeline, sources, store

    data_options = read_data_options(size, mean, std)
    recipe = read_recipe(
        steps=steps, epochs=epochs, minutes=minutes, batch=batch, optimizer=optimizer, rate=rate, loss=loss,
        temperature=temperature, labels=labels, hidden=hidden, augment=augment, precision=precision,
        checkpoint_minutes=checkpoint_minutes, device=device, seed=seed,
    )  # fmt: skip
    target = output or sources.name_beside(student, "distilled", student.suffix)
    reports = report or []
    store.check_ending(target)
    check_targets(teacher, [log, *reports], reports, output=target)
    check_targets(student, [], [], output=target)
    files = run_files(target, resume, log)
    with at_work(quiet=quiet or as_json or not is_first()) as watch:
        watch(f"reading {teacher.name}", 0, 0)
        original = read_source(teacher, arch, trust, "cpu", seed)
        watch(f"reading {student.name}", 0, 0)
        converted = sources.read_converted(student, arch=arch, trust=trust)
        store.check_ending(target, converted)
        result = pipeline.distill(
            original.model, converted, data, recipe,
            eval_data=evaluation, data_options=data_options, files=files, watch=watch,
        )  # fmt: skip
        if not is_first():
            return
        folder = student if student.is_dir() else teacher
        done = save_final(result, target, original.bytes, folder, watch)
    write_reports(done, reports)
    conclude(done, [target, *reports], result.trouble, quiet=quiet, as_json=as_json)
