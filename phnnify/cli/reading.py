"""What the options and files of a command stand for; a refusal where they cannot stand for anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phnnify.errors import UsageError

if TYPE_CHECKING:
    import torch
    import typer
    from torch import nn

    from phnnify.data_options import DataOptions
    from phnnify.distilling.recipe import Recipe
    from phnnify.inputs import InputSpec
    from phnnify.plan import Plan
    from phnnify.sources import Source


def refuse_without(option: str, dependent: Iterable[str], context: typer.Context) -> None:
    """Refuse options, by their parameters' names, that mean nothing without another one, which is missing.

    Raises:
        UsageError: one of them was given, be it with its default.
    """
    for name in dependent:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            given = f"--{name.replace('_', '-')}"
            raise UsageError(f"{given} needs {option}", hint=f"add {option}, or leave {given} out")


def refuse_beside(option: str, others: Iterable[str], context: typer.Context, reason: str) -> None:
    """Refuse options, by their parameters' names, that exclude another one, which was given.

    Raises:
        UsageError: one of them was given.
    """
    for name in others:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            given = next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            raise UsageError(f"{option} and {given} exclude each other: {reason}")


def read_data_options(size: int | None, mean: str, std: str) -> DataOptions:
    """How referenced images and arrays become inputs.

    Raises:
        UsageError: --mean or --std is no list of numbers, or they do not fit together.
    """
    from phnnify.data_options import DataOptions

    return DataOptions(size, read_numbers(mean, "--mean"), read_numbers(std, "--std"))


def read_numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers with commas between; none where there is no text.

    Raises:
        UsageError: the text is no list of numbers.
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers such as 0.5,0.5,0.5") from None


def read_recipe(*, augment: str, **given: Any) -> Recipe:
    """How a student learns; what was not given (None) is the recipe's own default.

    Raises:
        UsageError: a value that cannot mean anything, or two lengths.
    """
    from phnnify.distilling.augment import Augmentation
    from phnnify.distilling.recipe import Recipe

    chosen = {name: value for name, value in given.items() if value is not None}
    return Recipe(augment=Augmentation.read(augment), **chosen)


def read_source(model: Path, arch: str | None, trust: bool, device: str, seed: int) -> Source:
    """The original network, on its device; what its own code draws is drawn with the seed.

    Raises:
        UsageError: the device cannot be used here.
        FileError: the file cannot be read, or holds no network.
        ModelError: the network and its weights do not fit together.
    """
    import torch

    from phnnify import sources

    torch.manual_seed(seed)
    place = _device(device)
    source = sources.read_network(model, arch=arch, trust=trust)
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


def form_label(n: int | None, plan: Plan | None, algebra: str | None, init: str) -> str:
    """What a converted file is called after, such as `n4` or `quaternion-fresh`."""
    label = f"n{n or 4}" if algebra is None else Path(algebra).stem
    label = f"n{plan.n}" if plan else label
    return label if init == "fit" else f"{label}-{init}"


def read_plan(path: Path | None) -> Plan | None:
    """The plan to follow, if there is one.

    Raises:
        FileError: the file cannot be read.
        PlanError: it holds no plan.
    """
    if path is None:
        return None
    from phnnify.files import read_text
    from phnnify.plan_file import parse_plan

    return parse_plan(read_text(path))


def check_quantize(kind: str | None, onnx: Path | None) -> None:
    """Refuse `--quantize` where nothing can be written so, before any work is done.

    Raises:
        UsageError: it is of no known kind, or there is no --onnx.
    """
    if kind is None:
        return
    from phnnify.quantizing.quantize import check_kind

    check_kind(kind)
    if onnx is None:
        raise UsageError("--quantize needs --onnx", hint="add --onnx FILE, or leave --quantize out")


def check_runtime(
    model: nn.Module, specs: Sequence[InputSpec], data: str | None, data_options: DataOptions, seed: int
) -> None:
    """Refuse a network that ONNX Runtime cannot compute, before it is converted.

    Args:
        model: The original.
        specs: What it takes; where nobody says so, as the data does.
        data: A reference to inputs.
        data_options: How references become inputs.
        seed: For random inputs.

    Raises:
        ExportError: it computes in bfloat16.
        FileError, ModelError: the data cannot be read, or does not fit the network.
    """
    from phnnify.batches import calibration_batches, input_specs
    from phnnify.data import read_data
    from phnnify.inputs import random_example
    from phnnify.runtime import check_precision, has_bfloat16

    if not has_bfloat16(model):
        return
    if data and not specs:
        specs = input_specs(calibration_batches(read_data(data, data_options, samples=1, seed=seed), 1))
    check_precision(model, random_example(specs, model, seed=seed))


def read_sizes(text: str) -> tuple[int, ...]:
    """The batch sizes of `--batch 1,8,64`.

    Raises:
        UsageError: the text is no list of whole numbers above 0.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise UsageError(f"--batch {text!r} is not a list of sizes such as 1,8,64")
    return tuple(dict.fromkeys(int(part) for part in parts))


def read_engines(text: str) -> tuple[str, ...]:
    """The engines of `--in pytorch,compile,onnx`, by their own names.

    Raises:
        UsageError: one of them is unknown.
    """
    known = {"pytorch": "PyTorch", "compile": "torch.compile", "onnx": "ONNX Runtime"}
    parts = [part.strip() for part in text.split(",")]
    if unknown := [part for part in parts if part not in known]:
        raise UsageError(f"--in {text}: {unknown[0]!r} is unknown", hint=f"known: {', '.join(known)}")
    return tuple(known[part] for part in parts)
