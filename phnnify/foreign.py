"""The classes and functions that a torch file names beyond those known to be safe, seen without running it.

The weights-only unpickler calls only what torch allows by itself and `SAFE_GLOBALS`, which run no code from
the file. Where it refuses, the names in the pickle's opcodes say why; nothing is imported or called for them.
"""

from __future__ import annotations

import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import loss
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from phnnify import layers, opened


def _torch_layers() -> Iterator[type[nn.Module]]:
    for candidate in vars(nn).values():
        if isinstance(candidate, type) and issubclass(candidate, nn.Module):
            lazy = issubclass(candidate, LazyModuleMixin)
            if not lazy and candidate.__module__ != loss.__name__:
                yield candidate


SAFE_CLASSES: tuple[type[nn.Module], ...] = (
    *_torch_layers(),
    NonDynamicallyQuantizableLinear,
    *(getattr(layers, name) for name in layers.__all__ if name != "PHMLayer"),
    opened.OpenAttention,
    opened.OpenLSTM,
    opened.OpenGRU,
    opened.OpenRNN,
)
SAFE_GLOBALS: tuple[Any, ...] = (*SAFE_CLASSES, nn.functional.relu, nn.functional.gelu, torch.Size)
ZIP = b"PK\x03\x04"
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, keys of its storages; then raw numbers


def foreign_globals(path: Path) -> list[str]:
    """The classes and functions that a torch file names and that the safe unpickler does not know.

    Reads the pickle's opcodes; runs nothing. A legacy file is read up to the end of its first pickles.
    """
    known = {f"{g.__module__}.{g.__qualname__}" for g in SAFE_GLOBALS if hasattr(g, "__qualname__")}
    known |= set(torch._weights_only_unpickler._get_allowed_globals())
    return [name for name in dict.fromkeys(_globals(path)) if name not in known]


def needed(path: Path, foreign: list[str]) -> str:
    """What a file needs, as a reader is told: the first names, and how many more."""
    more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
    return f"{path} needs code that is not known to be safe: {', '.join(foreign[:5])}{more}"


def _globals(path: Path) -> Iterator[str]:
    strings: list[str] = []  # as they are pushed
    memo: dict[int, str] = {}  # what stood last when an object was remembered
    try:
        for opcode, argument, _ in _opcodes(path):
            if opcode.name == "GLOBAL":
                yield _python3_name(*str(argument).split(" ", 1))
            elif opcode.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif opcode.name == "PROTO":
                memo.clear()
            elif opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
                memo[len(memo) if argument is None else argument] = strings[-1] if strings else ""
            elif opcode.name.endswith("GET"):
                strings.append(memo.get(argument, ""))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # the end of what can be parsed
        return


def _python3_name(module: str, name: str) -> str:
    """Pickles of protocol 2, which torch.save writes, call things as Python 2 did."""
    return ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def _opcodes(path: Path) -> Iterator[Any]:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    yield from pickletools.genops(archive.read(name))
        return
    with path.open("rb") as file:
        for _ in range(_LEGACY_PICKLES):
            yield from pickletools.genops(file)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP
