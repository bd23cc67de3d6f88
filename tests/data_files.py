"""Files of data: arrays in each form, and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

X = torch.arange(300 * 2, dtype=torch.float32).reshape(300, 2)
Y = torch.arange(300) % 7


def write_npz(path: Path, **arrays: Any) -> None:
    named: Any = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, **named)


def write_safetensors(path: Path, **arrays: Any) -> None:
    safetensors.torch.save_file({name: torch.as_tensor(array) for name, array in arrays.items()}, path)


def write_torch(path: Path, **arrays: Any) -> None:
    torch.save({name: torch.as_tensor(array) for name, array in arrays.items()}, path)


WRITERS = {".npz": write_npz, ".safetensors": write_safetensors, ".pt": write_torch}


def save_image(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
