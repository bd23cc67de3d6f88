"""Networks to compare: of any file that the other commands read, of an ONNX file, or already in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from phnnify import sources, store
from phnnify.archive import is_program
from phnnify.files import is_folder
from phnnify.inputs import InputSpec
from phnnify.measure import parameter_count, tensor_bytes
from phnnify.runtime import ONNX, OnnxNetwork, onnx_bytes


@dataclass(frozen=True)
class Candidate:
    """A network to compare, in eval mode.

    Attributes:
        network: The network; of an ONNX file, its session.
        name: The file's name, or the class of a network in memory.
        path: Its file or folder; None where it is in memory only, or a library's.
        arch, trust: How it was read.
        inputs: What it takes, where the file says so.
    """

    network: nn.Module
    name: str
    path: Path | None = None
    arch: str | None = None
    trust: bool = False
    inputs: tuple[InputSpec, ...] = ()

    @property
    def is_onnx(self) -> bool:
        """Whether only ONNX Runtime can run it."""
        return isinstance(self.network, OnnxNetwork)

    @property
    def bytes(self) -> int:
        """The size of its file; of a network in memory, of its tensors."""
        if self.path is None:
            return tensor_bytes(self.network)
        return onnx_bytes(self.path) if self.is_onnx else store.size_of(self.path)

    @property
    def parameters(self) -> int | None:
        """The number of parameters; None for an ONNX file, which does not tell them from other constants."""
        return None if self.is_onnx else parameter_count(self.network)


def read_candidate(
    path: Path, *, arch: str | None = None, trust: bool = False, threads: int | None = None
) -> Candidate:
    """Read a network to compare.

    Args:
        path: An .onnx file, or what `sources.read_any` takes.
        arch: Where the network comes from if the file holds only weights; else it is not used.
        trust: Let code stored in the file run.
        threads: For ONNX Runtime.

    Raises:
        FileError, UntrustedError, ModelError, ExportError: as `sources.read_any` and `OnnxNetwork` do.
    """
    if path.suffix == ONNX:
        return Candidate(OnnxNetwork(path, threads=threads), path.name, path)
    if sources.is_library_name(path):
        return Candidate(sources.read_any(path), str(path))
    inputs: tuple[InputSpec, ...] = ()
    if is_program(path):
        source = sources.read_network(path, trust=trust)
        network, inputs = source.model, source.inputs
    else:
        network = sources.read_any(path, arch=None if is_folder(path) else arch, trust=trust)
    return Candidate(network.eval(), path.resolve().name, path, arch, trust, inputs)
