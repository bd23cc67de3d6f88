"""Batches that the user's own function gives: tensors, tuples (inputs, targets), or dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from phnnify.batches import Batch, as_batch
from phnnify.errors import FileError
from phnnify.measure import first_line


@dataclass(frozen=True)
class Loader:
    """The batches of an iterable that `build` gives; of their samples the first so many, or all."""

    build: Callable[[], Any]
    reference: str
    samples: int | None

    def __iter__(self) -> Iterator[Batch]:
        left = self.samples
        for item in self._items():
            batch = as_batch(item, self.reference)
            if left is not None:
                batch = batch.head(left)
                left -= batch.size
            if batch.size:
                yield batch
            if left == 0:
                return

    def _items(self) -> Iterator[Any]:
        try:
            loaded: Iterable[Any] = self.build()
            yield from loaded
        except Exception as error:  # whatever the user's own code may raise
            raise FileError(f"--data {self.reference} failed: {first_line(error)}") from None
