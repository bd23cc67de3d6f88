"""What a distillation remembers of its way."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from phnnify.distilling.course import Moment, Record
from phnnify.errors import FileError


def moment(step: int, loss: float | None) -> Moment:
    return Moment(step, float(step), loss, 0.1, 50.0)


def followed(record: Record, losses: list[float], total: int) -> Record:
    for step, loss in enumerate(losses, 1):
        record.follow(moment(step, loss), (step - 1) / total, step / total)
    return record


def test_a_long_run_keeps_about_two_hundred_moments() -> None:
    record = followed(Record(), [1.0] * 5000, 5000)
    assert 200 <= len(record.history) <= 202
    assert record.history[-1].step == 5000


def test_a_short_run_keeps_every_step() -> None:
    assert [m.step for m in followed(Record(), [1.0] * 30, 30).history] == list(range(1, 31))


def test_the_loss_is_smoothed_and_what_is_not_finite_is_left_out() -> None:
    record = followed(Record(), [2.0, 1.0, float("nan"), float("inf"), 1.0], 5)
    assert record.smoothed == pytest.approx(2 - 0.05 - 0.05 * 0.95)
    assert record.first == 2.0
    assert record.rise() == pytest.approx((2 - 0.05 - 0.05 * 0.95) / 2)
    assert all(m.loss is not None and m.loss <= 2 for m in record.history)


def test_before_the_first_step_nothing_has_risen() -> None:
    assert Record().rise() == 1.0
    assert Record().told() == "distilling"


def test_the_log_is_one_object_a_line_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("of an earlier run\n")
    record = Record(path)
    record.start()
    followed(record, [3.0, 2.0, 1.0], 6)
    state = record.state()
    record.follow(moment(4, 0.5), 3 / 6, 4 / 6)  # lost: the state is older
    resumed = Record(path)
    resumed.load(state)
    resumed.follow(moment(4, 1.0), 3 / 6, 4 / 6)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [asdict(m) for m in resumed.history]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"step", "seconds", "loss", "rate", "speed", "metric"}


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write the log"):
        Record(tmp_path / "no such folder" / "run.jsonl").start()


def test_it_is_told_in_a_few_words() -> None:
    record = followed(Record(), [3.0], 1)
    record.metric = "top-1"
    record.add(Moment(1, 1.0, 3.0, 0.1, None, 0.875))
    assert record.told() == "loss 3, rate 1.0e-01, 50/s, top-1 87.5%"


def test_a_merit_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record = Record(path)
    record.start()
    record.add(Moment(1, 1.0, 3.0, 0.1, None, float("nan")))
    assert '"metric": null' in path.read_text()
