"""Numbers about networks, as data: parameters, bytes, calls and FLOPs."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import ModelError
from phnnify.inputs import Example


def parameter_count(model: nn.Module) -> int:
    """The number of parameters; a tied one counts once."""
    return sum(p.numel() for p in model.parameters())


def tensor_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers; a tied one counts once."""
    buffers = {id(b): b for b in model.buffers()}.values()
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *buffers))


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of a site; a network that is itself one layer has a site `weight` without a module's name.

    Raises:
        AttributeError: there is none of that name.
    """
    return model if name == "weight" and not list(model.children()) else model.get_submodule(name)


def owners(model: nn.Module, name: str) -> list[str]:
    """The names of all modules whose `weight` is the parameter that this one's is, itself included."""
    weight = submodule(model, name).get_parameter("weight")
    modules = model.named_modules()
    return [path or "weight" for path, module in modules if module._parameters.get("weight") is weight]


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares all tensors: it can be hooked, traced and run, and thrown away.

    Raises:
        ModelError: the network holds something that cannot be copied.
    """
    tensors: Iterable[Tensor] = (*model.parameters(), *model.buffers())
    return copied(model, {id(t): t for t in tensors}).eval()


def without_cache_(model: nn.Module) -> nn.Module:
    """Tell a copy of a network to give no cache: those of transformers are no tensors."""
    for module in model.modules():
        config = vars(module).get("config")
        if getattr(config, "use_cache", False) is True:
            config.use_cache = False  # type: ignore[union-attr]
    return model


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """By id, copies of attributes that were computed from parameters, as torch's older weight norm does."""
    values = (value for module in model.modules() for value in vars(module).values() if type(value) is Tensor)
    return {id(value): value.detach().clone() for value in values if not value.is_leaf}


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` with `memo` (by id, what stands in the copy for an object of the original).

    Raises:
        ModelError: the network holds something that cannot be copied.
    """
    try:
        with warnings.catch_warnings():  # torch's own graphs make it warn about itself
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            return copy.deepcopy(model, {**_computed(model), **memo})
    except Exception as error:  # whatever the user's own __deepcopy__ and attributes may raise
        raise ModelError(
            f"the network ({type(model).__name__}) cannot be copied: {first_line(error)}",
            hint="it must survive copy.deepcopy: drop tensors with gradients, locks or open files from it",
        ) from None


def first_line(error: BaseException) -> str:
    """`TypeError: what it says`, the first line only and not too long."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__


@dataclass(frozen=True)
class Run:
    """What one layer did in one run of the network: how often it ran, and at how many positions in all.

    A position is one vector that meets the weight: a row of a dense layer's input, an output pixel of a
    convolution (an input pixel of a transposed one).
    """

    calls: int
    positions: int

    def flops(self, weights: int) -> int:
        """Two floating-point operations for each of `weights` numbers at each position."""
        return 2 * weights * self.positions


def run_counts(model: nn.Module, example: Example) -> dict[str, Run]:
    """Run a network once and count, for each module with parameters of its own, in order of first call.

    Args:
        model: Runs as it is, without gradients; give it an `evaluation_copy`.
        example: The call.

    Raises:
        ModelError: the network fails on the example.
    """
    runs: dict[str, Run] = {}
    handles = [
        module.register_forward_hook(_counter(name, runs))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        forward(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return runs


def forward(model: nn.Module, example: Example) -> Any:
    """`model(*args, **kwargs)` without gradients, on copies: a network may write into its inputs.

    Raises:
        ModelError: the network fails on the example.
    """
    try:
        with torch.no_grad():
            return model(
                *(x.clone() for x in example.args), **{name: x.clone() for name, x in example.kwargs.items()}
            )
    except Exception as error:  # whatever the user's own forward may raise
        shapes = ", ".join(
            f"{str(x.dtype).removeprefix('torch.')} {'x'.join(map(str, x.shape))}"
            for x in (*example.args, *example.kwargs.values())
        )
        raise ModelError(
            f"the network fails on an example input of {shapes or 'nothing'}: {first_line(error)}",
            hint=_hint(model, example),
        ) from None


def _hint(model: nn.Module, example: Example) -> str:
    given = {x.dtype for x in (*example.args, *example.kwargs.values())}
    if torch.float64 in given and torch.float64 not in {p.dtype for p in model.parameters()}:
        return 'the network computes in another type than float64: save the inputs as x.astype("float32")'
    return "give inputs that the network takes (--input, --data), one for each argument of its forward"


def _counter(name: str, runs: dict[str, Run]) -> Any:
    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = runs.get(name, Run(0, 0))
        runs[name] = Run(before.calls + 1, before.positions + _positions(module, inputs, output))

    return count


def _positions(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
    """The vectors that met the weight in one call; 0 where the layer is not dense or convolutional."""
    if isinstance(module, nn.Linear):
        return _entries(output) // max(module.out_features, 1)
    if not isinstance(module, nn.modules.conv._ConvNd):
        return 0
    if module.transposed:
        return _entries(inputs[0]) // max(module.in_channels, 1) if inputs else 0
    return _entries(output) // max(module.out_channels, 1)


def _entries(tensor: Any) -> int:
    return math.prod(tensor.shape) if isinstance(tensor, Tensor) else 0
