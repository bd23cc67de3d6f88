"""Samples in arrays: x and perhaps y of an .npz, .safetensors or .pt file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Arrays:
    """x and perhaps y; `take` reads rows of one of them."""

    path: Path
    options: DataOptions
    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str, Sequence[int]], Tensor]

    def __post_init__(self) -> None:
        if "x" not in self.shapes:
            raise FileError(f"{self.path} has no x; it has {', '.join(self.shapes) or 'nothing'}")
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
        file = np.load(opened, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FileError(f"{path} is a single array, not an archive of x and y")
        arrays = {name: torch.from_numpy(file[name]) for name in ("x", "y") if name in file}
    return _in_memory(path, options, arrays)


def open_torch(path: Path, options: DataOptions) -> Arrays:
    """Open x and y of a torch file, read without running anything inside it; they are in memory at once.

    Raises:
        FileError: it is damaged, or has no samples x.
        UntrustedError: it can only be read by running code stored inside it.
    """
    tensors = read_content(path).tensors
    return _in_memory(
        path, options, {n: tensors[n] for n in ("x", "y") if isinstance(tensors.get(n), Tensor)}
    )


def open_safetensors(path: Path, options: DataOptions) -> Arrays:
    """Open x and y of a safetensors file, whose rows are read when they are needed.

    Raises:
        FileError: it is damaged, or has no samples x.
    """
    try:
        file: Any = safetensors.safe_open(path, framework="pt")
        names = [name for name in ("x", "y") if name in file.keys()]  # noqa: SIM118 (it is no mapping)
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except safetensors.SafetensorError as error:
        raise FileError(f"{path} cannot be read as data: {first_line(error)}") from None

    def take(name: str, rows: Sequence[int]) -> Tensor:
        part = file.get_slice(name)
        return torch.stack([part[row] for row in rows])

    return Arrays(path, options, shapes, take)
