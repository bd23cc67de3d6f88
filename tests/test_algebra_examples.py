"""The examples about algebras run, and find what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_rules_of_multiplication_are_learned_from_examples(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "algebra" / "learn_the_rule.py"), str(tmp_path / "rule.svg")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(.+): residual (\S+), loss", out)
    assert [name for name, _ in found] == [
        "Hamilton's product, layer",
        "cross product, layer",
        "Hamilton's product, convolution",
    ]
    assert all(float(residual) < 1e-3 for _, residual in found)
    assert "nearest to Hamilton's" in (tmp_path / "rule.svg").read_text()


@pytest.mark.slow
@pytest.mark.assets
def test_networks_are_trained_from_scratch(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHNNIFY_RESULTS", str(tmp_path))
    script = EXAMPLES / "benchmarks" / "from_scratch_table.py"
    command = [sys.executable, str(script), str(assets), "2", "quaternion", "PHM, n = 3"]
    tables = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert tables[0] == tables[1]  # the second comes from what the first kept
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables[0].splitlines()[2:]]
    assert [row[0] for row in rows] == ["quaternion", "PHM, n = 3"]
    sizes = [int(row[1].replace(",", "")) / 173_986 for row in rows]
    assert sizes == pytest.approx([1 / 4, 1 / 3], abs=0.02)
    assert len((tmp_path / "from_scratch_table.jsonl").read_text().splitlines()) == 6
