"""Which tensors of a network are to be predicted, and how each is read, taken out, and put back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from phnnify.errors import ModelError, UsageError


@dataclass(frozen=True)
class Target:
    """One parameter of a network.

    Attributes:
        names: All that it has there; several where it is tied.
        shape: Its shape.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def read(self, network: nn.Module) -> Tensor:
        """Its tensor, whatever stands in its place just now."""
        module, leaf = _place(network, self.names[0])
        tensor: Tensor = getattr(module, leaf)
        return tensor

    def take_out_(self, network: nn.Module) -> None:
        """Leave a tensor without data in its place, which is neither a parameter nor in the state dict."""
        empty = self.read(network).detach().to("meta")
        for name in self.names:
            module, leaf = _place(network, name)
            del module._parameters[leaf]
            setattr(module, leaf, empty)

    def put_(self, network: nn.Module, value: Tensor) -> None:
        """Give the parameter this value, also where it was taken out; its memory layout stays."""
        present = self.read(network)
        parameter = present if isinstance(present, nn.Parameter) else None
        if parameter is None:
            parameter = nn.Parameter(torch.empty_like(present, device=value.device))
        with torch.no_grad():
            parameter.copy_(value)
        for name in self.names:
            module, leaf = _place(network, name)
            vars(module).pop(leaf, None)
            module.register_parameter(leaf, parameter)


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return network.get_submodule(owner), leaf


def find_targets(network: nn.Module, patterns: Sequence[str]) -> tuple[Target, ...]:
    """The parameters that patterns choose, by a name of theirs or of the module that owns them.

    Raises:
        UsageError: a pattern matches none.
        ModelError: a chosen one is not real floating point, or the network is not on one device.
    """
    groups: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    _check_patterns(patterns, [name for group in groups.values() for name in group])
    chosen = [names for names in groups.values() if any(_matches(names, p) for p in patterns)]
    parameters = {names[0]: network.get_parameter(names[0]) for names in chosen}
    for name, parameter in parameters.items():
        if not parameter.is_floating_point():
            raise ModelError(f"{name} is {parameter.dtype}; only real floating point can be predicted")
    if len({parameter.device for parameter in parameters.values()}) > 1:
        raise ModelError("the chosen parameters are on different devices", hint="move the network to one")
    return tuple(Target(tuple(names), tuple(parameters[names[0]].shape)) for names in chosen)


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    if not patterns:
        raise UsageError("nothing is to be predicted", hint="give layers, such as ['*']")
    for pattern in patterns:
        if not _matches(names, pattern):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UsageError(
                f"{pattern!r} matches no parameter", hint=f"their names: {shown or 'there are none'}"
            )


def _matches(names: Sequence[str], pattern: str) -> bool:
    return any(pattern == name or fnmatchcase(name, pattern) for name in _with_owners(names))


def _with_owners(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield name
        yield name.rpartition(".")[0]
