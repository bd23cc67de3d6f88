"""`phnnify convert --eval`: what is told of the data to evaluate on, and when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

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
