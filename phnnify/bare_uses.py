"""Which weights a network uses without a layer, and how (`opened.bare`).

One run on an example tells: every such parameter is shadowed by a stand-in that sees what it is used for. A
weight that is used in one way only, a layer's, can be held by a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from phnnify.errors import ModelError
from phnnify.inputs import InputSpec, random_example
from phnnify.measure import evaluation_copy, forward
from phnnify.opened import open_modules
from phnnify.opened.attention import PARTS, is_joint
from phnnify.opened.bare import LINEAR, SEVERAL, Held, Use, needs_no_values, plainly, use_of
from phnnify.rules import is_unknown


def opened_up(
    model: nn.Module, inputs: Sequence[InputSpec], *, seed: int = 0, names: Iterable[str] = ()
) -> nn.Module:
    """The network with its weights in layers: those that are hidden, and those used without a layer.

    Args:
        model: It is not changed.
        inputs: Example inputs, without which it is not known what is used how.
        seed: For the random example.
        names: More layers to hold what is used without one, known from a plan.
    """
    return open_modules(model, bare=dict.fromkeys([*functional_weights(model, inputs, seed=seed), *names]))


def functional_weights(model: nn.Module, inputs: Sequence[InputSpec], *, seed: int = 0) -> tuple[str, ...]:
    """The names of the layers that could hold what a network uses without a layer.

    Among them are the parts of an attention's input projection, where its queries, keys and values differ.

    Args:
        model: It is neither changed nor run; a copy is.
        inputs: Example inputs, without which nothing is known.
        seed: For the random example.
    """
    if not inputs:
        return ()
    model = evaluation_copy(open_modules(model))  # what is hidden in a known way is in layers there
    watched = [(path, name, _shadow(module, name)) for path, module, name in _bare(model)]
    crossed: dict[str, None] = {}
    joint = [(path, module) for path, module in model.named_modules() if is_joint(module)]
    for path, module in joint:
        module.register_forward_pre_hook(partial(_note_crossing, crossed, path), with_kwargs=True)
    try:
        if watched or joint:
            forward(model, random_example(inputs, model, seed=seed))
    except ModelError:  # or code that looks at the class of its weights: they stay
        return ()
    found = [_named(path, name, record.uses) for path, name, record in watched if _is_one(record.uses)]
    return (*found, *(f"{path}.{part}".removeprefix(".") for path in crossed for part in PARTS))


def _note_crossing(
    crossed: dict[str, None], path: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    given = [*args[:3], *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
    if any(each is not given[0] for each in given):
        crossed[path] = None


class _Record(nn.Module):
    """Stands where a layer would: the weight, and the forms in which it was used; None for any other.

    Args:
        weight: A parameter, or a matrix of one.
        whole: Stands for that parameter, where `weight` is one of several matrices.
    """

    def __init__(self, weight: torch.Tensor, whole: _Record | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.uses: set[str | None] = whole.uses if whole else set()
        self.is_part = whole is not None

    def note(self, use: Use | None) -> None:
        """Keep how it was used."""
        form = use.form if use else None
        self.uses.add(SEVERAL.get(form) if self.is_part and form else form)


class _Watched(Held):
    """A weight that notes what it is used for."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if needs_no_values(func, args, kwargs):
            return super().__torch_function__(func, types, args, kwargs)
        kwargs = kwargs or {}
        use = use_of(func, args, kwargs)
        result = plainly(func, args, kwargs)
        if _has_tensors(result):  # else it was asked for its shape, device and the like
            for held in _leaves((args, kwargs)):
                if isinstance(held, Held) and isinstance(held.layer, _Record):
                    held.layer.note(use)
        return result

    @property
    def several(self) -> bool:
        """It may be so, until it is used."""
        return len(self.sizes) == 3

    def matrix(self, index: Any) -> Held:
        """One of several, which notes for the whole."""
        whole: Any = self.layer
        return self.of(_Record(whole.weight[int(index)], whole), LINEAR, self.sizes[1:], self.turned)

    def composed(self) -> torch.Tensor:
        """The values."""
        weight: Any = self.layer.weight
        return weight.mT if self.turned else weight  # type: ignore[no-any-return]


def _bare(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1 and is_unknown(module, name):
                yield path, module, name


def _shadow(module: nn.Module, name: str) -> _Record:
    """Let a stand-in be found where the parameter was."""
    record = _Record(module.get_parameter(name))
    vars(module)[name] = _Watched.of(record, LINEAR, record.weight.shape)
    return record


def _is_one(uses: set[str | None]) -> bool:
    return len(uses) == 1 and None not in uses


def _named(path: str, name: str, uses: set[str | None]) -> str:
    return f"{path}.{name}_{next(iter(uses))}".removeprefix(".")


def _leaves(values: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(values)


def _has_tensors(values: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in _leaves(values))
