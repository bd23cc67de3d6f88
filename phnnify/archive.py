"""What a model file holds, read without running anything inside it.

The kind of a file is told by its first bytes, never by its name. Tensors come from safetensors, or from
torch files through torch's weights-only unpickler. That unpickler also builds modules whose classes are all
torch's own or ours (`foreign.SAFE_CLASSES`): their constructors and `__setstate__` run no code from the file.
Anything else needs `trust`, and only then is a file handed to the ordinary unpickler.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from phnnify.errors import FileError, UntrustedError
from phnnify.foreign import SAFE_CLASSES, SAFE_GLOBALS, ZIP, foreign_globals, needed
from phnnify.measure import evaluation_copy, first_line
from phnnify.references import importable

_UNUSUAL = ("Unsupported operand", "Only persistent_load of storage")  # what torch's safe unpickler lacks
_PROGRAM = "archive_format"  # an entry of torch.export's archives alone
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_WRAPPINGS = 4  # dicts around the weights that are looked through


@dataclass(frozen=True)
class Content:
    """What a file holds: a whole module, or tensors by name, with a safetensors file's metadata."""

    module: nn.Module | None = None
    tensors: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_content(path: Path, *, trust: bool = False) -> Content:
    """Read any supported model file.

    Args:
        path: A .safetensors file or a torch file (.pt, .pth, .bin: zip archive or legacy pickle).
        trust: Let code stored in the file run where it cannot be read otherwise.

    Raises:
        FileError: it is missing, empty, a folder, damaged, of another kind, or holds no network.
        UntrustedError: it can only be read by running code stored inside it.
    """
    head = _head(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(ZIP):
        _check_zip(path)
        return _content_of(path, _read_torch(path, trust))
    if head.startswith(b"\x80"):
        return _content_of(path, _read_torch(path, trust))
    raise FileError(
        f"{path} is no model file: it begins with {head[:8]!r}",
        hint="give a .safetensors file, or a .pt, .pth or .bin file written by torch.save",
    )


def is_program(path: Path) -> bool:
    """Whether a file is an archive of torch.export (.pt2)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/", 1)[-1] == _PROGRAM for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise FileError(f"{path} is a folder", hint="give the weights file inside it")
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise FileError(f"{path} is empty")
    return head


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors.

    Raises:
        FileError: it is no safetensors file.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} is a damaged safetensors file: {first_line(error)}") from None


def _read_safetensors(path: Path) -> Content:
    metadata = read_metadata(path)
    try:
        return Content(tensors=safetensors.torch.load_file(path), metadata=metadata)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} is a damaged safetensors file: {first_line(error)}") from None


def _check_zip(path: Path) -> None:
    """Refuse archives of other kinds, and damaged ones: torch itself does not check the checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
            _refuse_other_archives(path, names)
            entries = archive.infolist()
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise FileError(f"{path} is compressed, which torch.save never does")
            damaged = archive.testzip()
    except FileError:
        raise
    except Exception as error:  # zipfile hands on whatever its decompressors raise
        raise FileError(f"{path} is a damaged torch file: {_reason(error)}") from None
    if damaged:
        raise FileError(f"{path} is a damaged torch file: the checksum of its entry {damaged} is wrong")


def _refuse_other_archives(path: Path, names: list[str]) -> None:
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise FileError(
            f"{path} is TorchScript, compiled code whose layers cannot be exchanged",
            hint="build the network from its Python class, save its state_dict, and give --arch",
        )
    if _PROGRAM in names:
        raise FileError(f"{path} is a torch.export program (.pt2)", hint="torch.export.load reads it")
    if any(name.startswith("serialized_exported_program") for name in names):
        raise FileError(
            f"{path} is a torch.export program of a torch older than 2.8",
            hint="export and save it again",
        )
    if "data.pkl" not in names:
        shown = ", ".join(names[:3])
        raise FileError(
            f"{path} is a zip archive that torch.save did not write: it holds {shown or 'nothing'}"
        )


def _read_torch(path: Path, trust: bool) -> Any:
    """The object in a torch file.

    Raises:
        FileError: torch cannot read it.
        UntrustedError: only the ordinary unpickler could, and `trust` is false.
    """
    try:
        with torch.serialization.safe_globals(list(SAFE_GLOBALS)):
            return _load(path, weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        reason, foreign = _reason(error), foreign_globals(path)
        if not foreign and not reason.startswith(_UNUSUAL):
            raise FileError(f"{path} is a damaged torch file: {reason}") from None
        if not trust:
            raise UntrustedError(
                needed(path, foreign)
                if foreign
                else f"{path} is damaged, or pickled in a form that torch cannot read safely: {reason}",
                hint="save its state_dict and give --arch; or, if you trust the file's origin, --trust",
            ) from None
    return _read_trusted(path)


def _reason(error: Exception) -> str:
    """What went wrong, without the advice around it to load the file unsafely."""
    _, found, told = str(error).partition("WeightsUnpickler error:")
    if not found:
        return first_line(error).removeprefix("error: ")  # what zlib and struct call theirs
    return told.strip().split("\n")[0].split(". Please use")[0]


def _read_trusted(path: Path) -> Any:
    try:
        with importable(Path()):
            return _load(path, weights_only=False)
    except (Exception, SystemExit) as error:  # the file's own code may raise anything
        raise FileError(
            f"{path} cannot be unpickled: {first_line(error)}",
            hint="the classes in it must be importable from here: run it where they are, or set PYTHONPATH",
        ) from None


def _load(path: Path, *, weights_only: bool) -> Any:
    """`torch.load` of an open file: given a path, torch goes by its ending.

    Old files make torch warn about itself (TypedStorage and the like), which says nothing to a reader.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=weights_only)


def _content_of(path: Path, loaded: Any) -> Content:
    """A module, or a state dict, also where a training script wrapped it."""
    for _ in range(_WRAPPINGS):  # not without end: a dict may hold itself
        inner = [loaded.get(key) for key in _WRAPPERS] if isinstance(loaded, dict) else []
        loaded = next((value for value in inner if isinstance(value, (dict, nn.Module))), loaded)
    if isinstance(loaded, nn.Module):
        _check_module(path, loaded)
        return Content(module=loaded)
    if isinstance(loaded, dict):
        if any(isinstance(value, Tensor) for value in loaded.values()):
            return Content(tensors={_shown(key): value for key, value in loaded.items()})
        shown = ", ".join(repr(_shown(key)) for key in list(loaded)[:4])
        raise FileError(f"{path} holds a dict without weights (keys: {shown or 'none'})")
    raise FileError(f"{path} holds a {type(loaded).__name__}, not a network or its weights")


def _shown(key: Any) -> str:
    """A key of a dict as text; anything but text and numbers might be too deep to show."""
    return str(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"


def _check_module(path: Path, module: nn.Module) -> None:
    """Refuse a module put together by hand so that it cannot be what torch.save wrote."""
    try:
        parts = list(module.modules())
        module.state_dict()
        shadowed = [
            f"{type(m).__name__}.{k}" for m in parts for k in vars(m) if callable(getattr(type(m), k, None))
        ]
        safe = all(type(m) in SAFE_CLASSES for m in parts)
        if safe and not shadowed:
            evaluation_copy(module)
            repr(module)  # asks for what the constructors set
            if not all(isinstance(part.training, bool) for part in parts):
                raise TypeError("its training flag is no flag")
    except Exception as error:  # missing or wrong attributes, of any kind
        raise FileError(f"{path} holds a damaged module: {first_line(error)}") from None
    if safe and shadowed:
        raise FileError(f"{path} holds a module whose methods were replaced: {', '.join(shadowed[:3])}")
