"""The commands. Only translates: options into calls, errors into exit codes. Alone imports typer.

Exit codes: 0 done, 1 the input or the model cannot be served, 2 wrong usage. Results go to stdout, talk and
progress to stderr. torch is imported by the commands that need it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phnnify import __version__
from phnnify.errors import DistillationError, PhnnifyError, UsageError

if TYPE_CHECKING:
    import torch

    from phnnify.pipeline import Result
    from phnnify.plan import Plan
    from phnnify.recipe import RunFiles
    from phnnify.report import Report
    from phnnify.store import Source

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make a trained PyTorch network smaller: each dense and convolutional weight becomes a "
    "parameterized hypercomplex one, a sum of Kronecker products with 1/n of the parameters.",
)

ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A .safetensors, .pt, .pth or .bin file, told by its contents."),
]
N = Annotated[
    int, typer.Option("--n", min=2, help="Each converted weight keeps about 1/N of its parameters.")
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Where the network comes from when MODEL holds only weights: file.py:callable or "
        "package.module:callable, called without arguments.",
        metavar="REF",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Permit code stored inside MODEL to run (pickled classes).")
]
InputSpecs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SPEC",
        help="Example input, repeatable: 1x3x32x32, int64:1x128, name=float32:1x80x100; a leading ? marks "
        "an axis whose size may vary (axis 0 always may).",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Convert only layers with such names, small ones too; repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Keep layers with such names; repeatable.")
]
LowRank = Annotated[
    str | None,
    typer.Option(
        metavar="auto|off|SHARE",
        help="auto (the default with --data): per weight, at the same size, the blocks, terms and rank that "
        "fit best. off: order N with N terms, as in the papers. SHARE (0 to 1): so much for a low-rank term.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Instead of --n: the size of the whole network, 25% (of its parameters) or 1.5MB. Each weight "
        "gets its own part. Needs --data.",
    ),
]
MinShare = Annotated[
    float,
    typer.Option(min=0, max=100, help="Keep weights with less than this percentage of the parameters."),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", help="Write the report: .json, .md or .html; repeatable."),
]
Opset = Annotated[int, typer.Option(min=18, help="The ONNX operator set.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="Inputs to fit the weights to, without labels: .npz, .safetensors or .pt with x, a folder or "
        ".zip of images (class/name.jpg), or file.py:callable, which gives batches.",
    ),
]
Samples = Annotated[int, typer.Option(min=1, help="How many inputs of --data are used, drawn with the seed.")]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="REF",
        help="Data, best with labels (y, or the images' classes), on which original and converted are "
        "compared.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Distill for so many steps (1000 by default).")]
Epochs = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="Distill until all of --data was seen so often.")
]
Minutes = Annotated[
    float | None, typer.Option(metavar="FLOAT", help="Distill for so long; cannot be repeated exactly.")
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, help="Samples in a batch, for each process.")]
Rate = Annotated[
    float | None,
    typer.Option(metavar="FLOAT", help="The highest learning rate; by default a short test finds it."),
]
Augment = Annotated[
    str,
    typer.Option(metavar="LIST", help="What is done to images: flip, crop, mixup, or several."),
]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE", help="Write a line of JSON for each 1/200 of the run.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a distillation that was stopped, from OUTPUT.checkpoint."),
]
Size = Annotated[int | None, typer.Option(min=1, help="Scale images to this height and width.")]
Mean = Annotated[
    str, typer.Option(metavar="A,B,C", help="Per channel, of values in 0 to 1: x becomes (x - mean) / std.")
]
Std = Annotated[str, typer.Option(metavar="A,B,C", help="See --mean.")]
Seed = Annotated[int, typer.Option(help="For everything random.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1. By default the cpu, and for distillation what Accelerate "
        "finds."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout, and nothing else.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def convert(
    model: ModelPath,
    n: N = 4,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE",
            help="The converted model: .safetensors (weights and plan) or .pt (pickled module). "
            "By default MODEL-nN (MODEL-small with --budget or --max-drop) beside you, in MODEL's form.",
        ),
    ] = None,
    arch: Arch = None,
    trust: Trust = False,
    inputs: InputSpecs = None,
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a checked ONNX file; needs --input or --data."),
    ] = None,
    opset: Opset = 18,
    data: Data = None,
    samples: Samples = 512,
    evaluation: Eval = None,
    size: Size = None,
    mean: Mean = "",
    std: Std = "",
    include: Include = None,
    low_rank: LowRank = None,
    budget: Budget = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Instead of --n: the smallest network that loses at most so much accuracy on --data, or "
            "agreement with the original where that has no labels.",
        ),
    ] = None,
    exclude: Exclude = None,
    min_share: MinShare = 0.5,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Follow this plan (TOML or JSON, from inspect).")
    ] = None,
    distilling: Annotated[
        bool,
        typer.Option("--distill", help="Let the converted network learn from the original, on all --data."),
    ] = False,
    steps: Steps = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    batch: BatchSize = 128,
    rate: Rate = None,
    augment: Augment = "none",
    log: LogFile = None,
    resume: Resume = False,
    report: Reports = None,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write a smaller copy of a trained network."""
    from phnnify import pipeline, render, store
    from phnnify.augment import Augmentation
    from phnnify.data import DataOptions
    from phnnify.export import export_onnx
    from phnnify.inputs import read_inputs
    from phnnify.recipe import Recipe
    from phnnify.report import Change

    specs = read_inputs(inputs or [])
    options = DataOptions(size, _numbers(mean, "--mean"), _numbers(std, "--std"))
    if onnx and not (specs or data):
        raise UsageError("--onnx needs an example input", hint="such as --input 1x3x32x32")
    recipe = Recipe(
        steps, epochs, minutes, batch=batch, rate=rate, augment=Augmentation.read(augment), device=device,
        seed=seed,
    )  # fmt: skip
    targets = [output, onnx, log, *(report or [])]
    _check_targets(model, targets, report or [])
    if output:
        store.check_ending(output)
    followed = _read_plan(plan)
    with _own_output(), render.progress(quiet=quiet or as_json or not _is_first()) as watch:
        watch(f"reading {model.name}", 0, 0)
        source = _read(model, arch, trust, "cpu" if device is None else device, seed)
        label = "small" if budget or max_drop else f"n{followed.n if followed else n}"
        target = output or Path(f"{model.stem}-{label}{source.ending}")
        _check_targets(model, [target, *targets[1:]], [])
        result = pipeline.convert(
            source.model, n, inputs=specs, include=include or (), exclude=exclude or (),
            min_share=min_share / 100, low_rank=low_rank, budget=budget, max_drop=max_drop, plan=followed,
            data=data, samples=samples, eval_data=evaluation,
            data_options=options, distill=recipe if distilling else None,
            files=_run_files(target, resume, log) if distilling else None,
            before_distillation=lambda done: _save(done, target), seed=seed, watch=watch,
        )  # fmt: skip
        if not _is_first():
            return
        watch(f"writing {target.name}", 0, 0)
        _save(result, target)
        _over(target)
        sizes = Change(model.stat().st_size, target.stat().st_size)
        done = result.report.with_files(sizes)
        try:
            if onnx:
                watch(f"exporting {onnx.name}", 0, 0)
                checked = export_onnx(result.model, onnx, result.inputs, opset=opset, seed=seed)
                done = done.with_files(sizes, checked)
        finally:  # the conversion was done, whatever the exporter says
            _write_reports(done, report or [])
    _print(done, quiet, as_json)
    if not (quiet or as_json):
        render.say(f"wrote {', '.join(map(str, [target, *([onnx] if onnx else []), *(report or [])]))}")
    _complain(result)


@app.command()
def distill(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="The original; see MODEL of convert.")],
    student: Annotated[Path, typer.Argument(metavar="STUDENT", help="What convert wrote.")],
    data: Annotated[str, typer.Option(metavar="REF", help="Inputs to learn on; see convert.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE",
            help="The trained student, .safetensors or .pt. By default STUDENT-distilled, in STUDENT's form.",
        ),
    ] = None,
    arch: Arch = None,
    trust: Trust = False,
    evaluation: Eval = None,
    size: Size = None,
    mean: Mean = "",
    std: Std = "",
    steps: Steps = None,
    epochs: Epochs = None,
    minutes: Minutes = None,
    batch: BatchSize = 128,
    optimizer: Annotated[str, typer.Option(metavar="adamw|sgd", help="What moves the weights.")] = "adamw",
    rate: Rate = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="auto|kl|mse",
            help="kl: soft targets, for classes. mse: relative squared error, for values. auto: as the "
            "answer's shape and the labels say.",
        ),
    ] = "auto",
    temperature: Annotated[float | None, typer.Option(metavar="FLOAT", help="Of the soft targets.")] = None,
    labels: Annotated[
        float | None, typer.Option(metavar="FLOAT", help="The weight of true labels, from 0 to 1.")
    ] = None,
    hidden: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", help="The weight of the errors at the converted layers' outputs."),
    ] = None,
    augment: Augment = "none",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16", help="auto: bf16 where the device has it in hardware.")
    ] = "auto",
    checkpoint_minutes: Annotated[
        float, typer.Option(metavar="FLOAT", min=0, help="How often the state of the run is saved.")
    ] = 5.0,
    log: LogFile = None,
    resume: Resume = False,
    report: Reports = None,
    seed: Seed = 0,
    device: Device = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Train a converted network to answer as its original does."""
    from phnnify import pipeline, render, store
    from phnnify.augment import Augmentation
    from phnnify.data import DataOptions
    from phnnify.recipe import Recipe
    from phnnify.report import Change

    options = DataOptions(size, _numbers(mean, "--mean"), _numbers(std, "--std"))
    chosen: dict[str, Any] = {"temperature": temperature, "labels": labels, "hidden": hidden}
    recipe = Recipe(
        steps, epochs, minutes, batch=batch, optimizer=optimizer, rate=rate, loss=loss, precision=precision,
        augment=Augmentation.read(augment), checkpoint_minutes=checkpoint_minutes, device=device, seed=seed,
        **{name: value for name, value in chosen.items() if value is not None},
    )  # fmt: skip
    target = output or Path(f"{student.stem}-distilled{student.suffix}")
    store.check_ending(target)
    _check_targets(teacher, [target, log, *(report or [])], report or [])
    _check_targets(student, [target], [])
    files = _run_files(target, resume, log)
    with _own_output(), render.progress(quiet=quiet or as_json or not _is_first()) as watch:
        watch(f"reading {teacher.name}", 0, 0)
        original = _read(teacher, arch, trust, "cpu", seed).model
        watch(f"reading {student.name}", 0, 0)
        result = pipeline.distill(
            original, store.read_converted(student, arch=arch, trust=trust), data, recipe,
            eval_data=evaluation, data_options=options, files=files, watch=watch,
        )  # fmt: skip
        if not _is_first():
            return
        watch(f"writing {target.name}", 0, 0)
        _save(result, target)
        _over(target)
    done = result.report.with_files(Change(teacher.stat().st_size, target.stat().st_size))
    _write_reports(done, report or [])
    _print(done, quiet, as_json)
    if not (quiet or as_json):
        render.say(f"wrote {', '.join(map(str, [target, *(report or [])]))}")
    _complain(result)


@app.command()
def inspect(
    model: ModelPath,
    n: N = 4,
    arch: Arch = None,
    trust: Trust = False,
    inputs: InputSpecs = None,
    low_rank: LowRank = None,
    budget: Budget = None,
    data: Data = None,
    samples: Samples = 512,
    size: Size = None,
    mean: Mean = "",
    std: Std = "",
    include: Include = None,
    exclude: Exclude = None,
    min_share: MinShare = 0.5,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the plan, to edit and give to convert.")
    ] = None,
    report: Reports = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what convert would do to each layer, and why; writes no model."""
    from phnnify import pipeline, render
    from phnnify.data import DataOptions
    from phnnify.files import write_text
    from phnnify.inputs import read_inputs
    from phnnify.report import Change

    specs = read_inputs(inputs or [])
    options = DataOptions(size, _numbers(mean, "--mean"), _numbers(std, "--std"))
    curves = plan.with_suffix(".curves.json") if plan and budget else None
    _check_targets(model, [plan, curves, *(report or [])], report or [])
    with _own_output(), render.progress(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        source = _read(model, arch, trust, "cpu", seed)
        made, described = pipeline.inspect(
            source.model, n, inputs=specs, include=include or (), exclude=exclude or (),
            min_share=min_share / 100, low_rank=low_rank, budget=budget, data=data, samples=samples,
            data_options=options, curves=curves, seed=seed, watch=watch,
        )  # fmt: skip
    described = described.with_files(Change(model.stat().st_size))
    if plan:
        write_text(plan, made.to_json() if plan.suffix == ".json" else made.to_toml())
    _write_reports(described, report or [])
    _print(described, quiet, as_json)


@app.command()
def export(
    model: ModelPath,
    onnx: Annotated[Path, typer.Option(metavar="FILE", help="The ONNX file to write.")],
    inputs: InputSpecs = None,
    arch: Arch = None,
    trust: Trust = False,
    opset: Opset = 18,
    seed: Seed = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a network, converted or not, as a checked ONNX file."""
    from dataclasses import asdict

    from phnnify import render, store
    from phnnify.export import export_onnx
    from phnnify.inputs import read_inputs

    specs = read_inputs(inputs or [])
    _check_targets(model, [onnx], [])
    with _own_output(), render.progress(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        network = store.read_any(model, arch=arch, trust=trust)
        watch(f"exporting {onnx.name}", 0, 0)
        checked = export_onnx(network, onnx, specs, opset=opset, seed=seed)
    if as_json:
        typer.echo(json.dumps({"phnnify": __version__, "onnx": asdict(checked)}, indent=2))
    elif not quiet:
        render.show_onnx(checked)


def _own_output() -> AbstractContextManager[object]:
    """Keep stdout for the results: what the network's own code prints is talk."""
    return redirect_stdout(sys.stderr)


def _check_targets(model: Path, targets: list[Path | None], reports: list[Path]) -> None:
    """Refuse what could only fail after the work is done.

    Raises:
        UsageError: an output is the input, two outputs are the same, or a report has an unknown ending.
        FileError: an output cannot be written.
    """
    from phnnify.files import check_target
    from phnnify.report import check_ending

    given = [target for target in targets if target is not None]
    for target in given:
        check_target(target)
        if target.resolve() == model.resolve():
            raise UsageError(f"{target} would overwrite the original", hint="give another name with -o")
    if len({target.resolve() for target in given}) < len(given):
        raise UsageError("two outputs have the same name")
    for path in reports:
        check_ending(path)


def _is_first() -> bool:
    """Whether this is the process, of those that `accelerate launch` started, that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def _run_files(target: Path, resume: bool, log: Path | None) -> RunFiles:
    """What a distillation leaves beside its output.

    Raises:
        UsageError: a run that was stopped left its state there, and was neither resumed nor given up.
    """
    from phnnify.recipe import RunFiles

    checkpoint = _checkpoint_of(target)
    if checkpoint.exists() and not resume:
        raise UsageError(
            f"{checkpoint} is the state of a run that was not finished",
            hint="--resume goes on with it; delete it to start anew",
        )
    return RunFiles(checkpoint, resume, log)


def _checkpoint_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.checkpoint")


def _save(result: Result, target: Path) -> None:
    from phnnify import store
    from phnnify.measure import copied

    if _is_first():
        store.save(copied(result.model, {}).cpu(), target, result.plan)


def _over(target: Path) -> None:
    """The result is safe: the state of the run that led to it is not needed any more."""
    from phnnify.checkpoint import remove_checkpoint

    remove_checkpoint(_checkpoint_of(target))


def _complain(result: Result) -> None:
    """Fail where the distillation did, once all that there is was written.

    Raises:
        DistillationError: it was given up.
    """
    if result.trouble:
        raise DistillationError(
            f"{result.trouble}; what was written is its best state", hint="a lower --rate, or other --data"
        )


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers such as 0.5,0.5,0.5") from None


def _read(model: Path, arch: str | None, trust: bool, device: str, seed: int) -> Source:
    import torch

    from phnnify import store

    torch.manual_seed(seed)
    place = _device(device)
    source = store.read_network(model, arch=arch, trust=trust)
    source.model.to(place)
    return source


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}", hint="use --device cpu") from None
    return device


def _read_plan(path: Path | None) -> Plan | None:
    if path is None:
        return None
    from phnnify.files import read_text
    from phnnify.plan import parse_plan

    return parse_plan(read_text(path))


def _write_reports(report: Report, paths: list[Path]) -> None:
    from phnnify.report import write_report

    for path in paths:
        write_report(report, path)


def _print(report: Report, quiet: bool, as_json: bool) -> None:
    from phnnify import render

    if as_json:
        typer.echo(report.to_json())
    elif not quiet:
        render.show_report(report)


def main() -> None:
    """Run the command line; errors become one message on stderr and an exit code."""
    try:
        app()
    except PhnnifyError as error:
        _fail(error)
    except Exception as error:
        if os.environ.get("PHNNIFY_TRACEBACK"):
            raise
        text = f"unexpected {type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        _fail(PhnnifyError(text, hint="a fault of phnnify; PHNNIFY_TRACEBACK=1 shows where it happened"))


def _fail(error: PhnnifyError) -> None:
    from phnnify import render

    render.show_error(error)
    sys.exit(2 if isinstance(error, UsageError) else 1)
