"""The commands that distill: what they write, how they stop and go on, and how they run in many processes."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import phnnify
from phnnify import pipeline
from phnnify.cli import convert as converting
from phnnify.cli import distill as distilling
from phnnify.distilling.augment import Augmentation
from phnnify.distilling.recipe import Recipe
from phnnify.distilling.run import Run
from phnnify.errors import ModelError
from tests.learner import inputs, pair
from tests.networks import Outcome, command, same_tensors

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
DATA, TEST = DIGITS / "calibration.npz", DIGITS / "test.npz"
QUICK = ("--steps", 20, "--rate", 2e-3, "--batch", 64)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a converted network of the digits."""
    monkeypatch.chdir(tmp_path)
    command("convert", DIGITS / "model.pt", "--n", 8, "--quiet", "-o", "student.pt")
    return tmp_path


def here() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"student.pt"}


def distill(*arguments: object) -> Outcome:
    return command("distill", DIGITS / "model.pt", "student.pt", "--data", DATA, *QUICK, *arguments)


def done(outcome: Outcome) -> Outcome:
    assert (outcome.code, outcome.err if outcome.code else "") == (0, "")
    return outcome


def failed(outcome: Outcome, code: int, message: str, hint: str = "") -> None:
    assert outcome.code == code, outcome.err
    assert outcome.err.startswith("error: ")
    assert message in " ".join(outcome.err.split())
    assert hint in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def weights(path: str) -> dict[str, torch.Tensor]:
    model = phnnify.load(path)
    return dict(model.state_dict())


def test_a_student_is_trained_written_and_reported() -> None:
    outcome = done(distill("--steps", 60, "--eval", TEST, "--json", "--log", "run.jsonl"))
    report = json.loads(outcome.out)
    assert here() == {"student-distilled.pt", "run.jsonl"}
    accuracy = report["accuracy"]
    assert accuracy["student"] > accuracy["student_before"] + 0.3
    assert report["distillation"]["steps"] == 60
    assert report["distillation"]["metric"] == "top-1"
    lines = [json.loads(line) for line in Path("run.jsonl").read_text().splitlines()]
    assert lines == report["distillation"]["history"]
    assert report["bytes"]["before"] == (DIGITS / "model.pt").stat().st_size
    assert report["bytes"]["after"] == Path("student-distilled.pt").stat().st_size
    assert outcome.err == ""
    before, after = weights("student.pt"), weights("student-distilled.pt")
    assert before.keys() == after.keys()
    assert not same_tensors(before, after)


def test_the_report_says_in_words_what_was_learned() -> None:
    outcome = done(distill("--eval", TEST, "-o", "out.pt", "--report", "way.html", "--report", "way.md"))
    said = " ".join(outcome.out.split())
    assert "before its distillation" in said
    assert "Learned from the original for 20 steps of 64 inputs" in said
    assert outcome.err == "wrote out.pt, way.html, way.md\n"
    assert Path("way.html").read_text().count("<svg") == 3
    assert "## Distillation" in Path("way.md").read_text()


def test_quiet_says_nothing() -> None:
    outcome = done(distill("--quiet"))
    assert (outcome.out, outcome.err) == ("", "")


def test_a_conversion_distills_in_one_go() -> None:
    arguments = ("--n", 4, "--data", DATA, "--samples", 100, "--distill", *QUICK, "-o", "out.pt")
    report = json.loads(done(command("convert", DIGITS / "model.pt", *arguments, "--json")).out)
    assert here() == {"out.pt"}
    assert report["distillation"]["steps"] == 20
    done(command("convert", DIGITS / "model.pt", *arguments[:6], "-o", "plain.pt", "--quiet"))
    failed(command("convert", DIGITS / "model.pt", "--distill"), 2, "--distill needs --data")
    done(
        command("distill", DIGITS / "model.pt", "plain.pt", "--data", DATA, *QUICK, "-o", "two.pt", "--quiet")
    )
    assert same_tensors(weights("two.pt"), weights("out.pt"))


LESSON = (
    "--epochs", 1.5, "--batch", 32, "--optimizer", "sgd", "--rate", 0.01, "--loss", "kl", "--temperature", 2,
    "--labels", 0.5, "--hidden", 0.25, "--augment", "flip", "--precision", "fp32", "--checkpoint-minutes", 1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("distill", ("student.pt", "--data", DATA)), ("convert", ("--data", DATA, "--distill"))],
    ids=["distill", "convert"],
)
def test_both_commands_make_the_same_recipe(
    verb: str, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []

    def asked(*given: Any, **named: Any) -> Any:
        seen.extend(value for value in (*given, *named.values()) if isinstance(value, Recipe))
        raise ModelError("seen")

    monkeypatch.setattr(pipeline, verb, asked)
    failed(command(verb, DIGITS / "model.pt", *arguments), 1, "seen")
    failed(command(verb, DIGITS / "model.pt", *arguments, *LESSON, "--seed", 7), 1, "seen")
    wanted = Recipe(
        epochs=1.5, batch=32, optimizer="sgd", rate=0.01, loss="kl", temperature=2, labels=0.5, hidden=0.25,
        augment=Augmentation.read("flip"), precision="fp32", checkpoint_minutes=1, seed=7,
    )  # fmt: skip
    assert seen == [Recipe(), wanted]


def test_a_conversion_takes_every_option_of_a_distillation() -> None:
    taken, wanted = (
        {
            name: (option.annotation, option.default)
            for name, option in inspect.signature(verb).parameters.items()
        }
        for verb in (converting.convert, distilling.distill)
    )
    for own in ("teacher", "student", "data", "output"):
        del wanted[own]
    assert wanted.items() <= taken.items()


@pytest.mark.parametrize(
    "option",
    [
        *zip(LESSON[::2], LESSON[1::2], strict=True),
        ("--steps", 5),
        ("--minutes", 1),
        ("--batch", 128),
        ("--log", "run.jsonl"),
        ("--resume",),
    ],
    ids=lambda option: str(option[0]),
)
def test_what_only_a_distillation_means_needs_one(option: tuple[object, ...]) -> None:
    outcome = command("convert", DIGITS / "model.pt", "--data", DATA, *option)
    failed(outcome, 2, f"{option[0]} needs --distill", f"hint: add --distill, or leave {option[0]} out")
    assert here() == set()


@pytest.mark.parametrize("verb", ["distill", "convert"])
def test_a_run_that_was_stopped_is_resumed_to_the_same_weights(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*more: object) -> Outcome:
        if verb == "distill":
            return distill("-o", "out.pt", *more)
        options = ("--data", DATA, "--samples", 50, "--distill", *QUICK)
        return command("convert", DIGITS / "model.pt", *options, "-o", "out.pt", *more)

    done(run("--quiet"))
    wanted = weights("out.pt")
    Path("out.pt").unlink()
    learn, taken = Run._learn, []

    def interrupted(self: Any, batch: Any, done: float) -> Any:
        taken.append(done)
        if len(taken) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self, batch, done)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_learn", interrupted)
        failed(run(), 1, "stopped by Ctrl-C after step 7", "--resume goes on from out.pt.checkpoint")
    assert here() == ({"out.pt.checkpoint"} if verb == "distill" else {"out.pt.checkpoint", "out.pt"})
    failed(run(), 2, "out.pt.checkpoint is the state of a run that was not finished", "--resume")
    failed(run("--resume", "--seed", 5), 2, "of a run with other options")
    done(run("--resume", "--quiet"))
    assert here() == {"out.pt"}
    assert same_tensors(weights("out.pt"), wanted)


def test_a_run_that_is_given_up_fails_and_leaves_its_best_state() -> None:
    np.savez("bad.npz", x=np.full((64, 1, 8, 8), np.nan, np.float32))
    outcome = command(
        "distill", DIGITS / "model.pt", "student.pt", "--data", "bad.npz", *QUICK, "-o", "out.pt"
    )
    assert outcome.code == 1
    assert "given up after step 5: its loss or gradient is not finite" in " ".join(outcome.err.split())
    assert all(t.isfinite().all() for t in weights("out.pt").values())


def test_what_cannot_be_distilled_is_told() -> None:
    model = DIGITS / "model.pt"
    failed(command("distill", model, model, "--data", DATA), 1, "is not converted", "phnnify convert makes")
    failed(distill("--minutes", 1), 2, "--steps and --minutes exclude each other")
    failed(distill("--optimizer", "adam"), 2, "--optimizer is 'adam'", "one of sgd, adamw")
    failed(distill("--augment", "spin"), 2, "spin")
    failed(distill("--device", "cuda:77"), 2, "--device cuda:77 cannot be used here")
    failed(distill("-o", "student.pt"), 2, "student.pt")
    failed(command("distill", model, "student.pt", "--data", "none.npz"), 1, "there is no file none.npz")
    assert here() == set()


def test_two_processes_learn_what_one_learns_from_twice_the_batch(folder: Path) -> None:
    teacher, student = pair()
    torch.save(teacher.state_dict(), "teacher.pt")
    phnnify.save(student, "plain.safetensors")
    safetensors.torch.save_file({"x": inputs()}, "data.safetensors")
    arguments = [
        "distill", "teacher.pt", "plain.safetensors", "--arch", "tests.learner:Plain", "--data",
        "data.safetensors", "--rate", "3e-3", "--steps", "25", "--eval", "data.safetensors", "--json",
        "--device", "cpu", "--precision", "fp32",
    ]  # fmt: skip
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0", "-m", "phnnify"]
    ran = subprocess.run(
        [*launch, *arguments, "--batch", "20", "-o", "two.safetensors", "--log", "two.jsonl"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    course = json.loads(ran.stdout)["distillation"]
    assert (course["processes"], course["batch"], course["steps"]) == (2, 40, 25)
    done(command(*arguments, "--batch", "40", "-o", "one.safetensors", "--log", "one.jsonl"))
    found, wanted = (safetensors.torch.load_file(f"{n}.safetensors") for n in ("two", "one"))
    start = safetensors.torch.load_file("plain.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.equal(tensor, start[name]), name
    losses = [
        [json.loads(line)["loss"] for line in Path(f"{n}.jsonl").read_text().splitlines()]
        for n in ("two", "one")
    ]
    assert losses[0][0] is None
    assert losses[0][1:] == pytest.approx(losses[1][1:], rel=1e-4)


def test_labels_to_be_learned_are_refused_where_the_data_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "trace", pytest.fail)  # nothing is looked at before
    np.savez("inputs.npz", x=np.load(DATA)["x"][:20])
    data = ("--data", "inputs.npz", "--labels", 0.5)
    failed(distill(*data), 2, "--labels 0.5 needs data with labels", "hint: give the labels as y")
    together = command("convert", DIGITS / "model.pt", "--n", 4, "--distill", *QUICK, *data)
    failed(together, 2, "--labels 0.5 needs data with labels", "hint: give the labels as y")
    assert here() == {"inputs.npz"}
