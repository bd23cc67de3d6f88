"""Benchmark scripts run to their end, in a short form; what they print is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
MLP = "mnist_mlp_6_200"


def printed(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("distill_table.py", ["ASSETS", f"{MLP}:8:4"], f"| {MLP} | 8 | SVD, data |"),
        ("budget_distilled.py", ["ASSETS", f"{MLP}:8:4:1"], f"| {MLP} | 8 | budget |"),
        ("recipe_table.py", [MLP, 4, "average=0"], "| average=0 |"),
        ("ten_minutes.py", [MLP, 4, 0.02], "of original, converted, distilled"),
        ("step_cost.py", [MLP, 1], "| bf16 |"),
        ("stages_table.py", [MLP, 4, 0.5], f"| {MLP} | 4 | 2 |"),
        ("channel_order.py", [MLP, 4, 4], "all: "),
        ("networks_speed.py", [f"{MLP}:4/2:1"], f"| {MLP} | 4/2 | 1 |"),
        ("quantize_table.py", ["ASSETS", MLP], f"| {MLP} | n = 4 | int8, calibrated |"),
        ("further_forms.py", ["ASSETS", MLP, 8], "| sum |"),
    ],
)
def test_a_script_prints_its_table(
    script: str,
    arguments: list[object],
    words: str,
    assets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHNNIFY_RESULTS", str(tmp_path))  # nothing is finished there
    assert words in printed(script, *(assets if given == "ASSETS" else given for given in arguments))


@pytest.mark.slow
def test_the_forms_of_one_layer_are_timed_beside_what_the_cost_model_predicts() -> None:
    table = printed("forms_table.py", 64, 128, 4, 1)
    assert "| 64×128 | 4 | 1 | ONNX Runtime |" in table
    assert "| 64×128 | 4 | 1 | PyTorch |" in table
    assert "| 64 → 64, 3, 1, 7 | 1 |" in printed("convolutions_table.py", 2, 1, "64,64,3,1,7")


@pytest.mark.slow
def test_a_checkpoint_is_made_and_streamed(tmp_path: Path) -> None:
    assert "0.12 GB | 0.03 GB | 1 |" in printed("shards.py", 0.05, 1, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_coverage_table_has_a_row_for_each_network_asked_for() -> None:
    table = printed("coverage_table.py", "nn.LSTM")
    assert table.count("\n|") >= 2
