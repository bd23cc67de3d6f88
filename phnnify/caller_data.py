"""Data as a caller gives it → batches: a reference is read, anything else is gone through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from phnnify.batches import Batch, as_batch, calibration_batches
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.errors import UsageError
from phnnify.watching import Watcher


def batches_of(
    data: str | Iterable[Any], options: DataOptions | None, samples: int | None, seed: int
) -> Iterable[Batch]:
    """Batches to go through: of a reference so many samples, drawn with the seed; of anything else all.

    Raises:
        FileError: the data cannot be read.
    """
    return (
        read_data(data, options, samples=samples, seed=seed) if isinstance(data, str) else own_batches(data)
    )


def own_batches(data: Iterable[Any]) -> Iterable[Batch]:
    """What is no reference: one tensor, or items that are batches (`batches.as_batch`)."""
    items = [data] if isinstance(data, Tensor) else data
    return (as_batch(item, "data") for item in items)


def calibration_inputs(
    model: nn.Module,
    data: str | Iterable[Any] | None,
    samples: int,
    options: DataOptions | None,
    seed: int,
    watch: Watcher,
) -> list[Batch]:
    """The first `samples` inputs (of a reference: drawn ones) on the network's device; none without data.

    Raises:
        UsageError: the number of samples is below 1.
        FileError: the data cannot be read, or holds none.
    """
    if data is None:
        return []
    if samples < 1:
        raise UsageError(f"the number of samples is {samples}; it must be at least 1")
    watch("reading the data", 0, 0)
    device = next((p.device for p in model.parameters()), None)
    batches = calibration_batches(batches_of(data, options, samples, seed), samples)
    return [batch.to(device) for batch in batches] if device else batches


def learning_data(data: Any, options: DataOptions | None) -> Any:
    """What a student learns on: all samples of a reference, or what the caller has.

    Raises:
        FileError: the data cannot be read.
    """
    return read_data(data, options) if isinstance(data, str) else data
