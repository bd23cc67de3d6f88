"""Batches that a function of the user gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from phnnify.data import read_data
from phnnify.errors import FileError

LOADER = """
import torch
def tensors():
    return (torch.full((3, 2), float(i)) for i in range(4))
def pairs():
    return [(torch.zeros(3, 2), torch.ones(3).long())]
def named():
    return [{"a": torch.zeros(3, 2), "b": torch.ones(3), "labels": torch.ones(3)}]
def broken():
    yield torch.zeros(3, 2)
    raise RuntimeError("no more")
def odd():
    return [{"a": "text"}]
def nothing():
    return []
"""


@pytest.fixture
def loader(tmp_path: Path) -> str:
    (tmp_path / "my_loader.py").write_text(LOADER)
    return str(tmp_path / "my_loader.py")


def test_a_loader_gives_tensors_pairs_or_keyword_arguments(loader: str) -> None:
    assert [b.args[0][0, 0].item() for b in read_data(f"{loader}:tensors")] == [0, 1, 2, 3]
    (pair,) = read_data(f"{loader}:pairs")
    assert pair.targets is not None
    assert pair.targets.tolist() == [1, 1, 1]
    (named,) = read_data(f"{loader}:named")
    assert set(named.kwargs) == {"a", "b"}
    assert named.targets is not None


def test_a_loader_is_read_no_further_than_needed(loader: str) -> None:
    assert [b.size for b in read_data(f"{loader}:tensors", samples=7)] == [3, 3, 1]
    assert [b.size for b in read_data(f"{loader}:broken", samples=3)] == [3]


@pytest.mark.parametrize(
    ("name", "words"), [("broken", "failed: RuntimeError: no more"), ("odd", "gave a dict")]
)
def test_a_loader_that_fails_says_why(loader: str, name: str, words: str) -> None:
    with pytest.raises(FileError, match=words):
        list(read_data(f"{loader}:{name}"))
