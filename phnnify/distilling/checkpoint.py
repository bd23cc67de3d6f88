"""The state of a run that must not be lost: one file, replaced whole, never half-written.

It holds tensors and plain values only and is read with `weights_only=True`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from phnnify.errors import FileError
from phnnify.measure import first_line

FORMAT = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Put a state in place of the one before; a reader sees the old or the new one, whatever happens.

    The part is written beside under one fixed name, so that a killed run leaves at most one such file, which
    the next checkpoint overwrites.

    Raises:
        FileError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save({"phnnify": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except Exception as error:  # the system's, and whatever torch's writer may raise
        part.unlink(missing_ok=True)
        raise FileError(f"cannot write the checkpoint {path}: {first_line(error)}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Raises:
        FileError: it cannot be read, or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise many things
        raise FileError(
            f"{path} cannot be read as a checkpoint: {first_line(error)}",
            hint="delete it and start the run anew",
        ) from None
    if not isinstance(state, dict) or state.get("phnnify") != FORMAT:
        raise FileError(f"{path} is not a checkpoint of phnnify", hint="delete it and start the run anew")
    return state


def remove_checkpoint(path: Path) -> None:
    """Delete it, once the run is over and its result is safe."""
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".part").unlink(missing_ok=True)
