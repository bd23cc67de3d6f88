"""ONNX Runtime: a file's session, what it takes, and the file as a network that is called like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import ExportError, FileError, UsageError
from phnnify.files import is_folder
from phnnify.inputs import Example, InputSpec
from phnnify.measure import evaluation_copy, first_line, forward

ONNX = ".onnx"
INPUTS = "phnnify.inputs"  # under which a file of ours tells the example inputs it was made with
BFLOAT16 = "ONNX Runtime computes little in bfloat16; convert the network in float32, after .float()"
_DTYPES = {
    "tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8, "tensor(uint8)": torch.uint8, "tensor(bool)": torch.bool,
}  # fmt: skip


def open_session(file: Path | bytes, *, threads: int | None = None, optimized: Path | None = None) -> Any:
    """An ONNX Runtime session on the CPU that logs nothing.

    Args:
        file: The .onnx file, or what is in one.
        threads: On how many threads it computes; by default ONNX Runtime decides.
        optimized: Where to write the graph that it really runs.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Else its threads look for work after a run, and whatever is measured next runs at half its speed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        source = file if isinstance(file, bytes) else str(file)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class of their own
        name = "the graph" if isinstance(file, bytes) else file.name
        raise ExportError(f"ONNX Runtime cannot load {name}: {first_line(error)}") from None


def run_session(session: Any, values: Sequence[Tensor]) -> list[Tensor]:
    """The outputs for inputs in the file's order.

    Raises:
        ExportError: ONNX Runtime cannot run the file on them.
    """
    try:
        return [torch.from_numpy(output) for output in session.run(None, feed_of(session, values))]
    except Exception as error:  # onnxruntime's errors have no common base class of their own
        raise ExportError(f"ONNX Runtime cannot run the file: {first_line(error)}") from None


def prepared(session: Any, values: Sequence[Tensor]) -> Callable[[], Any]:
    """The bare call for inputs in the file's order: for timing, with nothing of ours inside."""
    feed = feed_of(session, values)
    return lambda: session.run(None, feed)


def feed_of(session: Any, values: Sequence[Tensor]) -> dict[str, Any]:
    """By the file's names, inputs in its order, as arrays."""
    names = [node.name for node in session.get_inputs()]
    return {name: value.cpu().numpy() for name, value in zip(names, values, strict=False)}


def inputs_of(session: Any, path: Path) -> tuple[InputSpec, ...]:
    """What a file takes; axis 0 counts as 1 where the file leaves it open.

    Raises:
        UsageError: it leaves another axis open and does not tell a size for it, or takes something that is no
            tensor of numbers.
    """
    told = session.get_modelmeta().custom_metadata_map.get(INPUTS, "").split()
    examples = [InputSpec.parse(text).shape for text in told] or [(1,)] * len(session.get_inputs())
    specs = []
    for node, example in zip(session.get_inputs(), examples, strict=False):
        sizes = [size if isinstance(size, int) else n for size, n in zip_longest(node.shape, example)]
        if node.type not in _DTYPES or not node.shape or None in sizes:
            raise UsageError(
                f"{path} takes {node.name}: {node.type} {node.shape}, which does not say its size",
                hint="give --input, such as --input 1x3x32x32",
            )
        batch = node.shape[0] if isinstance(node.shape[0], int) else 1
        specs.append(InputSpec((batch, *sizes[1:]), _DTYPES[node.type]))
    return tuple(specs)


def has_bfloat16(model: nn.Module) -> bool:
    """Whether any parameter is in bfloat16."""
    return any(p.dtype == torch.bfloat16 for p in model.parameters())


def check_precision(model: nn.Module, example: Example) -> None:
    """Refuse a network with layers that compute in bfloat16, before it is made into a file that cannot run.

    Weights may be in bfloat16 where the network turns them into another type before it computes.

    Raises:
        ModelError: the network fails on the example.
        ExportError: a layer computes in bfloat16.
    """
    model, found = evaluation_copy(model), dict[str, None]()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.dim() > 1 and not isinstance(module, nn.Embedding):
            module.register_forward_hook(partial(_note_bfloat16, found, name))
    forward(model, example)
    if found:
        first = next(iter(found))
        what = f"layer {first}" if first else "the network"
        raise ExportError(f"{what} computes in bfloat16, which ONNX Runtime cannot run", hint=BFLOAT16)


def _note_bfloat16(found: dict[str, None], name: str, module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.dtype == torch.bfloat16:
        found[name] = None


class OnnxNetwork(nn.Module):
    """A file of ONNX as a network: called with tensors, it gives the list of its outputs.

    Arguments given by keyword are those of that name in the file, where it has them all, else those that
    follow.

    Raises:
        FileError: there is no such file.
        ExportError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        super().__init__()
        if is_folder(path) or not path.is_file():
            raise FileError(f"there is no file {path}")
        self.path, self.session = path, open_session(path, threads=threads)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> list[Tensor]:
        """The outputs of the file."""
        return run_session(self.session, self.in_order(args, kwargs))

    def in_order(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> list[Tensor]:
        """The inputs of one call as the file takes them."""
        left = [node.name for node in self.session.get_inputs()][len(args) :]
        named = [kwargs[name] for name in left] if {*left} == {*kwargs} else kwargs.values()
        return [*args, *named]

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self  # a session cannot be copied, and holds no state


def onnx_bytes(path: Path) -> int:
    """The size of a file of ONNX, with those beside it that hold its tensors."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    entries = [entry for tensor in graph.initializer for entry in tensor.external_data]
    beside = {entry.value for entry in entries if entry.key == "location"}
    return sum(part.stat().st_size for part in (path, *(path.parent / name for name in beside)))
