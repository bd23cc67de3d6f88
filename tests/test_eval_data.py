"""What is evaluated on, and what a report says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import phnnify
from phnnify import eval_data
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from phnnify.eval_data import EvalData
from phnnify.plan import PlanOptions, make_plan
from phnnify.report import make_report
from phnnify.trace import trace
from tests.graph_networks import Plain
from tests.survey_network import Net

X = torch.rand(60, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_what_can_be_gone_through_once_only_is_there_again_and_again() -> None:
    data = EvalData(iter(torch.split(X, 20)), None, 0)
    assert [[batch.size for batch in data.all()] for _ in range(2)] == [[20, 20, 20]] * 2


def test_while_a_student_learns_so_many_samples_of_a_file_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_data, "_CHECKED", 15)
    np.savez(tmp_path / "images.npz", x=X.numpy())
    data = EvalData(str(tmp_path / "images.npz"), None, 0)
    assert sum(batch.size for batch in data.some() or ()) == 15
    assert sum(batch.size for batch in data.all()) == 60


def test_without_data_a_student_is_not_measured_while_it_learns() -> None:
    assert EvalData(None, None, 0).some() is None


def test_a_report_gets_the_evaluation_and_keeps_its_notes(model: Net) -> None:
    traced = trace(model)
    report = make_report(traced, make_plan(traced, PlanOptions(4)), notes=["as it was"])
    added = EvalData([X[:, :, :6, :6]], None, 0).add_to(report, model, model)
    assert added.evaluation is not None
    assert added.evaluation.agreement.samples == 60
    assert added.evaluation.agreement.top1 == 1
    assert added.notes == report.notes


@pytest.mark.parametrize(
    ("options", "right", "doubted"),
    [(None, 10, True), (None, 50, False), (DataOptions(mean=(0.5,) * 4, std=(1.0,) * 4), 10, False)],
)
def test_an_original_that_is_often_wrong_on_plain_images_is_doubted(
    options: DataOptions | None, right: int, doubted: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x, model = X[:50], Plain().eval()
    answers = model((x - 0.5) if options else x).argmax(1)
    y = torch.where(torch.arange(50) < right, answers, (answers + 1) % 12)
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    result = phnnify.convert(model, 2, eval_data=str(tmp_path / "images.npz"), data_options=options)
    doubts = [note for note in result.report.notes if "give the same --mean and --std" in note]
    assert len(doubts) == doubted
    assert all(note.startswith("The original itself is right on 20.0% of") for note in doubts)


def test_a_report_says_where_answers_are_not_finite(model: Net) -> None:
    traced = trace(model)
    report = make_report(traced, make_plan(traced, PlanOptions(4)))
    x = X[:, :, :6, :6].clone()
    x[5] = float("nan")
    added = EvalData([x], None, 0).add_to(report, model, model)
    assert added.notes[-1].endswith("are not finite: look at the data.")
    assert '"kl": null' in added.to_json()


def test_data_is_looked_at_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = Plain().eval(), []
    model.register_forward_pre_hook(lambda module, args: asked.append(len(args[0])))
    EvalData(None, None, 0).check(model)
    EvalData([X[:50], X[:, :2]], None, 0).check(model)
    monkeypatch.setattr(eval_data, "_LOOKED_AT", 15)
    y = np.full(60, 11)
    np.savez(tmp_path / "images.npz", x=X.numpy(), y=y)
    EvalData(str(tmp_path / "images.npz"), None, 0).check(model)
    assert asked == [50, 15]
    np.savez(tmp_path / "images.npz", x=X.numpy(), y=y + 1)
    with pytest.raises(FileError, match="a label 12; the network knows 0 to 11"):
        EvalData(str(tmp_path / "images.npz"), None, 0).check(model)
    with pytest.raises(FileError, match="holds no samples"):
        EvalData([], None, 0).check(model)
