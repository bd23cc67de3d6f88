"""`phnnify compare`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import phnnify
from tests.networks import ARCH, command, small


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original, two converted ones, and data with labels."""
    folder = tmp_path_factory.mktemp("compare")
    model = small()
    torch.save(model.state_dict(), folder / "a.pt")
    converted = phnnify.convert(model, 4, min_share=0).model
    phnnify.save(converted, folder / "b.safetensors")
    phnnify.export_onnx(model, folder / "a.onnx", "1x16")
    phnnify.export_onnx(converted, folder / "b.onnx", "1x16")
    rows = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    np.savez(folder / "d.npz", x=rows, y=np.arange(20) % 8)
    return folder


QUICK = ("--seconds", 0, "--batch", "1,2", "--threads", 1)


def test_two_files_are_compared_and_all_is_written(files: Path, tmp_path: Path) -> None:
    plot, page = tmp_path / "plot.svg", tmp_path / "page.html"
    done = command(
        "compare", files / "a.pt", files / "b.safetensors", "--arch", ARCH, "--data", files / "d.npz",
        "--in", "pytorch", "--plot", plot, "--report", page, *QUICK,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("A: a.pt", "B: b.safetensors", "PyTorch: peak memory", "verdict: ", "top-1"):
        assert word in done.out
    assert ElementTree.fromstring(plot.read_text()).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<svg" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"plot.svg", "page.html"}


def test_json_is_all_that_goes_to_stdout(files: Path) -> None:
    done = command("compare", files / "a.onnx", files / "b.onnx", "--in", "onnx", "--json", *QUICK)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert [row["batch"] for row in found["latency"]] == [1, 2]
    assert found["accuracy"] is None
    assert found["bytes"]["before"] == (files / "a.onnx").stat().st_size
    assert found["engines"][0]["load_seconds"]["before"] > 0


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--batch", "1,x"], "is not a list of sizes", 2),
        (["--batch", "0"], "is not a list of sizes", 2),
        (["--in", "tea"], "'tea' is unknown", 2),
        (["--plot", "x.png"], "cannot tell what to draw", 2),
        (["--arch", ARCH] * 3, "--arch was given 3 times", 2),
        ([], "holds weights only", 1),
    ],
)
def test_wrong_usage_is_refused_before_the_work(
    files: Path, arguments: list[str], message: str, code: int
) -> None:
    done = command("compare", files / "a.pt", files / "b.safetensors", "--input", "1x16", *arguments)
    assert done.code == code
    assert message in done.err
    assert done.out == ""


def test_a_picture_of_nothing_is_an_error(files: Path, tmp_path: Path) -> None:
    plot = tmp_path / "p.svg"
    done = command("compare", files / "a.onnx", files / "b.onnx", "--in", "pytorch", "--plot", plot)
    assert done.code == 1
    assert "nothing was timed" in done.err
    assert not plot.exists()
