"""`phnnify export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from phnnify import __version__
from phnnify.cli import options
from phnnify.cli.writing import at_work, check_targets

Onnx = Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")]


def export(
    model: options.ModelPath,
    onnx: Onnx,
    inputs: options.InputSpecs = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    opset: options.Opset = 18,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write a network, converted or not, as a checked ONNX file."""
    from phnnify import render, store
    from phnnify.export import export_onnx
    from phnnify.inputs import read_inputs

    specs = read_inputs(inputs or [])
    check_targets(model, [onnx], [])
    with at_work(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        network = store.read_any(model, arch=arch, trust=trust)
        watch(f"exporting {onnx.name}", 0, 0)
        checked = export_onnx(network, onnx, specs, opset=opset, seed=seed)
    if as_json:
        typer.echo(json.dumps({"phnnify": __version__, "onnx": asdict(checked)}, indent=2))
    elif not quiet:
        render.show_onnx(checked)
