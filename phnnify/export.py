"""ONNX out, checked against the network it came from.

The file is made by torch's own exporter, tidied (`graphs`), and holds the factors of PHM weights. For each
layer, as is faster (`forms`), the graph multiplies with the factors, or it multiplies them out from
initializers alone, which ONNX Runtime does once when it loads the file. Only on request it holds the composed
weights.

Every file is checked before anyone sees it: by onnx.checker, by running it with ONNX Runtime against PyTorch
on random inputs at two batch sizes and other lengths (`axes`), and by comparing the bytes of its initializers
with what the network's tensors need.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phnnify.axes import Specs, examples, first_written, free_axes
from phnnify.errors import ExportError, UsageError
from phnnify.files import check_target, replacing
from phnnify.forms import FORMS, ExportForm, set_form_, with_dense_layers_
from phnnify.graphs import tidy_
from phnnify.hyper.network import name_arguments_
from phnnify.inputs import (
    Example,
    Inputs,
    describe,
    random_example,
    read_inputs,
    with_conditioning,
)
from phnnify.measure import evaluation_copy, first_line, forward, tensor_bytes, without_cache_
from phnnify.quiet import quiet
from phnnify.repeatable import refuse_random
from phnnify.runtime import BFLOAT16, INPUTS, has_bfloat16, open_session, run_session

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4  # largest difference allowed, relative to the largest output
_SLACK_BYTES = 64 << 10  # constants of a graph that are no tensors of the network: masks, shapes
_EXTERNAL_BYTES = 1800 << 20  # above this the tensors go beside the graph: one protobuf holds 2 GB


@dataclass(frozen=True)
class OnnxFile:
    """A written and checked ONNX file.

    Attributes:
        path: Where it is.
        bytes: Its size, with its companion file where the tensors lie beside.
        tensor_bytes: What the network's parameters and buffers need.
        max_abs_diff: The largest difference from PyTorch over all outputs, inputs and batch sizes.
        max_rel_diff: The same relative to the largest magnitude in that output.
        opset: The ONNX operator set.
        batches: The batch sizes it was run at; one only where the network fixes the batch.
        inputs: What it takes, in the form that `--input` reads; the axes marked with `?` may have any size,
            and it was run at other ones too, where the network takes them.
        note: Which axes stay as they are although the network takes other sizes, and why.
    """

    path: str
    bytes: int
    tensor_bytes: int
    max_abs_diff: float
    max_rel_diff: float
    opset: int
    batches: tuple[int, ...]
    inputs: tuple[str, ...]
    note: str | None


def export_onnx(
    model: nn.Module,
    path: str | Path,
    inputs: Inputs,
    *,
    form: ExportForm = "auto",
    batch: int | None = None,
    opset: int = 18,
    seed: int = 0,
) -> OnnxFile:
    """Write a network as ONNX and check the file.

    Args:
        model: Any network; it is exported in eval mode and not changed. The file of a hypernetwork takes its
            conditioning inputs by name, one (size,) for the whole batch.
        path: The file to write.
        inputs: Example inputs (`inputs.read_inputs`); axis 0, the axes marked with `?` and the lengths of
            sequences (`axes`) stay dynamic, the last where torch can keep them so.
        form: "factored": the graph multiplies with the factors, where a layer can. "folded": it multiplies
            them out, once as it is loaded. "auto": whichever is faster in ONNX Runtime, for each layer.
            "dense": the file holds the composed weights.
        batch: The size of axis 0 that "auto" expects; by default that of the inputs.
        opset: The ONNX operator set. 18 is the exporter's own, and the one that most runtimes know.
        seed: For the random inputs.

    Raises:
        UsageError: there is no input, or no such form.
        ModelError: the network fails on the inputs.
        ExportError: torch cannot export it, or the file fails a check; then no file is left.
    """
    path, specs = Path(path), read_inputs(inputs)
    if not specs:
        raise UsageError("an ONNX file needs example inputs", hint="give --input, such as --input 1x3x32x32")
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", hint=f"one of {', '.join(FORMS)}")
    check_target(path)
    model = without_cache_(evaluation_copy(model))
    name_arguments_(model)
    specs = with_conditioning(specs, model)
    example = random_example(specs, model, seed=seed, batch=batch)
    forward(model, example)
    if form == "dense":
        model = with_dense_layers_(model)
    else:
        set_form_(model, form, specs, batch=batch, target="onnx")
    file, reason = first_written(model, specs, partial(_written, path, model, opset, seed))
    if reason is None:
        return file
    note = f"In the ONNX file all sizes but those marked in {describe(specs)} are fixed: {reason}."
    return replace(file, note=note)


def _written(
    path: Path, model: nn.Module, opset: int, seed: int, specs: Specs, batches: Sequence[int]
) -> OnnxFile:
    """Export with the first batch size, write, and check with all of them; one batch size is a fixed one."""
    program = _traced(model, specs, batches, opset, seed)
    with replacing(path) as temporary:
        _write(program, temporary, specs, external=tensor_bytes(model) > _EXTERNAL_BYTES)
        _check_graph(temporary, model)
        differences = _compare(temporary, model, examples(model, specs, batches, seed))
        size = sum(part.stat().st_size for part in temporary.parent.iterdir())
    return OnnxFile(
        path=str(path),
        bytes=size,
        tensor_bytes=tensor_bytes(model),
        max_abs_diff=max(absolute for absolute, _ in differences),
        max_rel_diff=max(relative for _, relative in differences),
        opset=opset,
        batches=tuple(batches),
        inputs=tuple(map(str, specs)),
        note=None,
    )


def _traced(
    model: nn.Module, specs: Specs, batches: Sequence[int], opset: int, seed: int
) -> torch.onnx.ONNXProgram:
    example = random_example(specs, model, seed=seed, batch=batches[0])
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                example.args,
                kwargs=example.kwargs,
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(model, specs, batches),
                opset_version=opset,
                optimize=False,
                verbose=False,
            )
            if program is None:
                raise ExportError("torch.onnx.export gave no program")
            tidy_(program.model)
    except Exception as error:  # the exporter raises whatever went wrong in the user's forward
        raise ExportError(
            f"torch cannot export {type(model).__name__} to ONNX: {_cause(error)}",
            hint="the converted model itself is fine; leave --onnx out to do without",
        ) from None
    given = program.model.opset_imports.get("")
    if given != opset:
        raise ExportError(
            f"torch cannot write the ONNX operator set {opset}; it gave {given}",
            hint=f"--opset {given} is fine",
        )
    return program


def _dynamic_shapes(model: nn.Module, specs: Specs, batches: Sequence[int]) -> dict[str, Any]:
    """By argument, the axes that may vary."""
    axes = free_axes(specs, batches)
    positional = [shape for spec, shape in zip(specs, axes, strict=True) if spec.name is None]
    named = {spec.name: shape for spec, shape in zip(specs, axes, strict=True) if spec.name is not None}
    return dict(inspect.signature(model.forward).bind(*positional, **named).arguments)


def _cause(error: BaseException) -> str:
    """The innermost reason: the exporter wraps errors in long advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _write(program: torch.onnx.ONNXProgram, path: Path, specs: Specs, *, external: bool) -> None:
    import onnx

    proto = program.model_proto
    proto.graph.ClearField("value_info")  # shapes that any reader can infer again
    onnx.helper.set_model_props(proto, {INPUTS: " ".join(map(str, specs))})
    onnx.save_model(proto, str(path), save_as_external_data=external, location=f"{path.name}.data")


def _check_graph(path: Path, model: nn.Module) -> None:
    """The file is valid ONNX, and its tensors take no more room than the network's.

    Raises:
        ExportError: it is not.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"onnx.checker refuses the exported file: {first_line(error)}") from None
    stored, needed = _initializer_bytes(onnx.load(path, load_external_data=False)), tensor_bytes(model)
    if stored > 1.1 * needed + _SLACK_BYTES:
        raise ExportError(
            f"the exported file holds {stored:,} bytes of tensors; the network needs {needed:,}"
        )


def _initializer_bytes(model: onnx.ModelProto) -> int:
    import onnx

    sizes = {
        i.name: onnx.helper.tensor_dtype_to_np_dtype(i.data_type).itemsize for i in model.graph.initializer
    }
    return sum(sizes[i.name] * int(torch.Size(i.dims).numel()) for i in model.graph.initializer)


def _compare(path: Path, model: nn.Module, examples: Iterator[Example]) -> list[tuple[float, float]]:
    """For each example, the largest absolute and relative difference between ONNX Runtime and PyTorch.

    Raises:
        ExportError: ONNX Runtime cannot run the file, or its outputs differ too much.
    """
    session = _session(path, model)
    differences = []
    for example in examples:
        wanted = [t.detach().cpu() for t in _tensors(forward(model, example))]
        values = [*example.args, *example.kwargs.values()]
        got = run_session(session, values)
        if [t.shape for t in wanted] != [t.shape for t in got]:
            shapes = [tuple(t.shape) for t in wanted], [tuple(t.shape) for t in got]
            raise ExportError(f"the exported file gives shapes {shapes[1]}; the network gives {shapes[0]}")
        pairs = [_difference(a, b) for a, b in zip(wanted, got, strict=True)]
        differences.append((max(a for a, _ in pairs), max(r for _, r in pairs)))
        if not differences[-1][1] <= _tolerance(wanted):
            refuse_random(model, example)
            raise ExportError(
                f"the exported file differs from the network by {differences[-1][1]:.2g} relative "
                f"for inputs of {describe(read_inputs(values))}; allowed is {_tolerance(wanted):.0e}"
            )
    return differences


def _session(path: Path, model: nn.Module) -> Any:
    try:
        return open_session(path)
    except ExportError as error:
        if not has_bfloat16(model):
            raise
        raise ExportError(str(error), hint=BFLOAT16) from None


def _tolerance(outputs: Sequence[Tensor]) -> float:
    half = any(t.dtype in (torch.float16, torch.bfloat16) for t in outputs)
    return 100 * TOLERANCE if half else TOLERANCE


def _tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, in the exporter's order: through tuples, lists and mappings."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in _tensors(value)]
    if isinstance(output, (tuple, list)):
        return [t for value in output for t in _tensors(value)]
    return []


def _difference(wanted: Tensor, got: Tensor) -> tuple[float, float]:
    """The largest difference, absolute and relative to the largest magnitude; infinite where NaN differ."""
    wanted, got = wanted.double(), got.double()
    if not wanted.numel():
        return 0.0, 0.0
    if not torch.equal(wanted.isfinite(), got.isfinite()):
        return float("inf"), float("inf")
    finite = wanted.isfinite()
    absolute = float((wanted - got)[finite].abs().max()) if finite.any() else 0.0
    largest = float(wanted[finite].abs().max()) if finite.any() else 0.0
    return absolute, absolute / largest if largest else absolute
