"""Data → an endless stream of batches to train on, in an order that its seed and the step alone decide.

A stream can start at any step without remembering anything, so a run that was stopped goes on exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from phnnify.batches import Batch, as_batch
from phnnify.errors import FileError


@runtime_checkable
class Rows(Protocol):
    """Samples of which any can be read."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, rows: Sequence[int]) -> Batch:
        """The samples of these places, as one batch."""


class Feed(Protocol):
    """Batches to train on."""

    batch: int

    def steps_in_epoch(self) -> float:
        """How many batches one look at all of the data takes."""

    def stream(self, start: int = 0, every: int = 1) -> Iterator[Batch]:
        """The batches from place `start` on, each `every`-th, without end."""


def make_feed(data: Any, batch: int, seed: int) -> Feed:
    """A feed from anything that can be trained on.

    Args:
        data: `Rows`, a tensor or a tuple (inputs, targets): always full batches, shuffled anew in each epoch.
            Or an iterable of batches, such as a DataLoader: their size and order are its own, and it must
            give the same again each time it is gone through, for a resumed run to be the same.
        batch: The number of samples in a batch.
        seed: For the order.

    Raises:
        FileError: there are no samples.
    """
    if isinstance(data, (Tensor, Batch)) or _is_pair(data):
        data = _Held(as_batch(data, "data"))
    if not isinstance(data, Rows):
        return _Repeated(data, batch)
    if not len(data):
        raise FileError("the data holds no samples")
    return _Shuffled(data, min(batch, len(data)), seed)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and all(isinstance(x, Tensor) for x in data)


@dataclass(frozen=True)
class _Held:
    """Samples in memory."""

    all: Batch

    def __len__(self) -> int:
        return self.all.size

    def read(self, rows: Sequence[int]) -> Batch:
        return self.all.at(torch.as_tensor(rows))


class _Shuffled:
    """Stretches of one endless line of shuffled epochs."""

    def __init__(self, data: Rows, batch: int, seed: int) -> None:
        self.batch = batch
        self._data, self._seed = data, seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def steps_in_epoch(self) -> float:
        return len(self._data) / self.batch

    def stream(self, start: int = 0, every: int = 1) -> Iterator[Batch]:
        place = start
        while True:
            yield self._data.read(self._rows(place))
            place += every

    def _rows(self, place: int) -> list[int]:
        epoch, first = divmod(place * self.batch, len(self._data))
        rows: list[int] = []
        while len(rows) < self.batch:
            rows += self._shuffled(epoch)[first : first + self.batch - len(rows)].tolist()
            epoch, first = epoch + 1, 0
        return rows

    def _shuffled(self, epoch: int) -> Tensor:
        """All samples in the order of an epoch; the last one asked for is remembered."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = (epoch, torch.randperm(len(self._data), generator=generator))
        return self._order[1]


class _Repeated:
    """An iterable of batches, again and again."""

    def __init__(self, data: Iterable[Any], batch: int) -> None:
        self.batch = batch
        self._data: Any = data

    def steps_in_epoch(self) -> float:
        try:
            return float(len(self._data))
        except TypeError:  # no length: it is gone through once to be counted
            return float(sum(1 for _ in self._data))

    def stream(self, start: int = 0, every: int = 1) -> Iterator[Batch]:
        for place, item in enumerate(self._again_and_again()):
            if place >= start and (place - start) % every == 0:
                yield as_batch(item, "data")

    def _again_and_again(self) -> Iterator[Any]:
        while True:
            empty = True
            for item in self._data:
                empty = False
                yield item
            if empty:
                raise FileError(
                    "the data gave no batches, or none when it was gone through again",
                    hint="give a list, a DataLoader or a file, not a generator that ends",
                )
