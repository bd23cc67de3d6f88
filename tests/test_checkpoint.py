"""The state of a run that must not be lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from phnnify.distilling.checkpoint import read_checkpoint, remove_checkpoint, write_checkpoint
from phnnify.errors import FileError


def test_a_state_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    state = {"step": 7, "best": (0.5, 3, {"w": torch.eye(2)}), "history": [{"loss": None}]}
    write_checkpoint(path, state)
    again = read_checkpoint(path)
    assert again["step"] == 7
    assert again["best"][:2] == (0.5, 3)
    assert torch.equal(again["best"][2]["w"], torch.eye(2))
    assert [file.name for file in tmp_path.iterdir()] == ["run.checkpoint"]


def test_the_old_state_stays_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    write_checkpoint(path, {"step": 1})
    with pytest.raises(FileError, match="cannot write the checkpoint"):
        write_checkpoint(path, {"step": lambda: None})
    assert read_checkpoint(path)["step"] == 1


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write the checkpoint"):
        write_checkpoint(tmp_path / "nowhere" / "run.checkpoint", {})


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04broken"], ids=["empty", "text", "zip"]
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.checkpoint"
    path.write_bytes(content)
    with pytest.raises(FileError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    torch.save({"w": torch.eye(2)}, path)
    with pytest.raises(FileError, match="not a checkpoint of phnnify"):
        read_checkpoint(path)


class Evil:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("should-not-exist",)


def test_nothing_inside_a_checkpoint_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"phnnify": 1, "x": Evil()}, "run.checkpoint")
    with pytest.raises(FileError, match="cannot be read"):
        read_checkpoint(Path("run.checkpoint"))
    assert not Path("should-not-exist").exists()


def test_removing_takes_away_halves_too(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    write_checkpoint(path, {})
    (tmp_path / "run.checkpoint.part").write_bytes(b"half")
    remove_checkpoint(path)
    remove_checkpoint(path)
    assert not list(tmp_path.iterdir())
