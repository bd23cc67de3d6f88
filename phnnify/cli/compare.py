"""`phnnify compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phnnify.cli import options
from phnnify.cli.reading import read_data_options, read_engines, read_sizes
from phnnify.cli.writing import at_work, check_targets, write_reports
from phnnify.errors import UsageError

Before = Annotated[
    Path, typer.Argument(metavar="A", help="The original; see MODEL of convert. Or an .onnx file.")
]
After = Annotated[Path, typer.Argument(metavar="B", help="The converted network, or any other one.")]
Archs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="REF",
        help="Where a network comes from when its file holds only weights; given twice, first that of A.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="Data, best with labels, on which the answers are compared; see --eval of convert.",
    ),
]
Sizes = Annotated[
    str,
    typer.Option("--batch", metavar="A,B,C", help="Batch sizes; the first also for load time and memory."),
]
Engines = Annotated[
    str, typer.Option("--in", metavar="LIST", help="Where they run: pytorch, compile, onnx, or several.")
]
Threads = Annotated[int, typer.Option(min=1, help="On how many threads they compute.")]
Seconds = Annotated[
    float,
    typer.Option(min=0, metavar="FLOAT", help="How long is timed, about, in each engine at each batch size."),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw latency against batch size: .svg.")]


def compare(
    before: Before,
    after: After,
    arch: Archs = None,
    trust: options.Trust = False,
    inputs: options.InputSpecs = None,
    data: Data = None,
    size: options.Size = None,
    mean: options.Mean = "",
    std: options.Std = "",
    batch: Sizes = "1,8,64",
    engines: Engines = "pytorch,compile,onnx",
    threads: Threads = 2,
    seconds: Seconds = 2.0,
    report: options.Reports = None,
    plot: Plot = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Measure two networks side by side, and say which one to take."""
    from phnnify import render
    from phnnify.chart import standalone
    from phnnify.comparing import contest
    from phnnify.files import write_text
    from phnnify.inputs import read_inputs

    data_options = read_data_options(size, mean, std)
    specs, sizes, targets = read_inputs(inputs or []), read_sizes(batch), read_engines(engines)
    archs: list[str | None] = list(arch) if arch else [None]
    if len(archs) > 2:
        raise UsageError(f"--arch was given {len(archs)} times; there are two networks")
    if plot and plot.suffix != ".svg":
        raise UsageError(f"cannot tell what to draw to {plot}", hint="give a name that ends in .svg")
    reports = report or []
    for model in (before, after):
        check_targets(model, [plot, *reports], reports)
    with at_work(quiet=quiet or as_json) as watch:
        found = contest.compare(
            before, after, inputs=specs, data=data, data_options=data_options, batches=sizes,
            engines=targets, threads=threads, seconds=seconds, arch=(archs[0], archs[-1]), trust=trust,
            seed=seed, watch=watch,
        )  # fmt: skip
    if plot:
        write_text(plot, standalone(found.to_svg()))
    write_reports(found, reports)
    if as_json:
        typer.echo(found.to_json())
    elif not quiet:
        render.show_comparison(found)
