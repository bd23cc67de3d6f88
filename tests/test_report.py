"""The report as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from torch import nn

import phnnify
from phnnify.change import Change
from phnnify.evaluate import Accuracy, Agreement, Evaluation
from phnnify.export import OnnxFile
from phnnify.report import Report, summary
from tests.courses import course

ONNX = OnnxFile("small.onnx", 5000, 4800, 1e-6, 2e-7, 18, (2, 3), ("int64:1x?12",), None)


@pytest.fixture
def report() -> Report:
    model = nn.Sequential(nn.Linear(64, 64), nn.Embedding(9, 7), nn.Linear(64, 3))
    converted = phnnify.convert(nn.Sequential(*[model[0], model[2]]), 4, inputs="1x64", exclude=["1"])
    return converted.report.with_files(Change(17_000, 5_000), ONNX)


def test_json_has_the_keys_that_stay(report: Report) -> None:
    found = json.loads(report.to_json())
    assert found["phnnify"] == phnnify.__version__
    assert found["n"] == 4
    assert found["params"] == {"before": 64 * 64 + 64 + 3 * 64 + 3, "after": 64 + 1024 + 64 + 3 * 64 + 3}
    assert found["bytes"] == {"before": 17_000, "after": 5_000}
    first, second = found["layers"]
    assert first["flops_share"] == pytest.approx(64 / 67)
    assert second["params_share"] == pytest.approx(192 / found["params"]["before"])
    keys = (
        "name kind shape status reason order terms rank params_before params_after weight_error output_error"
    )
    assert set(keys.split()) <= set(first)
    assert first["order"] == [4, 4]
    assert (first["terms"], first["rank"], first["status"]) == (4, 0, "converted")
    assert 0 < first["weight_error"] < 1
    assert (second["status"], second["reason"]) == ("kept", "excluded by the user")
    assert (second["order"], second["weight_error"], second["params_after"]) == (None, None, 192)
    assert found["onnx"]["path"] == "small.onnx"
    assert {"bytes", "max_abs_diff", "max_rel_diff"} <= set(found["onnx"])


def test_what_was_not_measured_is_null(report: Report) -> None:
    found = json.loads(report.to_json())
    assert found["accuracy"] is found["agreement"] is found["latency"] is None
    assert {layer["output_error"] for layer in found["layers"]} == {None}
    fresh = phnnify.convert(nn.Sequential(nn.Linear(64, 64)), 4).report.to_dict()
    assert fresh["onnx"] is None
    assert fresh["bytes"] == {"before": None, "after": None}
    assert fresh["layers"][0]["flops"] is None


def test_the_summary_shows_only_what_was_measured(report: Report) -> None:
    assert [row[0] for row in summary(report)] == [
        "parameters", "converted part", "model file, bytes", "ONNX file, bytes",
    ]  # fmt: skip
    assert summary(report)[2] == ("model file, bytes", "17,000", "5,000", "29.4%")
    fresh = phnnify.convert(nn.Sequential(nn.Linear(64, 64)), 4).report
    assert [row[0] for row in summary(fresh)] == ["parameters", "converted part"]


def named(name: str) -> Report:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(64, 64))
    return phnnify.convert(model, 4).report


def test_markdown_tables_have_as_many_cells_in_every_row() -> None:
    text = named("a|b").to_markdown()
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert any("a\\|b" in line for line in text.splitlines())
    assert {row.count("|") for row in rows} == {5, 6}
    assert "needs distillation" in text


class Text(HTMLParser):
    """Collects the text and the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_names_as_text_and_needs_no_other_file() -> None:
    page = named("<script>x</script>").to_html()
    parsed = Text(page)
    assert "script" not in parsed.tags
    assert "<script>x</script>" in parsed.text
    assert "needs distillation" in parsed.text
    assert "http" not in page


def test_the_way_of_a_distillation_is_in_every_form(report: Report) -> None:
    evaluation = Evaluation(Agreement(100, 0.9, 0.1, 0.2), Accuracy("top-1", 0.9, 0.85, 0.5))
    after = report.with_distillation(course({0: 0.5, 20: 0.86, 40: 0.85}), evaluation)
    assert after.notes[-1].startswith("Learned from the original for 40 steps")
    found = json.loads(after.to_json())
    assert found["distillation"]["best_step"] == 20
    assert found["distillation"]["history"][20]["metric"] == 0.86
    assert found["accuracy"] == {"metric": "top-1", "teacher": 0.9, "student": 0.85, "student_before": 0.5}
    markdown = after.to_markdown()
    assert "| 20 | 2.0 | 0.1429 | 1.0e-03 | 86.0% |" in markdown
    page = after.to_html()
    assert page.count("<svg") == 3
    assert ("  before its distillation", "", "50.0%", "") in summary(after)


def test_numbers_that_are_not_finite_are_null_in_json(report: Report) -> None:
    nothing = Evaluation(Agreement(10, 1.0, float("nan"), float("inf")), None)
    found = json.loads(replace(report, evaluation=nothing).to_json())
    assert found["agreement"] == {"samples": 10, "top1": 1.0, "kl": None, "relative_error": None}


def test_after_a_distillation_the_notes_are_of_the_last_evaluation(report: Report) -> None:
    agreement = Agreement(10, 1.0, float("nan"), 0.1)
    before, after = Evaluation(agreement, None, (0, 7)), Evaluation(agreement, None, (0, 2))
    first = replace(report, evaluation=before, notes=(*report.notes, *before.notes()))
    last = first.with_distillation(course({}), after)
    assert [note for note in last.notes if "not finite" in note] == list(after.notes())
