"""How far a student's answer is from its teacher's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from phnnify.errors import ModelError
from phnnify.losses import answer_loss, answers_of, class_axis, hidden_loss, label_loss, relative_loss

X, Y, COUNT = torch.ones(2, 3), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (X, [X]),
        ((X, Y), [X, Y]),
        ((X, (Y, [X])), [X, Y, X]),
        ((X, COUNT, None), [X]),
        ({"boxes": X, "scores": Y, "count": COUNT}, [X, Y]),
        ({"loss": Y, "logits": X}, [X]),
        (SimpleNamespace(logits=X, hidden_states=(Y,)), [X]),
    ],
    ids=["tensor", "tuple", "nested", "with others", "dict", "dict of logits", "object with logits"],
)
def test_the_answers_of_an_output_are_its_real_tensors_or_its_logits(
    output: Any, wanted: list[Tensor]
) -> None:
    found = answers_of(output)
    assert len(found) == len(wanted)
    assert all(a is b for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("output", [None, COUNT, (), {"count": COUNT}, "text"], ids=str)
def test_an_output_without_real_numbers_is_refused(output: Any) -> None:
    with pytest.raises(ModelError, match="without real numbers"):
        answers_of(output)


@pytest.mark.parametrize(
    ("shape", "targets", "axis"),
    [
        ((8, 10), None, 1),
        ((8, 5, 10), None, 2),
        ((8, 1), None, None),
        ((8,), None, None),
        ((8, 3, 16, 16), None, None),
        ((8, 10), torch.zeros(8, dtype=torch.int64), 1),
        ((8, 5, 10), torch.zeros(8, 5, dtype=torch.int64), 2),
        ((8, 10, 5), torch.zeros(8, 5, dtype=torch.int64), 1),
        ((8, 4, 16, 16), torch.zeros(8, 16, 16, dtype=torch.int64), 1),
        ((8, 10), torch.zeros(8, 10), None),
    ],
    ids=str,
)
def test_the_axis_of_the_classes_is_told_by_shape_and_labels(
    shape: tuple[int, ...], targets: Tensor | None, axis: int | None
) -> None:
    assert class_axis(torch.zeros(shape), targets) == axis


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_are_the_scaled_divergence_as_numpy_has_it(axis: int, temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, 3), torch.randn(5, 4, 3)

    def softmax(x: Tensor) -> Any:
        e = np.exp(np.moveaxis(x.double().numpy() / temperature, axis, -1))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    wanted = temperature**2 * (p * np.log(p / q)).sum(-1).mean()
    assert answer_loss(student, teacher, axis, temperature).item() == pytest.approx(wanted, rel=1e-5)


def test_values_are_compared_by_their_relative_squared_error() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    wanted = float(((student - teacher) ** 2).sum() / (teacher**2).sum())
    assert answer_loss(student, teacher, None, 4.0).item() == pytest.approx(wanted)
    assert relative_loss(student, torch.zeros(5, 4)).isfinite()


def test_equal_answers_lose_nothing() -> None:
    y = torch.randn(5, 4)
    assert answer_loss(y, y, 1, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert answer_loss(y, y, None, 2.0).item() == 0


def test_the_way_is_the_mean_over_the_layers() -> None:
    teacher = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}
    student = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([3.0])}
    assert hidden_loss(student, teacher).item() == pytest.approx((0 + 4) / 2)


def test_labels_are_met_along_the_axis_of_the_classes() -> None:
    torch.manual_seed(0)
    answer, labels = torch.randn(6, 3, 4, 4), torch.randint(0, 3, (6, 4, 4))
    wanted = torch.nn.functional.cross_entropy(answer, labels)
    torch.testing.assert_close(label_loss(answer, labels, 1), wanted)
    values = torch.randn(6, 1)
    torch.testing.assert_close(
        label_loss(values, torch.ones(6), None), relative_loss(values, torch.ones(6, 1))
    )
