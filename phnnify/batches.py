"""Batches: the inputs of one call of a network, and what it should answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from phnnify.errors import FileError
from phnnify.inputs import InputSpec


@dataclass(frozen=True)
class Batch:
    """Inputs of one call of a network, `model(*args, **kwargs)`, and what it should answer, where known."""

    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Tensor] = field(default_factory=dict)
    targets: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of samples: the length of the first input."""
        return len(next(iter((*self.args, *self.kwargs.values()))))

    def head(self, count: int) -> Batch:
        """The first `count` samples."""
        return self.map(lambda x: x[:count])

    def tail(self, start: int) -> Batch:
        """The samples from `start` on."""
        return self.map(lambda x: x[start:])

    def at(self, rows: Tensor) -> Batch:
        """The samples of these places."""
        return self.map(lambda x: x[rows.to(x.device)])

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self.map(lambda x: x.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Each tensor changed, the targets too."""
        return Batch(
            tuple(change(x) for x in self.args),
            {name: change(x) for name, x in self.kwargs.items()},
            None if self.targets is None else change(self.targets),
        )


def calibration_batches(data: Iterable[Any], samples: int) -> list[Batch]:
    """The first `samples` inputs of data, or of what a loader gives, as batches.

    Raises:
        FileError: there are none, or an item is no batch.
    """
    batches: list[Batch] = []
    left = samples
    for item in data:
        if left <= 0:
            break
        batch = as_batch(item, "data").head(left)
        batches.append(batch)
        left -= batch.size
    if left == samples:
        raise FileError("the data holds no samples")
    return batches


def halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """The first half of the samples, and the rest; a single sample is in the first and in the rest."""
    half = sum(batch.size for batch in batches) // 2
    first = calibration_batches(batches, max(half, 1))
    rest: list[Batch] = []
    skip = half
    for batch in batches:
        if skip < batch.size:
            rest.append(batch.tail(skip))
        skip = max(0, skip - batch.size)
    return first, rest


def input_specs(batches: Sequence[Batch]) -> tuple[InputSpec, ...]:
    """What the network takes, as one sample of the first batch shows."""
    if not batches:
        return ()
    named = [(None, x) for x in batches[0].args] + list(batches[0].kwargs.items())
    return tuple(InputSpec.like(x, name).with_batch(1) for name, x in named)


def as_batch(item: Any, where: str) -> Batch:
    """A batch from what a loader gives: a tensor, (inputs, targets), or keyword arguments.

    Inputs are a tensor, a tuple of those that one call takes, or keyword arguments.

    Raises:
        FileError: it is something else.
    """
    if isinstance(item, Batch):
        return item
    if _is_samples(item):
        return Batch((item,))
    if isinstance(item, (tuple, list)) and item:
        inputs, *rest = item
        targets = rest[0] if rest else None
        if len(rest) <= 1 and (targets is None or _is_samples(targets)):
            return replace(_inputs(inputs, where), targets=targets)
    if isinstance(item, dict) and item and all(_is_samples(value) for value in item.values()):
        kwargs = {str(name): value for name, value in item.items() if name != "labels"}
        return Batch((), kwargs, item.get("labels"))
    raise FileError(
        f"{where} gave a {type(item).__name__}",
        hint="a batch is a tensor, a tuple (inputs, targets), or a dict of keyword arguments; inputs may be "
        "a tuple of tensors; the first axis of each tensor counts samples",
    )


def _inputs(item: Any, where: str) -> Batch:
    """What stands before the targets: several inputs of one call, or anything that is a batch itself."""
    several = isinstance(item, (tuple, list)) and len(item) > 1 and all(map(_is_samples, item))
    return Batch(tuple(item)) if several else as_batch(item, where)


def _is_samples(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dim() > 0
