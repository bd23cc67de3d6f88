"""Samples in arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from phnnify.arrays import open_npz, open_safetensors, open_torch
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from tests.data_files import WRITERS, X, Y, write_npz

OPENERS = {".npz": open_npz, ".safetensors": open_safetensors, ".pt": open_torch}


@pytest.mark.parametrize("ending", WRITERS)
def test_any_rows_can_be_read_in_any_order(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"d{ending}", x=X, y=Y)
    arrays = OPENERS[ending](tmp_path / f"d{ending}", DataOptions())
    assert len(arrays) == len(X)
    rows = [7, 299, 0]
    batch = arrays.read(rows)
    assert batch.targets is not None
    assert torch.equal(batch.args[0], X[rows])
    assert torch.equal(batch.targets, Y[rows])


def test_bad_files_are_refused_with_what_was_found(tmp_path: Path) -> None:
    write_npz(tmp_path / "no_x.npz", images=X)
    write_npz(tmp_path / "short.npz", x=X, y=Y[:5])
    write_npz(tmp_path / "scalar.npz", x=3.0)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{")
    np.save(tmp_path / "array.npy", X.numpy())
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez(tmp_path / "words.npz", x=X.numpy(), y=np.array(["cat"] * len(X)))
    (tmp_path / "text.npz").write_text("no archive")
    torch.save((X, Y), tmp_path / "pair.pt")
    for name, words in {
        "no_x.npz": "has no x; it has images$",
        "words.npz": "y holds <U3, which are no numbers",
        "text.npz": "is no .npz archive: it begins with b'no archi'",
        "pair.pt": "cannot be read as data: .* holds a tuple",
        "short.npz": "x has 300 samples and y has shape",
        "scalar.npz": "single number",
        "broken.npz": "cannot be read as data",
        "broken.safetensors": "cannot be read as data",
        "array.npz": "a single array",
    }.items():
        with pytest.raises(FileError, match=words):
            read_data(str(tmp_path / name))


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_without_x_says_what_it_has_and_what_is_needed(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"d{ending}", images=X, labels=Y)
    with pytest.raises(FileError, match="has no x; it has images, labels") as caught:
        read_data(str(tmp_path / f"d{ending}"))
    assert caught.value.hint == "call the inputs x, and their labels y"


def test_pickles_in_data_files_do_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileError, match="cannot be read as data"):
        read_data(str(tmp_path / "objects.npz"))
