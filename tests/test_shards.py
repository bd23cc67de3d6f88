"""Pieces are put together in files."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phnnify.errors import FileError
from phnnify.pieces import Piece
from phnnify.shards import Shard, in_shards, stored_names, write_shards


def piece(name: str, entries: int = 1) -> Piece:
    """A tensor that stays."""
    return Piece({"": name}, {"": name}, entries)


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 20))
def test_files_keep_the_order_and_their_size(sizes: list[int], most: int) -> None:
    pieces = [piece(str(i), size) for i, size in enumerate(sizes)]
    groups = in_shards(pieces, most)
    assert [p for group in groups for p in group] == pieces
    for group in groups:
        assert len(group) == 1 or sum(p.entries for p in group) <= most
    for one, following in itertools.pairwise(groups):
        assert sum(p.entries for p in one) + following[0].entries > most


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    save_file({"a": torch.arange(3.0), "b": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(1)}, tmp_path / "two.safetensors")
    return stored_names([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


def test_each_tensor_is_found_in_its_file(places: dict[str, Path]) -> None:
    assert {name: path.name for name, path in places.items()} == {
        "a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors",
    }  # fmt: skip


def test_files_that_are_there_are_not_written_again(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    shards = [Shard(tmp_path / "out" / name, [piece(name)], places, {"who": "me"}) for name in "abc"]
    (tmp_path / "out" / "b").write_text("finished")
    (tmp_path / "out" / "b.errors.json").write_text('{"b": 0.5}')
    told: list[tuple[int, int]] = []
    write_shards(shards, 1, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "out" / "b").read_text() == "finished"
    assert torch.equal(load_file(tmp_path / "out" / "a")["a"], torch.arange(3.0))
    assert [shard.errors() for shard in shards] == [{}, {"b": 0.5}, {}]
    assert (tmp_path / "out" / "a").stat().st_mode == (tmp_path / "out" / "b").stat().st_mode


def test_a_damaged_file_is_an_error(places: dict[str, Path], tmp_path: Path) -> None:
    places["a"].write_bytes(places["a"].read_bytes()[:60])
    with pytest.raises(FileError, match=r"one\.safetensors is a damaged safetensors file"):
        Shard(tmp_path / "out", [piece("a")], places, {}).write()
    with pytest.raises(FileError, match=r"one\.safetensors is a damaged safetensors file"):
        stored_names([places["a"]])
    assert not (tmp_path / "out").exists()
