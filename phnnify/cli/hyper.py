"""`phnnify hyper`."""

from __future__ import annotations

import keyword
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phnnify import __version__
from phnnify.cli import options
from phnnify.cli.reading import read_numbers, refuse_without
from phnnify.cli.writing import at_work, check_targets
from phnnify.errors import FileError, UsageError
from phnnify.strict import json_text

if TYPE_CHECKING:
    from torch import nn

Conditioning = Annotated[
    list[str] | None,
    typer.Option(
        "--inputs",
        metavar="NAME:SIZE",
        help="A conditioning input and how many numbers it has, repeatable: lam:1. A word of Python gets an "
        "underscore: lambda:1 is called lambda_.",
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Predict parameters with such names, or of such layers; repeatable."),
]
Hidden = Annotated[
    str, typer.Option(metavar="W,W", help="The widths of the hidden layers of the network that predicts.")
]
Activation = Annotated[str, typer.Option(metavar="NAME", help="Its activation, a class of torch.nn.")]
Norm = Annotated[
    str, typer.Option(metavar="NAME", help="none, LayerNorm, RMSNorm or BatchNorm1d, before each activation.")
]
Formulation = Annotated[
    str,
    typer.Option(
        metavar="mip|default", help="mip: added to the network's own weights. default: in place of them."
    ),
]
Spread = Annotated[
    float,
    typer.Option(min=0, help="How large its first predictions are beside the network's own weights (mip)."),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Instead: MODEL is a hypernetwork; write the ordinary network at this conditioning. Repeatable; "
        "numbers with commas between.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE",
        help="The .safetensors file to write. By default MODEL-hyper.safetensors or MODEL-at.safetensors.",
    ),
]  # fmt: skip
_MAKING = ("layers", "hidden", "activation", "norm", "formulation", "spread")


def hyper(
    context: typer.Context,
    model: options.ModelPath,
    inputs: Conditioning = None,
    layers: Layers = None,
    hidden: Hidden = "64,16",
    activation: Activation = "LeakyReLU",
    norm: Norm = "none",
    formulation: Formulation = "mip",
    spread: Spread = 0.0,
    at: At = None,
    output: Output = None,
    arch: options.Arch = None,
    trust: options.Trust = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Write a hypernetwork: MODEL with weights that a small network predicts from conditioning inputs."""
    from phnnify import render, sources, store
    from phnnify.hyper.network import hypernetize, summary

    if bool(inputs) == bool(at):
        raise UsageError("give --inputs or --at", hint="such as --inputs lam:1; to freeze, --at lam=0.5")
    if at:
        refuse_without("--inputs", _MAKING, context)
    sizes, values, widths = _read_sizes(inputs or []), _read_conditioning(at or []), _read_widths(hidden)
    target = output or sources.name_beside(model, "at" if at else "hyper", ".safetensors")
    if target.suffix != ".safetensors":
        raise UsageError(f"{target} must end in .safetensors")
    check_targets(model, [], [], output=target)
    with at_work(quiet=quiet or as_json) as watch:
        watch(f"reading {model.name}", 0, 0)
        network = _read_network(model, arch, trust, seed)
        if at:
            made = _frozen(network, model, values)
        else:
            made = hypernetize(
                network, sizes, layers or ["*"], hidden=widths, activation=activation, norm=norm,
                formulation=formulation, spread=spread, seed=seed,
            )  # fmt: skip
        watch(f"writing {target.name}", 0, 0)
        store.save(made, target)
    found = summary(made)
    if as_json:
        files = {"path": str(target), "bytes": store.size_of(target)}
        typer.echo(json_text({"phnnify": __version__, **found, **files}, indent=2))
    elif not quiet:
        render.show_hyper(found)
        render.say(f"wrote {target}")


def _frozen(network: nn.Module, path: Path, values: dict[str, list[float]]) -> nn.Module:
    """The ordinary network of a hypernetwork.

    Raises:
        FileError: it is none.
        UsageError: the conditioning does not fit it.
    """
    from phnnify.hyper.network import HyperNetwork

    if not isinstance(network, HyperNetwork):
        raise FileError(f"{path} is no hypernetwork", hint="--inputs makes one")
    return network.at(**values)


def _read_network(path: Path, arch: str | None, trust: bool, seed: int) -> nn.Module:
    """Any network whose class is known, converted or not; what its own code draws is drawn with the seed.

    Raises:
        FileError: the file cannot be read, or is a program, which has no class.
        ModelError: the network and its weights do not fit together.
    """
    import torch

    from phnnify import sources
    from phnnify.archive import is_program

    if is_program(path):
        raise FileError(f"{path} is a program, not a network with a class", hint="give weights and --arch")
    torch.manual_seed(seed)
    return sources.read_any(path, arch=arch, trust=trust)


def _read_sizes(texts: Iterable[str]) -> dict[str, int]:
    """The conditioning inputs of `--inputs`: how many numbers each has, by its name as an argument.

    Raises:
        UsageError: a text has another form, or a name comes twice.
    """
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, size = text.partition(":")
        if not size.isdecimal():
            raise UsageError(f"--inputs {text!r} cannot be read", hint="the form is NAME:SIZE, such as lam:1")
        _add(sizes, name, int(size), "--inputs")
    return sizes


def _read_conditioning(texts: Iterable[str]) -> dict[str, list[float]]:
    """The conditioning of `--at`: the numbers of each input, by its name as an argument.

    Raises:
        UsageError: a text has another form, or a name comes twice.
    """
    values: dict[str, list[float]] = {}
    for text in texts:
        name, equals, numbers = text.partition("=")
        if not equals:
            raise UsageError(f"--at {text!r} cannot be read", hint="the form is NAME=VALUE, such as lam=0.5")
        _add(values, name, list(read_numbers(numbers, f"--at {name}")), "--at")
    return values


def _add(values: dict[str, Any], name: str, value: Any, option: str) -> None:
    argument = f"{name}_" if keyword.iskeyword(name) else name  # as PEP 8 has it
    if argument in values:
        raise UsageError(f"{option} names {name} twice")
    values[argument] = value


def _read_widths(text: str) -> list[int]:
    """The widths of `--hidden`.

    Raises:
        UsageError: the text is no list of whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--hidden {text!r} is not a list of whole numbers such as 64,16") from None
