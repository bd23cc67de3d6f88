"""How far a student's answer is from its teacher's, at the end and on the way, and from true labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from phnnify.errors import ModelError

KINDS = ("kl", "mse")


def answers_of(output: Any) -> list[Tensor]:
    """The tensors of an output that a student learns: `logits` of a mapping or object, else all real ones.

    Raises:
        ModelError: there are none.
    """
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return [logits]
    if isinstance(output, Mapping):
        output = [output["logits"]] if "logits" in output else list(output.values())
    found = list(_real_tensors(output))
    if not found:
        raise ModelError(f"the network gives a {type(output).__name__} without real numbers to learn from")
    return found


def _real_tensors(output: Any) -> Sequence[Tensor]:
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _real_tensors(part)]
    return []


def class_axis(answer: Tensor, targets: Tensor | None) -> int | None:
    """The axis along which an answer scores classes; None where it holds values.

    With whole-numbered targets it is the axis that they lack; with real ones there is none. Without targets
    (batch, classes) and (batch, length, classes) score classes; images (batch, channels, height, width) are
    values.
    """
    if targets is not None:
        if targets.is_floating_point():
            return None
        for axis in (answer.dim() - 1, 1):
            if 0 < axis < answer.dim() and answer.shape[:axis] + answer.shape[axis + 1 :] == targets.shape:
                return axis
    return answer.dim() - 1 if answer.dim() in (2, 3) and answer.shape[-1] > 1 else None


def scores(answer: Tensor, axis: int) -> Tensor:
    """An answer as (positions, classes), in fp32."""
    return answer.float().movedim(axis, -1).flatten(0, -2)


def answer_loss(student: Tensor, teacher: Tensor, axis: int | None, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over positions; or the relative squared error.

    Hinton et al. 2015, arXiv 1503.02531.

    Args:
        student: With gradients.
        teacher: The same shape.
        axis: That of the classes; None for the relative squared error.
        temperature: T.
    """
    if axis is None:
        return relative_loss(student, teacher)
    p = F.log_softmax(scores(teacher, axis) / temperature, -1)
    q = F.log_softmax(scores(student, axis) / temperature, -1)
    return F.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2


def relative_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """‖ŷ − y‖² / ‖y‖²."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


def hidden_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """The mean of `relative_loss` over the outputs of layers that have the same name in both."""
    losses = [relative_loss(student[name], teacher[name]) for name in student]
    return sum(losses[1:], losses[0]) / len(losses)


def label_loss(student: Tensor, targets: Tensor, axis: int | None) -> Tensor:
    """Cross-entropy with true labels; the relative squared error to true values.

    Args:
        student: With gradients.
        targets: Whole numbers, the student's shape without the axis of the classes; or real, its shape.
        axis: That of the classes, or None.
    """
    if axis is None:
        return relative_loss(student, targets.view_as(student))
    return F.cross_entropy(scores(student, axis), targets.flatten())
