"""An algebra as a user names it: one that has a name, or a file of structure constants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from tomlkit.exceptions import TOMLKitError

from phnnify.algebras import CYCLIC, NAMES, Algebra, named_algebra, own_algebra
from phnnify.errors import FileError, UsageError
from phnnify.files import read_text

ENDINGS = (".json", ".toml", ".npy")
_KEY = "constants"
_LARGEST = 1 << 26  # bytes of a file: far more than any algebra of use


def read_algebra(given: str | Algebra, n: int | None = None) -> Algebra:
    """An algebra by its name, or from a file that holds its structure constants.

    A file holds nested lists or an array (n, n, n), `constants[r][i][j]` being the part of e_i in e_r·e_j:
    `.json` (the lists, or an object with `constants`), `.toml` (`constants = ...`) or `.npy`.

    Args:
        given: One of `algebras.NAMES`, the path of a file, or an algebra itself.
        n: The dimension of the cyclic one, 4 by default.

    Raises:
        UsageError: it is neither a name nor a file with such an ending, or n is not its dimension.
        FileError: the file cannot be read, or holds no algebra.
    """
    if isinstance(given, Algebra):
        return given
    if given in NAMES:
        try:
            return named_algebra(given, (n or 4) if given == CYCLIC else n)
        except ValueError as error:
            raise UsageError(str(error), hint="leave n out") from None
    path = Path(given)
    if path.suffix not in ENDINGS:
        raise UsageError(
            f"{given!r} is no algebra",
            hint=f"one of {', '.join(NAMES)}, or a file ({', '.join(ENDINGS)}) of constants (n, n, n)",
        )
    try:
        return own_algebra(path.stem, _read(path))
    except ValueError as error:
        raise FileError(f"{path} holds no algebra: {error}") from None


def _read(path: Path) -> Any:
    """What the file holds.

    Raises:
        FileError: it cannot be read.
        ValueError: it is not of the form that its ending says.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{path} is too large for an algebra")
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
    except (OSError, EOFError) as error:
        raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    text = read_text(path)
    try:
        found = json.loads(text) if path.suffix == ".json" else tomlkit.parse(text).unwrap()
    except (TOMLKitError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return found.get(_KEY) if isinstance(found, dict) else found
