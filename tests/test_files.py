"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from phnnify.errors import FileError
from phnnify.files import check_target, read_text, replacing, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_the_block_wrote_stands_at_the_path_and_nothing_else_is_left(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == {"a.txt"}


def test_the_temporary_path_has_the_same_name_in_the_same_folder_tree(tmp_path: Path) -> None:
    with replacing(tmp_path / "net.onnx") as temporary:
        assert temporary.name == "net.onnx"
        assert temporary.parent.parent == tmp_path
        temporary.touch()


def test_nothing_is_left_when_the_block_raises(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            (temporary.parent / "a.txt.data").write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert names(tmp_path) == set()


def test_nothing_is_left_when_the_user_interrupts(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == set()


def test_an_existing_file_is_replaced_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_companion_files_move_too(tmp_path: Path) -> None:
    with replacing(tmp_path / "net.onnx") as temporary:
        temporary.write_text("graph")
        (temporary.parent / "net.onnx.data").write_text("tensors")
    assert names(tmp_path) == {"net.onnx", "net.onnx.data"}
    assert (tmp_path / "net.onnx.data").read_text() == "tensors"


def test_the_file_itself_is_not_replaced_when_its_companion_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_text("old")
    (tmp_path / "net.onnx.data").mkdir()

    def write() -> None:
        with replacing(tmp_path / "net.onnx") as temporary:
            temporary.write_text("graph")
            (temporary.parent / "net.onnx.data").write_text("tensors")

    with pytest.raises(FileError, match=r"cannot write .*net\.onnx: Is a directory"):
        write()
    assert (tmp_path / "net.onnx").read_text() == "old"
    assert names(tmp_path) == {"net.onnx", "net.onnx.data"}


def test_an_error_of_the_system_in_the_block_is_a_file_error(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match=r"cannot write .*a\.txt: No space left on device"):
        write()
    assert names(tmp_path) == set()


def test_a_missing_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder") as caught:
        check_target(tmp_path / "none" / "a.txt")
    assert caught.value.hint == "create it first"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="there is no folder"):
        check_target(tmp_path / "file" / "a.txt")


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="it is a folder"):
        check_target(tmp_path)


def test_a_name_that_the_system_refuses_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="File name too long"):
        check_target(tmp_path / ("a" * 300))


def test_a_folder_that_cannot_be_written_is_a_file_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)  # permissions do not hold for root
    with pytest.raises(FileError, match="Permission denied"):
        write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == set()


def test_a_plain_target_passes_whether_it_exists_or_not(tmp_path: Path) -> None:
    check_target(tmp_path / "a.txt")
    (tmp_path / "a.txt").touch()
    check_target(tmp_path / "a.txt")


def test_text_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "16×16 ≠ Ω\n")
    assert read_text(tmp_path / "a.txt") == "16×16 ≠ Ω\n"
    assert (tmp_path / "a.txt").read_bytes().decode("utf-8") == "16×16 ≠ Ω\n"


def test_reading_what_is_not_there_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*a\.txt: No such file"):
        read_text(tmp_path / "a.txt")


def test_reading_what_is_no_text_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="not a text file"):
        read_text(tmp_path / "a.bin")
