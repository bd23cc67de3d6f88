"""Pieces of a checkpoint → the files of a converted one, in several processes, to be resumed after a stop.

Each output file (a shard) is written by one process, which holds its tensors, those of one module of the
original, and what the fit of one weight takes. Finished files stay in a folder beside the target, which
takes the target's place at the end.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from phnnify.errors import FileError
from phnnify.files import read_text, replacing, write_text
from phnnify.measure import first_line
from phnnify.pieces import Piece


@dataclass(frozen=True)
class Shard:
    """One file to write: its pieces, and where the tensors that they need are.

    Attributes:
        path: The file.
        pieces: What goes into it.
        places: By name in the original checkpoint, the file there.
        metadata: Of the file; more than one entry would come in a random order.
    """

    path: Path
    pieces: Sequence[Piece]
    places: Mapping[str, Path]
    metadata: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Of the tensors in it."""
        return [name for piece in self.pieces for name in piece.gives.values()]

    def write(self) -> None:
        """Convert its pieces one after the other, and write them.

        Raises:
            FileError: a file cannot be read or written.
            ModelError: a weight holds values that are not finite.
        """
        tensors: dict[str, Tensor] = {}
        errors: dict[str, float] = {}
        for piece in self.pieces:
            given, lost = piece.convert(self._read)
            tensors |= given
            errors |= lost
        write_text(self._notes, json.dumps(errors))
        with replacing(self.path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # safetensors makes a file that nobody else may read
            safetensors.torch.save_file(tensors, temporary, metadata=dict(self.metadata) or None)
            temporary.chmod(mode)

    def errors(self) -> dict[str, float]:
        """The weight errors of a file that was written."""
        errors: dict[str, float] = json.loads(read_text(self._notes))
        return errors

    @property
    def _notes(self) -> Path:
        return self.path.with_name(f"{self.path.name}.errors.json")

    def _read(self, name: str) -> Tensor:
        path = self.places[name]
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise FileError(f"{path} is a damaged safetensors file: {first_line(error)}") from None


def in_shards(pieces: Iterable[Piece], most: int) -> list[list[Piece]]:
    """Pieces in their order, so many together that a group gives at most `most` numbers, or is one piece."""
    groups: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        if not groups or size + piece.entries > most:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.entries
    return groups


def stored_names(files: Sequence[Path]) -> dict[str, Path]:
    """Where each tensor of a checkpoint is.

    Raises:
        FileError: a file is damaged.
    """
    places = {}
    for path in files:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                places.update(dict.fromkeys(file.keys(), path))
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise FileError(f"{path} is a damaged safetensors file: {first_line(error)}") from None
    return places


def write_shards(shards: Sequence[Shard], workers: int, progress: Callable[[int, int], None]) -> None:
    """Write those that are not there yet.

    Args:
        shards: All of them.
        workers: How many processes; with one, this one.
        progress: Told (how many are done, all).

    Raises:
        FileError, ModelError: as `Shard.write`.
    """
    waiting = [shard for shard in shards if not shard.path.exists()]
    done = len(shards) - len(waiting)
    progress(done, len(shards))
    if workers == 1 or len(waiting) < 2:
        for shard in waiting:
            shard.write()
            done += 1
            progress(done, len(shards))
        return
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may never come back
    with ProcessPoolExecutor(min(workers, len(waiting)), context, torch.set_num_threads, (threads,)) as pool:
        running: list[Any] = [pool.submit(shard.write) for shard in waiting]
        try:
            for future in as_completed(running):
                future.result()
                done += 1
                progress(done, len(shards))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
