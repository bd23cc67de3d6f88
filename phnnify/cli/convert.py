"""`phnnify convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from phnnify.cli import options
from phnnify.cli.reading import (
    check_quantize,
    check_runtime,
    form_label,
    read_data_options,
    read_plan,
    read_recipe,
    read_source,
    refuse_beside,
    refuse_without,
)
from phnnify.cli.stream import convert_stream, plan_options
from phnnify.cli.writing import (
    Quantizing,
    at_work,
    check_ending,
    check_targets,
    conclude,
    is_first,
    keep_network,
    run_files,
    save_final,
    write_onnx,
    write_reports,
)
from phnnify.errors import UsageError

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The converted model: .safetensors (weights and plan), .pt (pickled module), .pt2 (a program "
        "for plain torch), or a name without an ending for a Hugging Face folder. "
        "By default MODEL-nN (MODEL-small with --budget or --max-drop, MODEL-quaternion with such an "
        "--algebra) beside you, in MODEL's form.",
    ),
]
Onnx = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also write a checked ONNX file; needs --input or --data."),
]
MaxDrop = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT",
        help="Instead of --n: the smallest network that loses at most so much accuracy on --data, or "
        "agreement with the original where that has no labels.",
    ),
]
PlanFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Follow this plan (TOML or JSON, from inspect).")
]
Streaming = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Convert a Hugging Face folder that may be larger than the memory, tensor by tensor, in closed "
        "form; started again after a stop, it goes on where it was.",
    ),
]
Workers = Annotated[
    int, typer.Option(min=1, help="How many processes work at once with --stream; each needs memory.")
]
Distilling = Annotated[
    bool,
    typer.Option("--distill", help="Let the converted network learn from the original, on all --data."),
]

_NETWORK = (
    "arch", "inputs", "onnx", "data", "samples", "evaluation", "algebra", "share_algebra", "init", "budget",
    "max_drop", "distilling", "device",
)  # fmt: skip


_CHOICES = (
    "budget", "max_drop", "low_rank", "algebra", "share_algebra", "embeddings", "include", "exclude",
    "min_share",
)  # fmt: skip


def convert(
    context: typer.Context,
    model: options.ModelPath,
    n: options.N = None,
    output: Output = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    inputs: options.InputSpecs = None,
    onnx: Onnx = None,
    form: options.FormOption = "auto",
    opset: options.Opset = 18,
    quantize: options.Quantize = None,
    data: options.Data = None,
    samples: options.Samples = 512,
    evaluation: options.Eval = None,
    size: options.Size = None,
    mean: options.Mean = "",
    std: options.Std = "",
    include: options.Include = None,
    low_rank: options.LowRank = None,
    embeddings: options.Embeddings = False,
    algebra: options.AlgebraName = None,
    share_algebra: options.ShareAlgebra = False,
    init: options.Init = "fit",
    budget: options.Budget = None,
    max_drop: MaxDrop = None,
    exclude: options.Exclude = None,
    min_share: options.MinShare = None,
    plan: PlanFile = None,
    stream: Streaming = False,
    workers: Workers = 1,
    distilling: Distilling = False,
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
    """Write a smaller copy of a trained network."""
    from phnnify import pipeline, sources, store
    from phnnify.inputs import read_inputs

    lesson: dict[str, Any] = {
        "steps": steps, "epochs": epochs, "minutes": minutes, "batch": batch, "optimizer": optimizer,
        "rate": rate, "loss": loss, "temperature": temperature, "labels": labels, "hidden": hidden,
        "augment": augment, "precision": precision, "checkpoint_minutes": checkpoint_minutes,
    }  # fmt: skip
    check_quantize(quantize, onnx)
    if not distilling:
        refuse_without("--distill", [*lesson, "log", "resume"], context)
    if not onnx:
        refuse_without("--onnx", ["form"], context)
    recipe = read_recipe(**lesson, device=device, seed=seed) if distilling else None
    specs = read_inputs(inputs or [])
    data_options = read_data_options(size, mean, std)
    reports = report or []
    if stream:
        refuse_beside("--stream", _NETWORK, context, "it never runs the network")
        chosen = plan_options(n, include, exclude, min_share, low_rank, embeddings)
        convert_stream(
            model, output, chosen, read_plan(plan), workers, trust, reports, quiet=quiet, as_json=as_json
        )
        return
    refuse_without("--stream", ["workers"], context)
    if plan:
        refuse_beside("--plan", _CHOICES, context, "it says itself what becomes of each weight")
    others = [onnx, log, *reports]
    check_targets(model, others, reports, output=output)
    check_ending("--onnx", onnx, ".onnx")
    if output:
        store.check_ending(output)
    followed = read_plan(plan)
    with at_work(quiet=quiet or as_json or not is_first()) as watch:
        watch(f"reading {model.name}", 0, 0)
        source = read_source(model, arch, trust, "cpu" if device is None else device, seed)
        specs = specs or source.inputs
        if onnx and not (specs or data):
            raise UsageError("--onnx needs an example input", hint="such as --input 1x3x32x32")
        label = "small" if budget or max_drop else form_label(n, followed, algebra, init)
        target = output or sources.name_beside(model, label, source.ending)
        store.check_ending(target, source.model)
        if target.suffix == store.PROGRAM and not (specs or data):
            raise UsageError("a .pt2 file needs an example input", hint="such as --input 1x3x32x32")
        check_targets(model, others, [], output=target)
        if onnx:
            check_runtime(source.model, specs, data, data_options, seed)
        result = pipeline.convert(
            source.model, n, inputs=specs, include=include or (), exclude=exclude or (),
            min_share=None if min_share is None else min_share / 100, low_rank=low_rank,
            embeddings=embeddings, algebra=algebra, share_algebra=share_algebra, init=init, budget=budget,
            max_drop=max_drop, plan=followed,
            data=data, samples=samples, eval_data=evaluation, data_options=data_options, distill=recipe,
            files=run_files(target, resume, log) if distilling else None,
            keep=lambda done: keep_network(
                done, target, model, failed=bool(evaluation) and done.report.evaluation is None,
                quiet=quiet or as_json,
            ),
            seed=seed, watch=watch,
        )  # fmt: skip
        if not is_first():
            return
        done, failure = save_final(result, target, source.bytes, model, watch), None
        try:
            if onnx:
                watch(f"exporting {onnx.name}", 0, 0)
                checked = write_onnx(
                    result.model, onnx, result.inputs,
                    Quantizing(quantize, data, evaluation, data_options, samples) if quantize else None,
                    form=form, opset=opset, seed=seed,
                )  # fmt: skip
                done = done.with_files(done.bytes, checked)
        except Exception as error:  # the conversion was done, whatever the exporter says
            failure, onnx = error, None
        write_reports(done, reports)
    written = [target, *([onnx] if onnx else []), *reports]
    conclude(done, written, result.trouble, quiet=quiet, as_json=as_json)
    if failure:
        raise failure
