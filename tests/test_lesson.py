"""What one batch teaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phnnify
from phnnify.batches import Batch
from phnnify.distilling.lesson import Lesson
from phnnify.distilling.recipe import Recipe
from phnnify.errors import ModelError
from tests.networks import Small, small


@pytest.fixture
def teacher() -> Small:
    return small()


@pytest.fixture
def student(teacher: Small) -> nn.Module:
    return phnnify.convert(teacher, 4, min_share=0).model


def batch() -> Batch:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    return Batch((x,), targets=torch.arange(8))


def divergence(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    p, q = ((y.double() / temperature).softmax(1) for y in (theirs, ours))
    return (p * (p.log() - q.log())).sum(1).mean() * temperature**2


def test_the_loss_is_the_sum_that_is_documented(teacher: Small, student: nn.Module) -> None:
    recipe = Recipe(labels=0.25, hidden=0.5, temperature=3)
    x, y = batch().args[0], batch().targets
    assert y is not None
    with torch.no_grad():
        found = Lesson(teacher, recipe)(student, batch())
        ours, theirs = student(x), teacher(x)
        way = [
            ((s - t).square().sum() / t.square().sum()).item()
            for s, t in (
                (student.get_submodule("hidden")(x), teacher.hidden(x)),
                (ours, theirs),
            )
        ]
    truth = F.cross_entropy(ours, y)
    wanted = 0.75 * divergence(ours, theirs, 3) + 0.25 * truth + 0.5 * sum(way) / 2
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_student_that_is_its_teacher_loses_nothing(teacher: Small) -> None:
    assert Lesson(teacher, Recipe(hidden=1))(teacher, batch()).item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_that_writes_into_its_inputs_leaves_the_students_alone() -> None:
    network, given = nn.Sequential(nn.ELU(inplace=True), nn.Linear(16, 8)), batch()
    assert Lesson(network, Recipe())(network, given).item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(given.args[0], batch().args[0])


def test_labels_without_weight_change_nothing(teacher: Small, student: nn.Module) -> None:
    lesson = Lesson(teacher, Recipe())
    plain = Batch(batch().args)
    assert lesson(student, batch()).item() == lesson(student, plain).item()


def test_gradients_go_to_the_student_alone(teacher: Small, student: nn.Module) -> None:
    Lesson(teacher, Recipe(hidden=1))(student, batch()).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_nothing_stays_hooked(teacher: Small, student: nn.Module) -> None:
    Lesson(teacher, Recipe(hidden=1))(student, batch())
    assert not any(m._forward_hooks for model in (teacher, student) for m in model.modules())


def test_bfloat16_is_near_the_precision_of_the_weights(teacher: Small, student: nn.Module) -> None:
    exact = Lesson(teacher, Recipe())(student, batch()).item()
    rough = Lesson(teacher, Recipe(), torch.bfloat16)(student, batch())
    assert rough.dtype is torch.float32
    assert rough.item() != exact
    assert rough.item() == pytest.approx(exact, rel=0.1)


class Viewing(nn.Module):
    """Reads its memory in order, which images laid out the other way do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out.view(len(x), -1)


class Noting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
        out: Tensor = self.conv(x)
        return out.flatten(1)


@pytest.mark.parametrize(("network", "laid"), [(Noting(), True), (Viewing(), False)])
def test_images_are_laid_out_the_fast_way_where_that_works(network: Any, laid: bool) -> None:
    images = Batch((torch.randn(2, 4, 6, 6),))
    lesson = Lesson(network, Recipe())
    lesson.try_channels_last(network, images)
    assert lesson(network, images).isfinite()
    if laid:
        assert network.seen[-1]


def test_what_cannot_be_compared_is_told(teacher: Small, student: nn.Module) -> None:
    with pytest.raises(ModelError, match="the network fails on a batch of 8x3: "):
        Lesson(teacher, Recipe())(student, Batch((torch.zeros(8, 3),)))
    with pytest.raises(ModelError, match="cannot be compared"):
        Lesson(teacher, Recipe())(nn.Linear(16, 3), batch())
    wrong = Batch(batch().args, targets=torch.full((8,), 8))
    with pytest.raises(ModelError, match="cannot be compared") as refused:
        Lesson(teacher, Recipe(labels=0.5))(student, wrong)
    assert "below the number of classes" in str(refused.value.hint)
