"""`phnnify convert --onnx`: what cannot be exported is told before the work, where that can be known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from phnnify import pipeline
from tests.networks import command


@pytest.mark.parametrize("given", ["--input", "--data"])
def test_a_network_in_bfloat16_is_refused_before_the_conversion(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "convert", pytest.fail)
    torch.save(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).bfloat16(), "net.pt")
    torch.save({"x": torch.randn(40, 64).bfloat16()}, "data.pt")
    what = "bfloat16:1x64" if given == "--input" else "data.pt"
    failed = command("convert", "net.pt", given, what, "--onnx", "net.onnx")
    assert failed.code == 1
    message, _, hint = failed.err.splitlines()
    assert message == "error: layer 0 computes in bfloat16, which ONNX Runtime cannot run"
    assert "convert the network in float32, after .float()" in hint
    assert {path.name for path in tmp_path.iterdir()} == {"net.pt", "data.pt"}
