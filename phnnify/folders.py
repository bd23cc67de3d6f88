"""The files of a Hugging Face folder: its description, its weights, and what lies beside them.

Such a folder has a `config.json` and its weights in one `.safetensors` file, or in several with an index that
says which tensor is in which. Nothing here runs anything in it, or knows what the description means.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from phnnify.archive import Content, read_content, read_metadata
from phnnify.errors import FileError, UntrustedError
from phnnify.files import read_text, write_text

METADATA_KEY = "phnnify.plan"
"""Where the metadata of a converted network's safetensors file hold its plan."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_INDEX = ".safetensors.index.json"
_PICKLED = "pytorch_model.bin"
_ADAPTER = "adapter_config.json"
_CODE = frozenset({".py", ".pyc", ".so", ".pyd"})
_WEIGHT_ENDINGS = frozenset(
    {
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".ckpt",
        ".h5",
        ".msgpack",
        ".gguf",
        ".onnx",
        ".onnx_data",
        ".data",
    }
    | {".ot", ".pkl", ".pickle", ".joblib", ".npz", ".npy", ".tflite", ".mlmodel", ".zip", ".tar", ".gz"}
)
_MOST = 64 * 2**20  # bytes of a file that is still taken along: large vocabularies have half of that
_FORM = "a Hugging Face folder has config.json and model.safetensors; or give the weights file inside it"


def read_description(folder: Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        FileError: the folder has none, or it is damaged; or the folder holds an adapter.
    """
    try:
        if (folder / _ADAPTER).exists():
            raise FileError(
                f"{folder} holds an adapter ({_ADAPTER}), not a network",
                hint="merge it into its network (merge_and_unload of peft) and save that",
            )
        if not (folder / CONFIG).is_file():
            raise FileError(f"{folder} is a folder without {CONFIG}", hint=_FORM)
    except OSError as error:
        raise FileError(f"cannot read {folder}: {error.strerror or error}") from None
    return _read_json(folder / CONFIG)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is damaged: {type(error).__name__}: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise FileError(f"{path} is damaged: it holds a {type(document).__name__}, not an object")
    return document


def entries(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON document with its value, at any depth."""
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def weight_files(folder: Path, *, trust: bool = False) -> list[Path]:
    """The files that hold the weights.

    Args:
        folder: A Hugging Face folder.
        trust: Take pickled weights where there are no others.

    Raises:
        FileError: there are none, a part is missing, or nothing says how several belong together.
        UntrustedError: there are only pickled ones, and `trust` is false.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    found = sorted(folder.glob("*.safetensors"))
    index = next(iter(sorted(folder.glob(f"*{_INDEX}"))), None)
    if index:
        return _shards(folder, index, ".safetensors")
    if len(found) == 1:
        return found
    if found:
        names = ", ".join(file.name for file in found[:3])
        raise FileError(f"{folder} has several weight files ({names}) and no model{_INDEX}", hint=_FORM)
    pickled = folder / f"{_PICKLED}.index.json"
    if not (pickled.exists() or (folder / _PICKLED).exists()):
        raise FileError(f"{folder} has no weights: no {WEIGHTS}", hint=_FORM)
    if not trust:
        raise UntrustedError(
            f"{folder} has only pickled weights ({_PICKLED}), which may run code when they are read",
            hint="save it as safetensors (save_pretrained does); or, if you trust its origin, --trust",
        )
    return _shards(folder, pickled, ".bin") if pickled.exists() else [folder / _PICKLED]


def _shards(folder: Path, index: Path, ending: str) -> list[Path]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FileError(f"{index} is damaged: it has no weight_map")
    names = list(dict.fromkeys(places.values()))
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(ending):
            raise FileError(f"{index} is damaged: {str(name)[:80]!r} is no {ending} file beside it")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileError(f"{folder} is not complete: {', '.join(missing[:3])} is missing ({index.name})")
    return [folder / name for name in names]


def weight_bytes(folder: Path) -> int:
    """The size of all weight files together."""
    return sum(file.stat().st_size for file in weight_files(folder, trust=True))


def read_folder(folder: Path, *, trust: bool = False) -> Content:
    """All tensors of a folder by name, and the metadata of its file where it is one.

    Raises:
        FileError: the weights are missing or damaged.
        UntrustedError: they can only be read by running code stored inside them.
    """
    parts = [read_content(file, trust=trust) for file in weight_files(folder, trust=trust)]
    if any(part.module is not None for part in parts):
        raise FileError(f"{folder} holds a pickled module where its weights should be")
    tensors = {name: value for part in parts for name, value in part.tensors.items()}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    return Content(
        tensors=tensors, metadata=parts[0].metadata if len(parts) == 1 else _index_metadata(folder)
    )


def write_index(folder: Path, names: Mapping[str, Sequence[str]], plan: str) -> None:
    """Write what says which tensor is in which file, and the plan of a converted network.

    Args:
        folder: Where the files are, or will be.
        names: By file, the names of its tensors.
        plan: As JSON.

    Raises:
        FileError: it cannot be written.
    """
    places = {name: file for file, own in names.items() for name in own}
    document = {"metadata": {METADATA_KEY: plan}, "weight_map": places}
    write_text(folder / f"{Path(WEIGHTS).stem}{_INDEX}", json.dumps(document, indent=1))


def _index_metadata(folder: Path) -> dict[str, str]:
    """What the index of a converted folder says of it; nothing of any other."""
    index = folder / f"{Path(WEIGHTS).stem}{_INDEX}"
    metadata = _read_json(index).get("metadata") if index.exists() else None
    plan = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    return {METADATA_KEY: plan} if isinstance(plan, str) else {}


def is_converted(folder: Path) -> bool:
    """Whether a folder is one that phnnify wrote."""
    try:
        if not (folder / CONFIG).is_file():
            return False
        whole = (folder / WEIGHTS).exists()
        return METADATA_KEY in (read_metadata(folder / WEIGHTS) if whole else _index_metadata(folder))
    except (FileError, OSError):
        return False


def copy_companions(folder: Path, target: Path, *, code: bool = False) -> None:
    """Copy the small files that go with a network: tokenizer, preprocessor, README and the like.

    Not the description and the weights in whatever form, which the new network has of its own; nor links
    that lead out of the folder (except to where the Hugging Face cache keeps all files).

    Args:
        folder: Where from.
        target: Where to; a folder that exists.
        code: Copy Python code too, for a network that has its class in it.

    Raises:
        FileError: a file cannot be read or written.
    """
    try:
        for file in sorted(folder.iterdir()):
            if _is_companion(file, folder, code):
                shutil.copyfile(file, target / file.name)
    except OSError as error:
        raise FileError(f"cannot copy from {folder}: {error.strerror or error}") from None


def _is_companion(file: Path, folder: Path, code: bool) -> bool:
    ending = file.suffix.lower()
    if file.name == CONFIG or file.name.startswith(".") or file.name.endswith(".index.json"):
        return False
    if ending in _WEIGHT_ENDINGS or (ending in _CODE and not (code and ending == ".py")):
        return False
    if not file.is_file() or file.stat().st_size > _MOST:
        return False
    place = folder.resolve()
    return file.resolve().parent in (place, place.parent.parent / "blobs")
