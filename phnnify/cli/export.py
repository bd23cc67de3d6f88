"""`phnnify export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phnnify import __version__
from phnnify.cli import options
from phnnify.cli.reading import check_quantize, read_data_options, refuse_without
from phnnify.cli.writing import Quantizing, at_work, check_ending, check_targets, write_onnx
from phnnify.errors import UsageError
from phnnify.strict import json_text

Onnx = Annotated[Path | None, typer.Option(metavar="FILE", help="The ONNX file to write.")]
Program = Annotated[
    Path | None,
    typer.Option("--pt2", metavar="FILE", help="The torch.export program to write, for torch alone."),
]

Batch = Annotated[
    int | None,
    typer.Option(min=1, help="The batch size that --form auto expects; by default that of --input."),
]


def export(
    context: typer.Context,
    model: options.ModelPath,
    onnx: Onnx = None,
    pt2: Program = None,
    inputs: options.InputSpecs = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    form: options.FormOption = "auto",
    batch: Batch = None,
    opset: options.Opset = 18,
    quantize: options.Quantize = None,
    data: options.Data = None,
    samples: options.Samples = 512,
    evaluation: options.Eval = None,
    size: options.Size = None,
    mean: options.Mean = "",
    std: options.Std = "",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write a network, converted or not, as a checked ONNX file or torch.export program."""
    from phnnify import render, sources, store
    from phnnify.inputs import read_inputs

    specs, data_options = read_inputs(inputs or []), read_data_options(size, mean, std)
    check_quantize(quantize, onnx)
    if quantize is None and (data or evaluation):
        raise UsageError("--data and --eval need --quantize", hint="add --quantize int8, or leave them out")
    check_targets(model, [onnx, pt2], [])
    if not (onnx or pt2):
        raise UsageError("nothing to write", hint="--onnx FILE or --pt2 FILE")
    if not onnx:
        refuse_without("--onnx", ["form", "batch"], context)
    check_ending("--onnx", onnx, ".onnx")
    check_ending("--pt2", pt2, store.PROGRAM)
    with at_work(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        network = sources.read_any(model, arch=arch, trust=trust)
        checked = note = None
        if pt2:
            watch(f"exporting {pt2.name}", 0, 0)
            note = store.save(network, pt2, inputs=specs)
        if onnx:
            watch(f"exporting {onnx.name}", 0, 0)
            checked = write_onnx(
                network, onnx, specs,
                Quantizing(quantize, data, evaluation, data_options, samples) if quantize else None,
                form=form, batch=batch, opset=opset, seed=seed,
            )  # fmt: skip
    if as_json:
        found = {
            "onnx": asdict(checked) if checked else None,
            "pt2": str(pt2) if pt2 else None,
            "pt2_note": note,
        }
        typer.echo(json_text({"phnnify": __version__, **found}, 2))
    elif not quiet:
        if checked:
            render.show_onnx(checked)
        if note:
            render.show_note(note)
        if pt2:
            render.say(f"wrote {pt2}")
