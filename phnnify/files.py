"""Writing files so that nobody ever sees half of one: write beside, then rename."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from phnnify.errors import FileError


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name; no where the system does not even look for it."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_target(path: Path, *, replaces: Callable[[Path], bool] | None = None) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Args:
        path: Of a file to write, or of a folder where `replaces` is given.
        replaces: Says of a folder that stands there already whether it may be replaced.

    Raises:
        FileError: the path is a folder, its folder does not exist, or the system refuses it.
    """
    try:
        if path.is_dir() and not (replaces and replaces(path)):
            hint = "only a folder that phnnify wrote is replaced; give another name" if replaces else None
            raise FileError(f"cannot write {path}: it is a folder", hint=hint)
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


@contextmanager
def replacing_folder(path: Path, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a fresh folder of the same name in a fresh folder beside; put it in its place once all is well.

    When the block raises, nothing is left and what stood there stays.

    Args:
        path: The folder to write.
        replaces: Says of a folder that stands there already whether it may be replaced.

    Raises:
        FileError: the path cannot be written.
    """
    check_target(path, replaces=replaces)
    try:
        place = path.resolve()  # the folder itself, not a link to it
        with tempfile.TemporaryDirectory(
            prefix=".phnnify-", dir=place.parent, ignore_cleanup_errors=True
        ) as beside:
            fresh, old = Path(beside) / "new" / place.name, Path(beside) / "old"
            fresh.mkdir(parents=True)
            yield fresh
            if place.is_dir():
                place.rename(old)
            try:
                fresh.rename(place)
            except OSError:
                if old.is_dir():
                    old.rename(place)
                raise
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
