"""Writing files so that nobody ever sees half of one: write beside, then rename."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phnnify.errors import FileError


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Raises:
        FileError: the path is a folder, its folder does not exist, or the system refuses it.
    """
    try:
        if path.is_dir():
            raise FileError(f"cannot write {path}: it is a folder")
        if not path.parent.is_dir():
            raise FileError(f"cannot write {path}: there is no folder {path.parent}", hint="create it first")
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a fresh folder beside; move what was written there once all is well.

    Companion files (`name.onnx.data`) written beside it move too. When the block raises, nothing is left.

    Raises:
        FileError: the path cannot be written.
    """
    check_target(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".phnnify-", dir=path.parent) as folder:
            yield Path(folder) / path.name
            for written in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # it last
                written.replace(path.parent / written.name)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, all or nothing.

    Raises:
        FileError: the path cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        FileError: it cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FileError(f"cannot read {path}: it is not a text file") from None
