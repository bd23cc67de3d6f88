"""How images and arrays become inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.errors import FileError, UsageError
from tests.data_files import X, Y, write_npz


def test_bytes_are_scaled_and_normalized_and_other_integers_are_not(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    write_npz(tmp_path / "d.npz", x=images)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    (batch,) = read_data(str(tmp_path / "d.npz"), DataOptions(mean=mean, std=std))
    wanted = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(batch.args[0].numpy(), wanted, atol=1e-6)
    assert batch.targets is None
    write_npz(tmp_path / "t.npz", x=Y)
    (tokens,) = (b for i, b in enumerate(read_data(str(tmp_path / "t.npz"))) if i == 0)
    assert tokens.args[0].dtype == torch.int64


@pytest.mark.parametrize(
    "options",
    [{"mean": (0.5,)}, {"mean": (0.5,), "std": (0.0,)}, {"size": 0}, {"std": (1.0, 1.0), "mean": (1.0,)}],
)
def test_options_check_themselves(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DataOptions(**options)


def test_a_mean_for_other_channels_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", x=X)
    with pytest.raises(FileError, match="--mean has 3 numbers; x has shape"):
        list(read_data(str(tmp_path / "d.npz"), DataOptions(mean=(0.0,) * 3, std=(1.0,) * 3)))
