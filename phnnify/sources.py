"""Reading the network to convert, or any other, from wherever it is.

A file of weights needs `arch`, which builds the network; a pickled module, a program and a Hugging Face
folder hold one themselves; and libraries have some by name (`zoos`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from phnnify import hub
from phnnify.archive import Content, is_program
from phnnify.errors import FileError
from phnnify.files import is_folder
from phnnify.folders import METADATA_KEY
from phnnify.hyper.file import HYPER_KEY
from phnnify.inputs import InputSpec
from phnnify.layers import PHMLayer
from phnnify.measure import tensor_bytes
from phnnify.programs import read_program
from phnnify.references import build_network
from phnnify.store import PROGRAM, converted_of, has_phm, read_stored, size_of
from phnnify.weights import load_weights
from phnnify.zoos import is_named, read_named


@dataclass(frozen=True)
class Source:
    """A network read from a file or folder, or had from a library.

    Attributes:
        model: The network.
        form: What it came as: 'weights', 'module', 'folder' or 'program'.
        bytes: The size of the files that hold its weights; of the weights themselves for a library's.
        inputs: What it takes, where the file says so.
    """

    model: nn.Module
    form: str
    bytes: int
    inputs: tuple[InputSpec, ...] = ()

    @property
    def ending(self) -> str:
        """The ending for a converted file: like in, like out."""
        return {"weights": ".safetensors", "module": ".pt", "folder": "", "program": PROGRAM}[self.form]


def read_network(path: Path, *, arch: str | None = None, trust: bool = False) -> Source:
    """Read the network to convert.

    Args:
        path: A file of weights (with `arch`), a pickled module, a program (.pt2), a Hugging Face folder, or
            the name of a library's network (`timm:resnet18`; `zoos`).
        arch: Where the network comes from when the file holds only weights (`references`).
        trust: Let code stored in the file or folder run.

    Raises:
        FileError: the file is not a network that can be converted.
        UntrustedError: the file needs `trust`.
        ModelError: the weights do not fit the network.
    """
    if is_library_name(path):
        if arch:
            raise FileError(f"{path} is a whole network", hint="leave --arch out")
        model = read_named(str(path))
        return Source(model, "weights", tensor_bytes(model))
    if is_program(path):
        if arch:
            raise FileError(f"{path} holds a whole network", hint="leave --arch out")
        program = read_program(path, trust=trust)
        return Source(program.model, "program", size_of(path), program.inputs)
    return _of_content(_content(path, arch, trust), path, arch, trust)


def read_any(path: Path, *, arch: str | None = None, trust: bool = False) -> nn.Module:
    """Read a network, converted or not, as `read_network` and `load` do; in eval mode."""
    if is_program(path) or is_library_name(path):
        return read_network(path, arch=arch, trust=trust).model
    content = _content(path, arch, trust)
    if content.module is not None:
        return content.module.eval()
    if METADATA_KEY in content.metadata or HYPER_KEY in content.metadata:
        return converted_of(content, path, build_network(arch) if arch else None, trust=trust)
    return _of_content(content, path, arch, trust).model.eval()


def read_converted(path: Path, *, arch: str | None = None, trust: bool = False) -> nn.Module:
    """Read a converted network as `read_any` does.

    Raises:
        FileError: it is not converted.
    """
    model = read_any(path, arch=arch, trust=trust)
    if not any(isinstance(module, PHMLayer) for module in model.modules()):
        raise FileError(f"{path} is not converted", hint="phnnify convert makes a student of an original")
    return model


def is_library_name(path: Path) -> bool:
    """Whether it is `timm:resnet18` and the like, and no file of that name."""
    return is_named(str(path)) and not path.exists()


def _content(path: Path, arch: str | None, trust: bool) -> Content:
    if arch and is_folder(path):
        raise FileError(
            f"{path} is a folder that says itself which network it holds", hint="leave --arch out"
        )
    return read_stored(path, trust=trust)


def _of_content(content: Content, path: Path, arch: str | None, trust: bool) -> Source:
    """The original whose file or folder was read."""
    if HYPER_KEY in content.metadata:
        raise FileError(f"{path} is a hypernetwork", hint="freeze it first: phnnify hyper --at NAME=VALUE")
    if METADATA_KEY in content.metadata or has_phm(content):
        raise FileError(
            f"{path} is already converted",
            hint="convert the original, with another n; inspect --algebra FILE shows what it has learned",
        )
    if is_folder(path):
        return Source(hub.read_network(path, content.tensors, trust=trust), "folder", size_of(path))
    if content.module is not None:
        if arch:
            raise FileError(f"{path} holds a whole module", hint="leave --arch out")
        return Source(content.module, "module", size_of(path))
    if not arch:
        raise FileError(
            f"{path} holds weights only: {_described(content)}",
            hint="say which network they belong to with --arch file.py:callable",
        )
    model = build_network(arch)
    load_weights(model, content.tensors, str(path))
    return Source(model, "weights", size_of(path))


def name_beside(path: Path, label: str, ending: str) -> Path:
    """The default name, in the current folder, for what is made from a network: net-n4.pt, bert-n4."""
    if is_folder(path):
        return Path(f"{path.resolve().name}-{label}")
    stem = re.split("[:/]", str(path))[-1] if is_library_name(path) else path.stem
    return Path(f"{stem}-{label}{ending}")


def _described(content: Content) -> str:
    names = list(content.tensors)
    return (
        f"{len(names)} tensors ({', '.join(names[:3])}, ...)"
        if len(names) > 3
        else ", ".join(names) or "none"
    )
