"""Example inputs: what `--input 1x3x32x32` means, and random tensors of that kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from phnnify.errors import UsageError
from phnnify.hyper.encoding import Encoding
from phnnify.layers import PHMEmbedding

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<dtype>[a-z]+\d*):)?(?P<shape>\??\d+(?:x\??\d+)*)")
_FORM = "[name=][dtype:]1x3x32x32, where a leading ? marks an axis whose size may vary (axis 0 always may)"


@dataclass(frozen=True)
class InputSpec:
    """One example input of a network.

    Attributes:
        shape: The size of each axis.
        dtype: The kind of number.
        name: The keyword under which `forward` takes it; None for a positional argument.
        dynamic: The axes whose size may vary at inference; holds axis 0, but for a conditioning input.
        high: Random integers are drawn from 0 … high-1; None lets the network's embeddings decide.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    name: str | None = None
    dynamic: frozenset[int] = frozenset({0})
    high: int | None = None

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read `1x3x32x32`, `int64:1x?128` or `name=float32:1x80x100`.

        Raises:
            UsageError: the text has another form, an unknown dtype, or an axis of size 0.
        """
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--input {text!r} cannot be read", hint=f"the form is {_FORM}")
        dtype = getattr(torch, match["dtype"] or "float32", None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(
                f"--input {text!r}: {match['dtype']!r} is no torch dtype", hint=f"the form is {_FORM}"
            )
        axes = match["shape"].split("x")
        shape = tuple(int(axis.lstrip("?")) for axis in axes)
        if 0 in shape:
            raise UsageError(f"--input {text!r} has an axis of size 0")
        dynamic = frozenset({0, *(i for i, axis in enumerate(axes) if axis.startswith("?"))})
        return cls(shape, dtype, match["name"], dynamic)

    @classmethod
    def like(cls, tensor: Tensor, name: str | None = None) -> InputSpec:
        """The spec of which `tensor` is an example."""
        integers = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
        high = int(tensor.max()) + 1 if integers and tensor.numel() else None
        return cls(tuple(tensor.shape), tensor.dtype, name, high=high)

    def with_batch(self, batch: int) -> InputSpec:
        """The same input with another size of axis 0, where that may vary."""
        return replace(self, shape=(batch, *self.shape[1:])) if 0 in self.dynamic else self

    def random(self, generator: torch.Generator, high: int) -> Tensor:
        """A tensor of this kind: normal numbers, or integers below `self.high` (or `high`)."""
        if self.dtype == torch.bool:
            return torch.randint(0, 2, self.shape, generator=generator).bool()
        if self.dtype.is_floating_point or self.dtype.is_complex:
            return torch.randn(self.shape, generator=generator).to(self.dtype)
        return torch.randint(0, self.high or high, self.shape, generator=generator, dtype=self.dtype)

    def __str__(self) -> str:
        """The form that `parse` reads."""
        axes = "x".join(f"{'?' * (i in self.dynamic and i > 0)}{size}" for i, size in enumerate(self.shape))
        kind = "" if self.dtype == torch.float32 else f"{str(self.dtype).removeprefix('torch.')}:"
        return f"{f'{self.name}=' if self.name else ''}{kind}{axes}"


class Example(NamedTuple):
    """One call of a network: `model(*args, **kwargs)`."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]


Inputs: TypeAlias = "str | InputSpec | Tensor | Sequence[str | InputSpec | Tensor]"


def read_inputs(inputs: Inputs | None) -> tuple[InputSpec, ...]:
    """Specs from what a caller has: spec texts, example tensors, or specs; one or several.

    Raises:
        UsageError: a text cannot be read, or two inputs have the same name.
    """
    if inputs is None:
        return ()
    items: Sequence[Any] = (
        inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]
    )
    specs = tuple(_read_input(item) for item in items)
    names = [spec.name for spec in specs if spec.name]
    if len(set(names)) < len(names):
        raise UsageError(f"two inputs have the same name: {', '.join(names)}")
    return specs


def _read_input(item: Any) -> InputSpec:
    if isinstance(item, InputSpec):
        return item
    if isinstance(item, Tensor):
        return InputSpec.like(item)
    if isinstance(item, str):
        return InputSpec.parse(item)
    raise UsageError(f"an input must be a spec such as '1x3x32x32' or a tensor, not {type(item).__name__}")


def random_example(
    specs: Sequence[InputSpec], model: nn.Module, *, seed: int, batch: int | None = None
) -> Example:
    """Random inputs for a network.

    Args:
        specs: What the network takes.
        model: The network: integers stay below the length of its shortest embedding table, the conditioning
            inputs of a hypernetwork between 0 and 1.
        seed: Same seed, same tensors.
        batch: The size of axis 0, in place of that of the specs.
    """
    generator = torch.Generator().manual_seed(seed)
    conditioning = _conditioning(model)
    tables = [module for module in model.modules() if isinstance(module, (nn.Embedding, PHMEmbedding))]
    high = min((int(table.num_embeddings) for table in tables), default=2)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = [], {}
    for spec in specs:
        tensor = (spec if batch is None else spec.with_batch(batch)).random(generator, high).to(device)
        if spec.name in conditioning:
            tensor = tensor.sigmoid()
        if spec.name is None:
            args.append(tensor)
        else:
            kwargs[spec.name] = tensor
    return Example(tuple(args), kwargs)


def with_conditioning(specs: Sequence[InputSpec], model: nn.Module) -> tuple[InputSpec, ...]:
    """The same inputs and those of hypernetworks in the model: one conditioning (size,) for the batch."""
    sizes = _conditioning(model)
    given = [spec for spec in specs if spec.name not in sizes]
    return (*given, *(InputSpec((size,), name=name, dynamic=frozenset()) for name, size in sizes.items()))


def _conditioning(model: nn.Module) -> dict[str, int]:
    encodings = [module for module in model.modules() if isinstance(module, Encoding)]
    return {name: size for encoding in encodings for name, size in encoding.sizes.items()}


def describe(specs: Sequence[InputSpec]) -> str:
    """The specs in one line, for messages."""
    return ", ".join(map(str, specs)) if specs else "no input"
