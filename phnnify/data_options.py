"""How images and arrays become inputs: their size, and the mean and deviation of their channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from phnnify.errors import FileError, UsageError


@dataclass(frozen=True)
class DataOptions:
    """How images and arrays become inputs.

    Attributes:
        size: Height and width to which images are scaled; None keeps theirs.
        mean, std: Per channel, of values in [0, 1]; x becomes (x − mean)/std.

    Raises:
        UsageError: mean and std have different lengths, a std is not above 0, or the size is not.
    """

    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(f"--mean has {len(self.mean)} numbers and --std has {len(self.std)}")
        if any(value <= 0 for value in self.std):
            raise UsageError("--std must be above 0")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size is {self.size}; it must be at least 1")

    def normalized(self, x: Tensor, where: str) -> Tensor:
        """uint8 scaled to [0, 1], then (x − mean)/std along axis 1; other integers are left alone."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if not self.mean:
            return x
        if not x.is_floating_point() or x.dim() < 2 or x.shape[1] != len(self.mean):
            raise FileError(f"{where}: --mean has {len(self.mean)} numbers; x has shape {tuple(x.shape)}")
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)
