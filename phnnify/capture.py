"""Networks captured by torch.export, written as programs (.pt2) for plain torch and checked there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.axes import Specs, examples, first_written, free_axes
from phnnify.errors import ExportError, ModelError, UsageError
from phnnify.files import replacing
from phnnify.hyper.network import name_arguments_
from phnnify.inputs import Example, InputSpec, describe, random_example, with_conditioning
from phnnify.measure import evaluation_copy, first_line, forward, without_cache_
from phnnify.quiet import quiet
from phnnify.repeatable import refuse_random

_TOLERANCE = 1e-4  # relative to the largest output


def write_program(model: nn.Module, path: Path, inputs: Sequence[InputSpec], *, seed: int = 0) -> str | None:
    """Write a network as a program that plain torch loads and runs, without the network's or our classes.

    Args:
        model: It is not changed; the program computes as it does in eval mode.
        path: A .pt2 file.
        inputs: What the network takes; the axes marked with `?` stay free, and axis 0 and the lengths of
            sequences (`axes`) where torch can keep them so. That of recurrent layers, unrolled, is fixed.
        seed: For the random example.

    Returns:
        Which sizes are fixed in the program although they are not in the network, and why.

    Raises:
        UsageError: it is not known what the network takes.
        FileError: the path cannot be written.
        ExportError: torch.export cannot capture the network, or what it wrote computes something else.
    """
    if not inputs:
        raise UsageError("a .pt2 file needs example inputs", hint="give --input, such as --input 1x3x32x32")
    model = without_cache_(evaluation_copy(model))
    name_arguments_(model)
    inputs = with_conditioning(inputs, model)
    fixed_batch, reason = first_written(model, inputs, partial(_write, path, model, seed))
    return _note(model, inputs, fixed_batch, reason)


def _note(model: nn.Module, inputs: Specs, fixed_batch: int | None, reason: str | None) -> str | None:
    """What a reader should know about the sizes that a program takes."""
    sentences = []
    if reason and any(isinstance(module, nn.RNNBase) for module in model.modules()):
        reason = "torch.export unrolls recurrent layers; an ONNX file can take any length"
    if reason:
        sizes = f"those marked in {describe(inputs)} are fixed: {reason}"
        batch = "the batch and " if fixed_batch is None else ""
        sentences.append(f"The .pt2 file takes that one length only; all sizes but {batch}{sizes}.")
    if fixed_batch is not None:
        sentences.append(f"The .pt2 file takes batches of {fixed_batch} only.")
    return " ".join(sentences) or None


def _write(path: Path, model: nn.Module, seed: int, inputs: Specs, batches: Sequence[int]) -> int | None:
    """Capture with the first batch size, write, and check with all of them; one batch size is a fixed one.

    Returns:
        That one, where it is.
    """
    example = random_example(inputs, model, seed=seed, batch=batches[0])
    free = tuple(free_axes(inputs, batches))
    try:
        with quiet():
            program = torch.export.export(
                model, example.args, dict(example.kwargs), dynamic_shapes=free, strict=False
            )
    except Exception as error:  # whatever the user's own forward may raise
        raise ExportError(
            f"torch.export cannot capture {type(model).__name__}: {first_line(error)}",
            hint="write a .safetensors or .pt file instead",
        ) from None
    _forget_sources(program.graph_module)
    with replacing(path) as temporary:
        with quiet():
            torch.export.save(program, str(temporary))
        _check(temporary, model, examples(model, inputs, batches, seed))
    return batches[0] if len(batches) == 1 else None


def _forget_sources(graph_module: nn.Module) -> None:
    """Take out stack traces: half of a small file, with the paths of this machine in it."""
    for module in graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            for name in ("stack_trace", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(name, None)


def _check(path: Path, model: nn.Module, questions: Iterable[Example]) -> None:
    """Load what was written, as plain torch does, and compare it with the network.

    Raises:
        ExportError: it does not take what the network takes, or computes something else.
    """
    with quiet():
        program = torch.export.load(str(path)).module()  # our own
    for example in questions:
        try:
            answer = forward(program, example)
        except ModelError as error:
            raise ExportError(f"torch.export fixed more than it was asked to: {error}") from None
        for got, wanted in zip(_tensors(answer), _tensors(forward(model, example)), strict=True):
            difference = float((got.double() - wanted.double()).abs().max()) if got.numel() else 0.0
            if not difference <= _TOLERANCE * max(float(wanted.double().abs().max()), 1e-12):
                refuse_random(model, example)
                raise ExportError(
                    f"the program that torch.export made differs from the network by {difference:.2g}"
                )


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
