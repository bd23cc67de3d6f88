"""`phnnify convert --eval`: what is told of the data to evaluate on, and when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks import Outcome, command

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
TEST = np.load(DIGITS / "test.npz")
X, Y = TEST["x"].astype("float32"), TEST["y"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments: object) -> Outcome:
    return command(
        "convert", DIGITS / "model.pt", "--n", 4, "-o", "small.pt", "--eval", "eval.npz", *arguments
    )


def test_json_stays_json_where_answers_are_not_finite() -> None:
    x = X[:40].copy()
    x[3] = np.nan
    np.savez("eval.npz", x=x)
    printed = convert("--json", "--report", "report.json")
    assert printed.code == 0
    for text in (printed.out, Path("report.json").read_text()):
        report = json.loads(text, parse_constant=pytest.fail)
        assert report["agreement"]["kl"] is None
        assert report["notes"][-1].startswith("1 of the 40 answers of the original (and 1 of")


def test_labels_that_do_not_fit_are_refused_before_the_fit() -> None:
    np.savez("eval.npz", x=X[:40], y=Y[:40] + 100)
    failed = convert()
    assert failed.code == 1
    assert failed.err.startswith("error: the data has a label 1")
    assert not Path("small.pt").exists()


@pytest.mark.parametrize("more", [(), ("--quiet",), ("--json",)])
def test_where_they_are_found_late_the_converted_network_is_written_all_the_same(
    more: tuple[str, ...],
) -> None:
    y = Y.copy()
    last = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[-1]
    y[last] = 99  # not among those that are drawn to be looked at
    np.savez("eval.npz", x=X, y=y)
    failed = convert(*more)
    assert failed.code == 1
    assert failed.out == ""
    said = "" if more else "wrote small.pt; its comparison with the original failed\n"
    assert failed.err == f"{said}error: the data has a label 99; the network knows 0 to 9\n"
    assert Path("small.pt").exists()


def test_without_class_numbers_the_report_says_why_there_is_no_accuracy() -> None:
    np.savez("eval.npz", x=X, y=Y.astype("float32"))
    report = json.loads(convert("--json").out)
    assert report["accuracy"] is None
    assert any(note.startswith("No accuracy was measured: the labels are real") for note in report["notes"])
