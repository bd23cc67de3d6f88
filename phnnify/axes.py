"""Which axes of a network's inputs may vary besides the batch: found by running it at other sizes.

Sequences are the reason: of tokens (batch, length) and vectors (batch, length, width) or (batch, width,
length). So only inputs of up to three axes are looked at; those of images vary where they are marked. Axes of
equal size vary together, such as tokens and their mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from phnnify.errors import ExportError, ModelError
from phnnify.inputs import Example, InputSpec, random_example
from phnnify.measure import forward

BATCHES = (2, 3)  # exported with the first (torch.export treats a size of 1 as fixed), checked with both
_SEQUENCE_AXES = 3  # no input of more is one of sequences
Specs = tuple[InputSpec, ...]
Change = Callable[[int], int]
_Written = TypeVar("_Written")


def with_free_axes(model: nn.Module, specs: Sequence[InputSpec]) -> Specs:
    """The inputs, with those axes marked too at which the network takes another size.

    Args:
        model: It runs as it is, a few times, on random inputs.
        specs: What it takes.
    """
    found = tuple(specs)
    for size in sorted({size for spec in specs for size in _lengths(spec)}):
        more = tuple(_marked(spec, size) for spec in found)
        if more != found and any(runs(model, sizes) for sizes in _at_size(more, size)):
            found = more
    return found


def first_written(
    model: nn.Module, specs: Specs, write: Callable[[Specs, Sequence[int]], _Written]
) -> tuple[_Written, str | None]:
    """What `write` makes of the freest inputs for which it can, and what stays fixed only for torch's sake.

    A trace may turn out to hold for one size only: then the axes that were marked are tried, and last a fixed
    batch.

    Args:
        model: It runs as it is, a few times, on random inputs.
        specs: What it takes, and what must stay free.
        write: Of the inputs and the batch sizes to check with; of one batch size, a fixed one.

    Returns:
        What it made; and why it could not with freer lengths, where it could not.

    Raises:
        ExportError: that of the last attempt.
    """
    failed: list[ExportError] = []
    for given, batches in _attempts(model, specs):
        try:
            written = write(given, batches)
        except ExportError as error:
            failed.append(error)
        else:
            return written, str(failed[0]) if failed and given == specs else None
    raise failed[-1]


def free_axes(specs: Specs, batches: Sequence[int]) -> list[dict[int, Any]]:
    """For torch.export, the axes of each input that may vary. It finds out which do so together."""
    axes = [[axis for axis in sorted(spec.dynamic) if axis or len(batches) > 1] for spec in specs]
    return [dict.fromkeys(each, torch.export.Dim.AUTO) for each in axes]


def _attempts(model: nn.Module, specs: Specs) -> Iterator[tuple[Specs, Sequence[int]]]:
    """Inputs and batch sizes with which to export, from the freest on; one batch size is a fixed one."""
    both = all(runs(model, specs, batch) for batch in BATCHES)
    freest = with_free_axes(model, specs)
    for batches in [BATCHES] * both + [specs[0].shape[:1]]:
        for given in dict.fromkeys((freest, specs)):
            yield given, batches


def examples(model: nn.Module, specs: Specs, batches: Sequence[int], seed: int) -> Iterator[Example]:
    """Random inputs for each batch size, and other sizes of the marked axes with the last."""
    for given in (specs, *other_sizes(model, specs)):
        for batch in batches if given is specs else batches[-1:]:
            yield random_example(given, model, seed=seed + batch, batch=batch)


def other_sizes(model: nn.Module, specs: Sequence[InputSpec]) -> list[Specs]:
    """The inputs with all marked axes shorter, and longer, where the network takes them so."""
    changed = [tuple(_resized(spec, change, None) for spec in specs) for change in (_shorter, _longer)]
    return [each for each in changed if each != tuple(specs) and runs(model, each)]


def runs(model: nn.Module, specs: Sequence[InputSpec], batch: int | None = None) -> bool:
    """Whether the network takes these inputs."""
    try:
        forward(model, random_example(specs, model, seed=0, batch=batch))
    except ModelError:
        return False
    return True


def _lengths(spec: InputSpec) -> list[int]:
    """The sizes that may be lengths; a size of 1 is broadcast, or torch.export takes it for fixed."""
    return [size for size in spec.shape[1:] if size > 1] if len(spec.shape) <= _SEQUENCE_AXES else []


def _marked(spec: InputSpec, size: int) -> InputSpec:
    """The input with the axes of that size marked, if it may be one of sequences."""
    if size not in _lengths(spec):
        return spec
    axes = {axis for axis, length in enumerate(spec.shape) if axis and length == size}
    return replace(spec, dynamic=spec.dynamic | axes)


def _at_size(specs: Specs, size: int) -> list[Specs]:
    """The inputs with the marked axes of that size shorter, and longer."""
    changed = [tuple(_resized(spec, change, size) for spec in specs) for change in (_shorter, _longer)]
    return [each for each in changed if each != specs]


def _resized(spec: InputSpec, change: Change, only: int | None) -> InputSpec:
    """The input with its marked axes, or those of one size, at another size."""
    free = {axis for axis in spec.dynamic if axis and only in (None, spec.shape[axis])}
    return replace(spec, shape=tuple(change(n) if i in free else n for i, n in enumerate(spec.shape)))


def _shorter(size: int) -> int:
    return size // 2 + 1 if size > 1 else size


def _longer(size: int) -> int:
    return size + 1
