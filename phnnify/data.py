"""What a user has → batches: arrays, folders of images, or a loader of their own.

| reference | holds |
| --- | --- |
| `.npz`, `.safetensors`, `.pt` | `x` (samples, ...) and perhaps `y` (samples,); uint8 is scaled to [0, 1] |
| a folder or `.zip` of `class/name.jpg` (or png) | images; the class is the folder's place in the alphabet |
| `file.py:callable` | called without arguments, gives an iterable of batches |

A loader gives tensors, tuples (inputs, targets), or dicts of keyword arguments, perhaps with `labels`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from phnnify.arrays import open_npz, open_safetensors, open_torch
from phnnify.batches import Batch
from phnnify.data_options import DataOptions
from phnnify.errors import FileError, UsageError
from phnnify.images import Images
from phnnify.loaders import Loader
from phnnify.measure import first_line
from phnnify.references import load_callable

BATCH = 128


class Data(Protocol):
    """Batches that can be gone through again and again."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches, in the same order each time."""


class _Samples(Protocol):
    """A source of which any samples can be read."""

    def __len__(self) -> int: ...
    def read(self, rows: Sequence[int]) -> Batch: ...


def read_data(
    reference: str, options: DataOptions | None = None, *, samples: int | None = None, seed: int = 0
) -> Data:
    """Open data.

    Args:
        reference: A file, a folder, or a loader (the module's text).
        options: How images and arrays become inputs.
        samples: How many to use, drawn with the seed; None takes all, in their order. Of a loader's batches
            the first so many.
        seed: For the draw.

    Raises:
        UsageError: the reference has no known form.
        FileError: there is nothing there, or it is damaged, empty or of the wrong kind.
    """
    options = options or DataOptions()
    path = Path(reference)
    if not path.exists() and ":" in reference:
        return Loader(load_callable(reference, "--data"), reference, samples)
    source = _open(path, options)
    if not len(source):
        raise FileError(f"{path} holds no samples")
    return _Drawn(source, _draw(len(source), samples, seed))


def _draw(count: int, samples: int | None, seed: int) -> list[int]:
    if samples is None:
        return list(range(count))
    drawn: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    return sorted(drawn)


def _open(path: Path, options: DataOptions) -> _Samples:
    readers: dict[str, Callable[[Path, DataOptions], _Samples]] = {
        ".npz": open_npz, ".safetensors": open_safetensors, ".pt": open_torch, ".zip": Images.from_zip,
    }  # fmt: skip
    if path.is_dir():
        return Images.from_folder(path, options)
    if not path.exists():
        raise FileError(f"there is no file {path}")
    if path.suffix not in readers:
        raise UsageError(
            f"cannot tell what data {path} holds",
            hint="give .npz, .safetensors or .pt with x, a folder or .zip of images, or file.py:callable",
        )
    try:
        return readers[path.suffix](path, options)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} cannot be read as data: {first_line(error)}") from None


@dataclass(frozen=True)
class _Drawn:
    """Batches of chosen samples, read when they are needed."""

    source: _Samples
    rows: list[int]

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.rows), BATCH):
            yield self.source.read(self.rows[start : start + BATCH])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int]) -> Batch:
        """The samples of these places among the chosen ones."""
        return self.source.read([self.rows[row] for row in rows])
