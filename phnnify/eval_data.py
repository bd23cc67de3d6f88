"""The data to evaluate on, and what two networks give on it, as a report says it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from phnnify.batches import Batch
from phnnify.caller_data import batches_of, own_batches
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from phnnify.evaluate import Evaluation, check_question, evaluate
from phnnify.report import Report

_CHECKED = 2048  # samples of referenced data on which a student is measured while it learns
_LOOKED_AT = 64  # samples of referenced data that are drawn to see whether it fits
_RIGHT = 0.75  # below this accuracy of an original on images as they lie in a file, one asks why
_DOUBT = (
    "The original itself is right on {:.1%} of the evaluation data only. If its images were normalized when "
    "it was trained, give the same --mean and --std."
)


class EvalData:
    """The data to evaluate on: all of it, or as much as is looked at again and again.

    Args:
        data: A reference or a caller's own, which is gone through once; None where nothing is evaluated.
        options: How referenced images and arrays become inputs.
        seed: For what is drawn of a reference.

    Raises:
        FileError: an item is no batch.
    """

    def __init__(self, data: str | Iterable[Any] | None, options: DataOptions | None, seed: int) -> None:
        self._data: Any = data if data is None or isinstance(data, str) else list(own_batches(data))
        self._options, self._seed = options, seed

    def all(self) -> Iterable[Batch]:
        """All of it."""
        return batches_of(self._data, self._options, None, self._seed)

    def some(self) -> Iterable[Batch] | None:
        """What a student is measured on while it learns; None without data."""
        return None if self._data is None else batches_of(self._data, self._options, _CHECKED, self._seed)

    def check(self, teacher: nn.Module) -> None:
        """Refuse data whose first batch does not fit the original, before any work is done.

        Raises:
            ModelError, FileError: as `evaluate.check_question`, or there are no samples.
        """
        if self._data is None:
            return
        first = next(iter(batches_of(self._data, self._options, _LOOKED_AT, self._seed)), None)
        if first is None:
            raise FileError("the data to evaluate on holds no samples")
        check_question(teacher, first)

    def add_to(self, report: Report, teacher: nn.Module, student: nn.Module) -> Report:
        """The report with what the two give on all of it, and with a doubt where the first is often wrong.

        Raises:
            ModelError, FileError: as `evaluate.evaluate`.
        """
        found = evaluate(teacher, student, self.all())
        doubts = (
            (_DOUBT.format(found.accuracy.teacher),) if found.accuracy and self._is_doubtful(found) else ()
        )
        return replace(report, evaluation=found, notes=(*report.notes, *found.notes(), *doubts))

    def _is_doubtful(self, found: Evaluation) -> bool:
        """Whether an original that sees images, as they are in a file, is wrong on many."""
        normalized = not isinstance(self._data, str) or (self._options is not None and self._options.mean)
        if normalized or found.accuracy is None or found.accuracy.teacher >= _RIGHT:
            return False
        first = next(iter(self.all())).args
        return bool(first) and first[0].dim() == 4 and first[0].is_floating_point()
