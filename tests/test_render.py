"""What a person sees in the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from torch import nn

import phnnify
from phnnify import render
from phnnify.change import Change
from phnnify.errors import ModelError
from phnnify.export import OnnxFile
from phnnify.report import Report


@pytest.fixture
def report() -> Report:
    model = nn.Sequential()
    model.add_module("a_layer_with_a_very_long_name_that_nobody_would_choose", nn.Linear(4096, 512))
    model.add_module("table", nn.Embedding(4096, 64))
    model.add_module("b", nn.Linear(512, 4096))
    onnx = OnnxFile(
        "some/folder/small.onnx", 5_000_000, 4_800_000, 1e-6, 2e-7, 18, (2, 3), ("int64:1x?12",), None
    )
    return phnnify.convert(model, 4).report.with_files(Change(17_000_000, 5_000_000), onnx)


def shown(report: Report) -> str:
    console = Console(record=True, width=80, file=io.StringIO())
    render.show_report(report, console)
    return console.export_text()


def test_a_report_fits_80_columns_and_shows_every_layer_and_reason(report: Report) -> None:
    text = shown(report)
    assert max(map(len, text.splitlines())) <= 80
    squeezed = text.replace("\n", "").replace(" ", "")
    assert "--embeddingsconvertsit" in squeezed
    assert "a_layer_with_a_very_long" in text
    for cell in ("512×4096", "2,097,152", "524,352", "29.4%", "5,000,000", "ONNX file"):
        assert cell in text
    assert "note: Fitted to the weights alone" in text
    assert "any batch size, any size of the axes marked in int64:1x?12" in " ".join(text.split())


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    model = nn.Sequential()
    model.add_module("[red]x[/red]", nn.Linear(64, 64))
    assert "[red]x[/red]" in shown(phnnify.convert(model, 4).report)


def test_a_fixed_batch_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_onnx(OnnxFile("x.onnx", 1, 1, 0.0, 0.0, 18, (1,), ("1x8",), None))
    out, err = capsys.readouterr()
    assert "batch size fixed at 1 by the network" in out
    assert err == ""


def test_an_error_goes_to_stderr_with_its_hint_after_a_blank_line(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_error(ModelError("it does [not] fit" + " at all" * 20, hint="try another"))
    render.show_error(ModelError("no hint"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: it does [not] fit" + " at all" * 20, "", "hint: try another", "error: no hint",
    ]  # fmt: skip


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_silent_without_a_terminal(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with render.progress(quiet=quiet) as watch:
        watch("reading", 0, 0)
        watch("fitting", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_moves_from_a_known_to_an_unknown_total(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(render, "Console", lambda **options: terminal)
    with render.progress(quiet=False) as watch:
        watch("fitting a layer", 1, 2)
        watch("exporting", 0, 0)
        watch("a description that is far too long to fit into its column", 0, 0)
    assert "exporting" in screen.getvalue() or "a description that is far" in screen.getvalue()
    assert "into its column" not in screen.getvalue()


def test_long_names_break_at_dots() -> None:
    assert render._broken("bert.encoder.layer.11.attention.self.query") == (
        "bert.encoder.layer.11.\nattention.self.query"
    )
    assert render._broken("conv1") == "conv1"
    assert render._broken("") == ""
