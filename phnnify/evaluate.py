"""How well a converted network does: agreement with its original, and accuracy where there are labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify.batches import Batch
from phnnify.errors import FileError, ModelError
from phnnify.inputs import Example
from phnnify.losses import class_axis, scores
from phnnify.measure import evaluation_copy, forward

_ANSWERS = 256 << 20  # bytes of remembered answers
_UNREAD = "No accuracy was measured: the labels are {}; it needs class numbers, whole ones from 0."
_ONE_HOT = "of one-hot rows, take the class numbers: y.argmax(-1)"
_NOT_FINITE = "{bad:,} of the {samples:,} answers of {who} on the evaluation data are not finite"


@dataclass(frozen=True)
class Agreement:
    """How near the converted network's outputs are to the original's.

    Attributes:
        samples: The number of inputs.
        top1: The part of outputs whose best-scored class is the same; None where they are values.
        kl: The mean Kullback-Leibler divergence of their softmax, in nats; None where they are values.
        relative_error: ‖ŷ − y‖/‖y‖ over all inputs.
    """

    samples: int
    top1: float | None
    kl: float | None
    relative_error: float

    @property
    def distance(self) -> float:
        """One number for all of it: the divergence, or the relative error where outputs are values."""
        return self.relative_error if self.kl is None else self.kl


@dataclass(frozen=True)
class Accuracy:
    """The metric of the original and of the converted network; `student_before` is before distillation."""

    metric: str
    teacher: float
    student: float
    student_before: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Agreement, and accuracy where the data has labels.

    Attributes:
        agreement: Of the two networks.
        accuracy: Of both; None without labels.
        not_finite: How many answers are not finite: of the original, and of the converted network.
        unread: What the labels are, where they look like those of classes and gave no accuracy.
    """

    agreement: Agreement
    accuracy: Accuracy | None
    not_finite: tuple[int, int] = (0, 0)
    unread: str | None = None

    def notes(self, teacher: str = "the original", student: str = "the converted network") -> tuple[str, ...]:
        """What a reader of these numbers should know, in sentences.

        Args:
            teacher: What the original is called there.
            student: What the converted network is called there.
        """
        samples, (theirs, ours) = self.agreement.samples, self.not_finite
        notes = [_UNREAD.format(self.unread)] if self.unread else []
        if theirs:
            who = f"{teacher} (and {ours} of {student})" if ours else teacher
            notes.append(_NOT_FINITE.format(bad=theirs, samples=samples, who=who) + ": look at the data.")
        elif ours:
            end = f", where those of {teacher} are: do not use it as it is."
            notes.append(_NOT_FINITE.format(bad=ours, samples=samples, who=student) + end)
        return tuple(notes)

    @property
    def drop(self) -> float:
        """What was lost: accuracy where there were labels, else agreement, else the relative error."""
        if self.accuracy:
            return self.accuracy.teacher - self.accuracy.student
        if self.agreement.top1 is not None:
            return 1 - self.agreement.top1
        return self.agreement.relative_error

    def with_before(self, before: Evaluation) -> Evaluation:
        """The same, with the accuracy that the converted network had before it was distilled."""
        if self.accuracy is None or before.accuracy is None:
            return self
        return replace(self, accuracy=replace(self.accuracy, student_before=before.accuracy.student))

    @property
    def merit(self) -> tuple[str, float]:
        """What it is judged by, higher is better: accuracy, else agreement with the original, else −error."""
        if self.accuracy:
            return self.accuracy.metric, self.accuracy.student
        if self.agreement.top1 is not None:
            return "agreement", self.agreement.top1
        return "-error", -self.agreement.relative_error


class _Sums:
    """Running totals over batches."""

    def __init__(self) -> None:
        self.samples = self.outputs = self.labels = 0
        self.same = self.teacher_right = self.student_right = 0
        self.kl = self.difference = self.size = 0.0
        self.teacher_strange = self.student_strange = 0
        self.unread: str | None = None

    def add(self, batch: Batch, y: Tensor, y_hat: Tensor) -> None:
        self.samples += batch.size
        self.teacher_strange += _not_finite(y, batch)
        self.student_strange += _not_finite(y_hat, batch)
        self.difference += float((y_hat.double() - y.double()).square().sum())
        self.size += float(y.double().square().sum())
        axis = class_axis(y, batch.targets)
        if axis is None:
            self.unread = self.unread or _unread(batch.targets, y)
            return
        y, y_hat = scores(y, axis), scores(y_hat, axis)
        self.outputs += len(y)
        self.same += int((y.argmax(1) == y_hat.argmax(1)).sum())
        self.kl += float(F.kl_div(y_hat.log_softmax(1), y.log_softmax(1), reduction="sum", log_target=True))
        if batch.targets is not None and not batch.targets.is_floating_point():
            self._add_labels(batch.targets.flatten(), y, y_hat)

    def _add_labels(self, labels: Tensor, y: Tensor, y_hat: Tensor) -> None:
        if len(labels) != len(y):
            hint = _ONE_HOT if len(labels) == y.numel() else None
            raise FileError(
                f"the data has {len(labels)} labels for {len(y)} outputs of the network", hint=hint
            )
        if int(labels.min()) < 0 or int(labels.max()) >= y.shape[1]:
            wrong = int(labels.max()) if int(labels.max()) >= y.shape[1] else int(labels.min())
            raise FileError(f"the data has a label {wrong}; the network knows 0 to {y.shape[1] - 1}")
        self.labels += len(labels)
        self.teacher_right += int((y.argmax(1) == labels).sum())
        self.student_right += int((y_hat.argmax(1) == labels).sum())

    def result(self) -> Evaluation:
        outputs = self.outputs or None
        error = (self.difference / self.size) ** 0.5 if self.size else float(self.difference > 0)
        agreement = Agreement(
            self.samples,
            self.same / outputs if outputs else None,
            self.kl / outputs if outputs else None,
            error,
        )
        strange = self.teacher_strange, self.student_strange
        if not self.labels:
            return Evaluation(agreement, None, strange, self.unread)
        accuracy = Accuracy("top-1", self.teacher_right / self.labels, self.student_right / self.labels)
        return Evaluation(agreement, accuracy, strange, self.unread)


def _unread(labels: Tensor | None, answer: Tensor) -> str | None:
    """What real labels are, beside an answer that scores classes; None where they are just values."""
    axis = class_axis(answer, None)
    if labels is None or axis is None or not labels.is_floating_point():
        return None
    if labels.shape != answer.shape:
        return f"real numbers ({str(labels.dtype).removeprefix('torch.')})"
    sums = labels.double().sum(axis)
    shares = bool((labels >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    return "one-hot rows or shares of classes" if shares else None


def _not_finite(answer: Tensor, batch: Batch) -> int:
    """On how many samples an answer is not finite; all, where that cannot be told."""
    finite = answer.isfinite()
    if finite.all():
        return 0
    per_sample = answer.dim() > 0 and len(answer) == batch.size
    return int((~finite.reshape(len(answer), -1).all(1)).sum()) if per_sample else batch.size


def evaluate(teacher: nn.Module, student: nn.Module, data: Iterable[Batch]) -> Evaluation:
    """Run both networks over data, in eval mode and without gradients.

    Args:
        teacher: The original.
        student: The converted network.
        data: Inputs, with labels (whole numbers; one for each output along the last axis) or without.

    Raises:
        ModelError: a network fails on the inputs, or gives nothing that can be compared.
        FileError: there are no inputs, or labels do not fit the outputs.
    """
    teacher, student, sums = evaluation_copy(teacher), evaluation_copy(student), _Sums()
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    for batch in data:
        batch = batch.to(device)
        example = Example(batch.args, batch.kwargs)
        sums.add(batch, main_output(forward(teacher, example)), main_output(forward(student, example)))
    if not sums.samples:
        raise FileError("the data to evaluate on holds no samples")
    return sums.result()


def check_question(teacher: nn.Module, batch: Batch) -> None:
    """Refuse a batch that the original cannot answer, or whose labels do not fit its answer.

    Raises:
        ModelError: the network fails on the inputs, or gives nothing that can be compared.
        FileError: labels do not fit the outputs.
    """
    teacher = evaluation_copy(teacher)
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    answer = main_output(forward(teacher, _example(batch, device))).cpu()
    _Sums().add(batch.to(answer.device), answer, answer)


class Examination:
    """The same questions for many students: what the teacher answers is remembered.

    Args:
        teacher: The original.
        data: Inputs, with labels or without; as many of the first are used as answers fit into 256 MiB.

    Raises:
        ModelError, FileError: as `evaluate`.
    """

    def __init__(self, teacher: nn.Module, data: Iterable[Batch]) -> None:
        teacher, held = evaluation_copy(teacher), 0
        self._device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
        self._questions: list[tuple[Batch, Tensor]] = []
        for batch in data:
            answer = main_output(forward(teacher, _example(batch, self._device))).cpu()
            self._questions.append((batch, answer))
            held += answer.numel() * answer.element_size()
            if held > _ANSWERS:
                break
        if not self._questions:
            raise FileError("the data to evaluate on holds no samples")

    def __call__(self, student: nn.Module) -> Evaluation:
        """How a student does."""
        student, sums = evaluation_copy(student), _Sums()
        for batch, answer in self._questions:
            sums.add(batch, answer, main_output(forward(student, _example(batch, self._device))).cpu())
        return sums.result()


def _example(batch: Batch, device: torch.device) -> Example:
    batch = batch.to(device)
    return Example(batch.args, batch.kwargs)


def output_change(y: Tensor, y_hat: Tensor) -> float:
    """How far an answer is from the original's: the mean Kullback-Leibler divergence of the softmax, in nats.

    For values (`losses.class_axis`), such as images, the relative squared error.
    """
    axis = class_axis(y, None)
    if axis is None:
        size = float(y.double().square().sum())
        return float((y_hat.double() - y.double()).square().sum()) / size if size else 0.0
    y, y_hat = scores(y, axis), scores(y_hat, axis)
    divergence = F.kl_div(y_hat.log_softmax(1), y.log_softmax(1), reduction="sum", log_target=True)
    return float(divergence) / max(len(y), 1)


def main_output(output: Any) -> Tensor:
    """The tensor to compare: `logits` of a mapping or object, else the first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(output, Mapping):
        output = [output.get("logits", next(iter(output.values()), None))]
    if isinstance(output, (tuple, list)) and output:
        return main_output(output[0])
    raise ModelError(f"the network gives a {type(output).__name__}, which cannot be compared")
