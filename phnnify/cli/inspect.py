"""`phnnify inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phnnify.cli import options
from phnnify.cli.reading import read_data_options, read_source
from phnnify.cli.writing import at_work, check_targets, print_report, write_reports
from phnnify.errors import UsageError

PlanFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the plan, to edit and give to convert.")
]
ModelPath = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL", help="See convert. May be left out where --algebra is to be looked at."),
]
AlgebraName = Annotated[
    str | None,
    typer.Option(
        "--algebra",
        metavar="NAME|FILE",
        help="See convert. Without MODEL: look at the algebra itself, or where this is a converted network, "
        "at those that it has learned, and their distances from the named ones.",
    ),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the algebras looked at: .svg or .png.")]


def inspect(
    model: ModelPath = None,
    n: options.N = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    inputs: options.InputSpecs = None,
    low_rank: options.LowRank = None,
    embeddings: options.Embeddings = False,
    algebra: AlgebraName = None,
    share_algebra: options.ShareAlgebra = False,
    init: options.Init = "fit",
    budget: options.Budget = None,
    data: options.Data = None,
    samples: options.Samples = 512,
    size: options.Size = None,
    mean: options.Mean = "",
    std: options.Std = "",
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_share: options.MinShare = None,
    plan: PlanFile = None,
    plot: Plot = None,
    report: options.Reports = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Show what convert would do to each layer, and why; or what a converted network has learned."""
    from phnnify import pipeline, render
    from phnnify.change import Change
    from phnnify.files import write_text
    from phnnify.inputs import read_inputs
    from phnnify.plan_file import plan_json, plan_toml

    if model is None:
        if algebra is None:
            raise UsageError(
                "MODEL is missing", hint="or --algebra CONVERTED, to look at what it has learned"
            )
        _look_at(algebra, n, trust, include or [], exclude or [], plot, quiet=quiet, as_json=as_json)
        return
    if plot:
        raise UsageError("--plot draws algebras, not plans", hint="inspect --algebra CONVERTED --plot FILE")
    specs = read_inputs(inputs or [])
    data_options = read_data_options(size, mean, std)
    curves = plan.with_suffix(".curves.json") if plan and budget else None
    reports = report or []
    check_targets(model, [plan, curves, *reports], reports)
    with at_work(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        source = read_source(model, arch, trust, "cpu", seed)
        made, described = pipeline.inspect(
            source.model, n, inputs=specs or source.inputs, include=include or (), exclude=exclude or (),
            min_share=None if min_share is None else min_share / 100, low_rank=low_rank,
            embeddings=embeddings, algebra=algebra, share_algebra=share_algebra, init=init, budget=budget,
            data=data, samples=samples, data_options=data_options, curves=curves, seed=seed, watch=watch,
        )  # fmt: skip
    described = described.with_files(Change(source.bytes))
    if plan:
        write_text(plan, plan_json(made) if plan.suffix == ".json" else plan_toml(made))
    write_reports(described, reports)
    print_report(described, quiet=quiet, as_json=as_json)
    if plan and not (quiet or as_json):
        render.say(f"wrote {plan}")


def _look_at(
    given: str,
    n: int | None,
    trust: bool,
    include: list[str],
    exclude: list[str],
    plot: Path | None,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show algebras."""
    from phnnify import heat, learned, render

    if plot:
        heat.check_plot(plot)
        check_targets(Path(given), [plot], [])
    found = learned.chosen(learned.find_algebras(given, n, trust=trust), include, exclude)
    if plot:
        heat.draw_matrices(learned.panels(found), plot)
    if as_json:
        typer.echo(learned.to_json(found))
    elif not quiet:
        render.show_algebras(found)
        if plot:
            render.say(f"wrote {plot}")
