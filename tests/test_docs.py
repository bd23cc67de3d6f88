"""Documentation executes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import phnnify
from phnnify.archive import read_content

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_reference_is_what_help_says() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "make_commands.py", "--check"], check=True)


def test_the_page_of_files_names_every_file_with_its_own_first_line() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "make_structure.py", "--check"], check=True)


def test_the_readmes_first_command_converts_the_digits(tmp_path: Path) -> None:
    (line,) = [line for line in README.splitlines() if "pip install . &&" in line]
    command = shlex.split(line.split("&&")[-1])
    assert command[0] == ".venv/bin/phnnify"
    arguments = [str(ROOT / part) if part.startswith("examples/") else part for part in command[1:]]
    subprocess.run([sys.executable, "-m", "phnnify", *arguments, "--quiet"], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model-n4.pt", "digits-n4.onnx"}
    x = np.load(ROOT / "examples" / "digits" / "test.npz")["x"]
    small = phnnify.load(tmp_path / "model-n4.pt")
    (got,) = onnxruntime.InferenceSession(tmp_path / "digits-n4.onnx").run(None, {"input": x})
    np.testing.assert_allclose(got, small(torch.from_numpy(x)).detach().numpy(), rtol=1e-3, atol=1e-4)


def test_the_digits_network_classifies_its_test_images() -> None:
    data = np.load(ROOT / "examples" / "digits" / "test.npz")
    model = read_content(ROOT / "examples" / "digits" / "model.pt").module
    assert model is not None
    with torch.no_grad():
        predicted = model(torch.from_numpy(data["x"])).argmax(1).numpy()
    assert (predicted == data["y"]).mean() > 0.98


def test_links_in_the_readme_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 2
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_speed_of_fits_is_measured() -> None:
    assert "ns per parameter" in output_of(ROOT / "examples" / "benchmarks" / "fit_speed.py", "--quick")


@pytest.mark.slow
@pytest.mark.assets
def test_the_table_of_the_assets_can_be_made(assets: Path) -> None:
    table = output_of(ROOT / "examples" / "benchmarks" / "assets_table.py", assets, "mnist_mlp_6_200")
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [row[1].strip() for row in rows] == ["2", "4", "8"]
    assert rows[0][6].strip() == "95.6%"


@pytest.mark.slow
@pytest.mark.assets
def test_the_table_of_fits_can_be_made_and_its_order_is_the_readmes(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHNNIFY_RESULTS", str(tmp_path))  # nothing is finished there
    table = output_of(ROOT / "examples" / "benchmarks" / "fit_table.py", assets, "mnist_mlp_6_200")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    top1 = {(row[1], row[2]): float(row[4].split("%")[0]) for row in rows}
    for n in "248":
        assert top1[n, "sequential"] > top1[n, "closed form"] + 30
        assert top1[n, "sequential"] > top1[n, "independent"]
        assert top1[n, "auto"] > max(top1[n, "sequential"], top1[n, "SVD, data"])
    assert top1["4", "budget"] >= top1["4", "auto"] - 0.3
    assert len((tmp_path / "fit_table.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.slow
def test_the_digits_network_can_be_trained_again(tmp_path: Path) -> None:
    script = Path(shutil.copy(ROOT / "examples" / "digits" / "train.py", tmp_path))
    accuracy = re.search(r"parameters, ([\d.]+)% of 360", output_of(script))
    assert accuracy is not None
    assert float(accuracy[1]) > 98
    assert read_content(tmp_path / "model.pt").module is not None


def output_of(*command: object) -> str:
    """What a script prints."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout
