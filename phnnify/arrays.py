"""Samples in arrays: x and perhaps y of an .npz, .safetensors or .pt file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from phnnify.archive import read_content
from phnnify.batches import Batch
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from phnnify.measure import first_line

_SAVE_NPZ = "np.savez(path, x=inputs, y=labels) writes one"
_SAVE_TORCH = 'torch.save({"x": inputs, "y": labels}, path) writes a file that can be read'


@dataclass(frozen=True)
class Arrays:
    """x and perhaps y; `take` reads rows of one of them."""

    path: Path
    options: DataOptions
    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str, Sequence[int]], Tensor]

    def __post_init__(self) -> None:
        if not self.shapes["x"]:
            raise FileError(f"{self.path}: x is a single number, not samples")
        if "y" in self.shapes and self.shapes["y"][:1] != self.shapes["x"][:1]:
            raise FileError(
                f"{self.path}: x has {self.shapes['x'][0]} samples and y has shape {self.shapes['y']}"
            )

    def __len__(self) -> int:
        return self.shapes["x"][0]

    def read(self, rows: Sequence[int]) -> Batch:
        """The samples of these places, as one batch."""
        x = self.options.normalized(self.take("x", rows), str(self.path))
        y = self.take("y", rows) if "y" in self.shapes else None
        return Batch((x,), targets=y if y is None or y.is_floating_point() else y.long())


def _names(path: Path, held: Collection[str]) -> list[str]:
    """Which of x and y a file holds, told all names in it."""
    if "x" not in held:
        shown = ", ".join(list(held)[:8]) or "nothing"
        raise FileError(f"{path} has no x; it has {shown}", hint="call the inputs x, and their labels y")
    return [name for name in ("x", "y") if name in held]


def _in_memory(path: Path, options: DataOptions, arrays: dict[str, Tensor]) -> Arrays:
    def take(name: str, rows: Sequence[int]) -> Tensor:
        return arrays[name][torch.as_tensor(rows)]

    return Arrays(path, options, {name: tuple(a.shape) for name, a in arrays.items()}, take)


def open_npz(path: Path, options: DataOptions) -> Arrays:
    """Open x and y of NumPy's archive, none of them pickled; they are in memory at once.

    Raises:
        FileError: it is a single array, or has no samples x.
    """
    with path.open("rb") as opened:
        if not (head := opened.peek(8)[:8]).startswith((b"PK", b"\x93NUMPY")):
            raise FileError(f"{path} is no .npz archive: it begins with {head!r}")
        file = np.load(opened, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FileError(f"{path} is a single array, not an archive of x and y", hint=_SAVE_NPZ)
        arrays = {name: _numbers(path, name, file[name]) for name in _names(path, file.files)}
    return _in_memory(path, options, arrays)


def _numbers(path: Path, name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise FileError(
            f"{path}: {name} holds {array.dtype}, which are no numbers that torch knows",
            hint="inputs are numbers, labels are whole numbers from 0",
        ) from None


def open_torch(path: Path, options: DataOptions) -> Arrays:
    """Open x and y of a torch file, read without running anything inside it; they are in memory at once.

    Raises:
        FileError: it is damaged, or has no samples x.
        UntrustedError: it can only be read by running code stored inside it.
    """
    try:
        tensors = read_content(path).tensors
    except FileError as error:
        raise type(error)(f"{path} cannot be read as data: {error}", hint=_SAVE_TORCH) from None
    names = _names(path, [name for name, value in tensors.items() if isinstance(value, Tensor)])
    return _in_memory(path, options, {name: tensors[name] for name in names})


def open_safetensors(path: Path, options: DataOptions) -> Arrays:
    """Open x and y of a safetensors file, whose rows are read when they are needed.

    Raises:
        FileError: it is damaged, or has no samples x.
    """
    try:
        file: Any = safetensors.safe_open(path, framework="pt")
        names = _names(path, file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise FileError(f"{path} cannot be read as data: {first_line(error)}") from None

    def take(name: str, rows: Sequence[int]) -> Tensor:
        part = file.get_slice(name)
        return torch.stack([part[row] for row in rows])

    return Arrays(path, options, shapes, take)
