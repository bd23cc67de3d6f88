"""Training a student to answer as its teacher does."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.batches import Batch
from phnnify.distilling.augment import Augmentation
from phnnify.distilling.checkpoint import read_checkpoint
from phnnify.distilling.distillation import train_student
from phnnify.distilling.recipe import Recipe, RunFiles
from phnnify.distilling.run import Distilled
from phnnify.errors import FileError, ModelError, StoppedError, UsageError
from phnnify.evaluate import evaluate
from tests.networks import Small, same_tensors, small

RECIPE = Recipe(steps=30, batch=32, rate=3e-3)


@pytest.fixture
def teacher() -> Small:
    return small()


@pytest.fixture
def student(teacher: Small) -> nn.Module:
    """Its teacher's weights in a quarter of the numbers, fitted to nothing."""
    return phnnify.convert(teacher, 4, min_share=0).model


def data(count: int = 256) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(1)) * 2 + 1
    with torch.no_grad():
        return x, small()(x).argmax(1)


def questions() -> list[Batch]:
    x, y = data(512)
    return [Batch((x[256:],), targets=y[256:])]


def distance(teacher: nn.Module, student: nn.Module) -> float:
    return evaluate(teacher, student, questions()).agreement.relative_error


def state_of(result: Distilled) -> dict[str, Any]:
    return result.model.state_dict()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_student_comes_nearer_to_its_teacher(teacher: Small, student: nn.Module, optimizer: str) -> None:
    recipe = Recipe(steps=150, batch=32, optimizer=optimizer)
    done = train_student(teacher, student, data(), recipe)
    assert evaluate(teacher, done.model, questions()).agreement.kl is not None
    before, after = (evaluate(teacher, s, questions()).agreement.kl or 9 for s in (student, done.model))
    assert after < 0.6 * before
    assert done.course.steps == 150
    assert done.trouble is None


def test_neither_teacher_nor_student_is_changed(teacher: Small, student: nn.Module) -> None:
    teacher.train()
    teacher.head.weight.requires_grad_(False)
    kept = [{name: t.clone() for name, t in model.state_dict().items()} for model in (teacher, student)]
    done = train_student(teacher, student, data(), RECIPE)
    for model, state in zip((teacher, student), kept, strict=True):
        assert same_tensors(model.state_dict(), state)
    assert teacher.training
    assert not done.model.training
    assert not teacher.head.weight.requires_grad
    assert [p.requires_grad for p in done.model.parameters()] == [
        p.requires_grad for p in student.parameters()
    ]
    assert all(p.grad is None for p in (*teacher.parameters(), *student.parameters()))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_randomness(
    teacher: Small, student: nn.Module
) -> None:
    samples = data()
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = train_student(teacher, student, samples, RECIPE)
    assert torch.equal(torch.rand(3), wanted)
    again = train_student(teacher, student, samples, RECIPE)
    other = train_student(teacher, student, samples, replace(RECIPE, seed=1))
    assert same_tensors(state_of(first), state_of(again))
    assert not same_tensors(state_of(first), state_of(other))


class Answers(nn.Module):
    """Gives what it computes in another form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner, self.form = small(), form

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x)
        forms = {"tuple": (y, y.mean(1)), "dict": {"scores": y}, "logits": {"loss": None, "logits": y}}
        return forms.get(self.form, y)


@pytest.mark.parametrize("form", ["tuple", "dict", "logits"])
def test_answers_of_any_form_are_learned(form: str) -> None:
    teacher = Answers(form)
    student = phnnify.convert(teacher, 4, min_share=0).model
    done = train_student(teacher, student, data(), replace(RECIPE, steps=100))
    history = [m.loss for m in done.course.history if m.loss is not None]
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize(
    "more",
    [
        {"hidden": 1.0},
        {"loss": "mse"},
        {"average": 0.0},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"warmup": 0.0},
        {"warmup": 1.0},
        {"batch": 8},
    ],
    ids=str,
)
def test_every_part_of_a_recipe_can_be_changed(
    teacher: Small, student: nn.Module, more: dict[str, Any]
) -> None:
    plain = train_student(teacher, student, data(), replace(RECIPE, precision="fp32", steps=60))
    other = train_student(
        teacher, student, data(), replace(RECIPE, **{"precision": "fp32", "steps": 60, **more})
    )
    assert distance(teacher, other.model) < distance(teacher, student)
    assert same_tensors(state_of(plain), state_of(other)) == (more == {"precision": "fp32"})


def test_true_labels_pull_the_student_to_them(teacher: Small, student: nn.Module) -> None:
    def lost(model: nn.Module) -> float:
        x, y = data()
        with torch.no_grad():
            return nn.functional.cross_entropy(model(x), y).item()

    plain, told = (
        train_student(teacher, student, data(), replace(RECIPE, steps=60, labels=share)) for share in (0, 0.9)
    )
    assert lost(told.model) < lost(plain.model) < lost(student)


def test_the_best_state_on_the_evaluation_data_is_kept(teacher: Small, student: nn.Module) -> None:
    recipe = replace(RECIPE, rate=0.5, steps=20, checks=20, average=0.0)
    done = train_student(teacher, student, data(), recipe, eval_data=questions())
    merits = {m.step: m.metric for m in done.course.history if m.metric is not None}
    assert len(merits) == 21
    assert done.course.metric == "top-1"
    assert done.course.best_step is not None
    assert merits[done.course.best_step] == max(merits.values())
    found = evaluate(teacher, done.model, questions())
    assert found.accuracy is not None
    assert found.accuracy.student == pytest.approx(max(merits.values()))


def test_dropout_is_off_and_batch_norms_learn(teacher: Small) -> None:
    class Dropping(Small):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return super().forward(x)

    dropping = Dropping()
    dropping.load_state_dict(teacher.state_dict())
    student = phnnify.convert(dropping.eval(), 4, min_share=0).model
    done = train_student(dropping, student, data(), RECIPE)
    assert not torch.equal(
        done.model.get_buffer("norm.running_mean"), student.get_buffer("norm.running_mean")
    )
    few = train_student(dropping, student, data(), replace(RECIPE, batch=4))
    assert torch.equal(few.model.get_buffer("norm.running_mean"), student.get_buffer("norm.running_mean"))


def test_minutes_end_the_run_in_time(teacher: Small, student: nn.Module) -> None:
    started = time.monotonic()
    done = train_student(teacher, student, data(), Recipe(minutes=0.05, rate=1e-3, batch=32))
    assert 2.9 <= done.course.seconds <= time.monotonic() - started
    assert done.course.history[-1].rate < 1e-4


def test_epochs_become_steps(teacher: Small, student: nn.Module) -> None:
    done = train_student(teacher, student, data(256), Recipe(epochs=1.5, batch=64, rate=1e-3))
    assert done.course.steps == 6


def test_a_log_has_a_line_for_each_moment(teacher: Small, student: nn.Module, tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    done = train_student(teacher, student, data(), RECIPE, eval_data=questions(), files=RunFiles(log=log))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines == [vars(moment) for moment in done.course.history]
    assert [line["step"] for line in lines if line["loss"] is not None][-1] == 30


# Trouble


def test_a_batch_that_is_not_finite_is_skipped(teacher: Small, student: nn.Module) -> None:
    x, _ = data()
    batches = [*torch.split(x, 32)]
    batches[3] = torch.full((32, 16), float("nan"))
    done = train_student(teacher, student, batches, replace(RECIPE, steps=8))
    assert done.course.setbacks == 1
    assert done.trouble is None
    assert all(t.isfinite().all() for t in state_of(done).values())
    assert done.course.history[-1].rate < done.course.rate / 2


def test_a_run_that_stays_not_finite_ends_with_the_best_weights(teacher: Small, student: nn.Module) -> None:
    batches = [*torch.split(data()[0], 32)[:3], *[torch.full((32, 16), float("nan"))] * 9]
    done = train_student(teacher, student, batches, replace(RECIPE, steps=100), eval_data=questions())
    assert done.trouble is not None
    assert "given up after step 8: its loss or gradient is not finite" in done.trouble
    assert all(t.isfinite().all() for t in state_of(done).values())


def test_a_loss_that_runs_away_goes_back_and_halves_the_rate(teacher: Small, student: nn.Module) -> None:
    recipe = Recipe(steps=300, batch=32, rate=300.0, optimizer="sgd", clip=1e9, warmup=0)
    done = train_student(teacher, student, data(), recipe)
    assert done.course.setbacks > 0
    assert all(t.isfinite().all() for t in state_of(done).values())


def test_what_does_not_fit_is_told(teacher: Small, student: nn.Module) -> None:
    with pytest.raises(ModelError, match="the network fails on a batch of 8x3"):
        train_student(teacher, student, torch.randn(8, 3), RECIPE)
    with pytest.raises(ModelError, match="answer cannot be compared"):
        train_student(teacher, nn.Linear(16, 5), data(), RECIPE)
    with pytest.raises(ModelError, match="answer cannot be compared"):
        train_student(teacher, student, (data()[0], torch.full((256,), 99)), replace(RECIPE, labels=0.5))
    with pytest.raises(FileError, match="no samples"):
        train_student(teacher, student, torch.zeros(0, 16), RECIPE)


# Stopping and going on


class Stopping:
    """Batches that ask the process to stop once, at a step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[Any]:
        x, y = data()
        for pair in zip(torch.split(x, 32), torch.split(y, 32), strict=True):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield pair


@pytest.mark.parametrize("at", [3, 7, 22])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    teacher: Small, student: nn.Module, tmp_path: Path, at: int, optimizer: str
) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, checks=4, hidden=0.5)
    whole = train_student(teacher, student, Stopping(0), recipe, eval_data=questions())
    files = RunFiles(tmp_path / "run.checkpoint", log=tmp_path / "run.jsonl")
    with pytest.raises(StoppedError, match="stopped by Ctrl-C after step") as stopped:
        train_student(teacher, student, Stopping(at), recipe, eval_data=questions(), files=files)
    assert "--resume" in str(stopped.value.hint)
    assert 0 < read_checkpoint(tmp_path / "run.checkpoint")["step"] < 30
    done = train_student(
        teacher, student, Stopping(0), recipe, eval_data=questions(), files=replace(files, resume=True)
    )
    assert same_tensors(state_of(done), state_of(whole))
    losses = [[m.loss for m in result.course.history] for result in (done, whole)]
    assert losses[0] == losses[1]
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == len(losses[0])


def test_augmented_runs_resume_to_the_same_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    ).eval()
    student = phnnify.convert(teacher, 2, min_share=0).model
    images = torch.randn(64, 3, 8, 8)
    recipe = Recipe(steps=12, batch=16, rate=1e-3, augment=Augmentation(True, True, True))
    whole = train_student(teacher, student, images, recipe)
    path = tmp_path / "run.checkpoint"
    told: list[int] = []

    def interrupted(what: str, done: int, total: int) -> None:
        told.append(done)
        if len(told) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="SIGTERM"):
        train_student(teacher, student, images, recipe, files=RunFiles(path), watch=interrupted)
    done = train_student(teacher, student, images, recipe, files=RunFiles(path, resume=True))
    assert same_tensors(state_of(done), state_of(whole))


def test_a_finished_run_is_not_run_again(teacher: Small, student: nn.Module, tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run.checkpoint", resume=True)
    first = train_student(teacher, student, data(), RECIPE, files=files)
    again = train_student(teacher, student, data(), RECIPE, files=files)
    assert same_tensors(state_of(first), state_of(again))
    assert again.course.seconds == first.course.seconds


def test_a_checkpoint_of_another_run_is_refused(teacher: Small, student: nn.Module, tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run.checkpoint", resume=True)
    train_student(teacher, student, data(), RECIPE, files=files)
    with pytest.raises(UsageError, match="of a run with other options"):
        train_student(teacher, student, data(), replace(RECIPE, steps=31), files=files)
    other = phnnify.convert(teacher, 2, min_share=0).model
    with pytest.raises(FileError, match="of another student"):
        train_student(teacher, other, data(), RECIPE, files=files)


def test_outside_the_main_thread_it_runs_too(teacher: Small, student: nn.Module, tmp_path: Path) -> None:
    results: list[Distilled] = []

    def work() -> None:
        files = RunFiles(tmp_path / "run.checkpoint")
        results.append(train_student(teacher, student, data(), RECIPE, files=files))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same_tensors(state_of(results[0]), state_of(train_student(teacher, student, data(), RECIPE)))
