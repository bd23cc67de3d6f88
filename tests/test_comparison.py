"""What was found about two networks, in every form."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from phnnify import render
from phnnify.change import Change
from phnnify.comparing.comparison import Comparison, EngineCosts
from phnnify.comparing.verdict import judge
from phnnify.errors import ModelError
from tests.compared import judged, times

BASE = Comparison(
    names=("net.pt", "net-n4.pt"),
    params=Change(1000, 260),
    bytes=Change(4000, 1100),
    engines=(
        EngineCosts("PyTorch", Change(), Change(0.2, 0.1), Change(8_000_000, 2_000_000)),
        EngineCosts("torch.compile", reason="there is no C++ compiler"),
        EngineCosts("ONNX Runtime", Change(4100, 1200), Change(0.05, 0.06), Change(9_000_000, None)),
    ),
    latency=(
        times("PyTorch", 1, 2e-3, 2.0),
        times("PyTorch", 8, 4e-3, 1.0),
        times("ONNX Runtime", 1, 1e-4, 3.0),
        times("ONNX Runtime", 8, 3e-4, 1.1),
    ),
    evaluation=judged(0.9, 0.897),
    threads=2,
    notes=("torch.compile: not measured: there is no C++ compiler",),
)


def test_the_verdict_is_that_on_its_file_its_speed_and_its_answers() -> None:
    assert BASE.verdict == judge(4000 / 1100, BASE.latency, BASE.evaluation)
    assert BASE.words == BASE.verdict.words("net.pt", "net-n4.pt")


def test_without_data_the_verdict_says_that_answers_were_not_compared() -> None:
    assert replace(BASE, evaluation=None).words.endswith("was not compared: that needs --data.")


def test_the_json_form_has_the_reports_keys_and_null_for_what_was_not_measured() -> None:
    found = json.loads(BASE.to_json())
    assert found["params"] == {"before": 1000, "after": 260}
    assert found["bytes"] == {"before": 4000, "after": 1100}
    assert found["accuracy"]["student"] == 0.897
    assert found["agreement"]["top1"] == 0.9
    assert found["latency"][2]["engine"] == "ONNX Runtime"
    assert found["latency"][2]["speedup"]["median"] == 3.0
    assert found["latency"][2]["outcome"] == "faster"
    assert found["engines"][2]["peak_bytes"] == {"before": 9e6, "after": None}
    assert found["engines"][1]["reason"] == "there is no C++ compiler"
    assert found["verdict"]["decision"] == "take"
    assert json.loads(replace(BASE, evaluation=None).to_json())["accuracy"] is None


def test_the_picture_has_a_curve_for_each_network_in_each_engine_and_faster_is_lower() -> None:
    svg = ElementTree.fromstring(BASE.to_svg())
    curves = [[point.split(",") for point in line.attrib["points"].split()] for line in svg.iter("polyline")]
    assert len(curves) == 4
    before, after = curves[2:]
    assert [x for x, _ in before] == [x for x, _ in after]
    assert all(float(b[1]) > float(a[1]) for a, b in zip(before, after, strict=True))
    words = [text.text or "" for text in svg.iter("text")]
    assert "ONNX Runtime, B" in words
    assert {"1", "8"} <= {*words}


def test_every_form_says_the_verdict_and_the_notes() -> None:
    for text in (BASE.to_markdown(), BASE.to_html()):
        assert "Take B (net-n4.pt)" in text
        assert "there is no C++ compiler" in text
        assert "3.00 (2.97, 3.03)" in text
    assert BASE.to_html().count("<svg") == 1
    assert "http" not in BASE.to_html()
    nothing = replace(BASE, latency=())
    assert "<svg" not in nothing.to_html()
    with pytest.raises(ModelError, match="nothing was timed"):
        nothing.to_svg()


def test_the_terminal_shows_it_in_80_columns() -> None:
    slow = times("torch.compile", 64, 0.0123, 0.51)
    wide = replace(BASE, latency=(*BASE.latency, slow), bytes=Change(4_123_456_789, 1_123_456_789))
    console = Console(record=True, width=80, file=io.StringIO())
    render.show_comparison(wide, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for cell in ("A: net.pt", "4,123,456,789", "27.2%", "89.7%", "slower", "0.51 (0.50, 0.52)", "verdict: "):
        assert cell in text


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    strange = replace(BASE, latency=(times("PyTorch", 1, float("inf"), 1.0),))
    assert json.loads(strange.to_json())["latency"][0]["before"]["median"] is None
