"""Networks as ONNX files in smaller numbers, measured against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import phnnify
from phnnify.algebra import Order
from phnnify.batches import Batch
from phnnify.errors import ExportError, UsageError
from phnnify.layers import PHMConv2d
from phnnify.quantizing import quantized as module
from phnnify.quantizing.quantized import export_quantized
from phnnify.runtime import open_session
from tests.networks import ARCH, command, small

ROWS = torch.randn(64, 48, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 10, (64,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def test_what_smaller_numbers_cost_is_measured_against_pytorch(tmp_path: Path) -> None:
    model = network()
    batch = Batch((ROWS,), targets=LABELS)
    found = export_quantized(
        model, tmp_path / "x.onnx", "1x48", "int8", calibration=[Batch((ROWS[:32],))], data=[batch]
    )
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: ROWS.numpy()})[0])
    wanted = model(ROWS).detach()
    difference = (got - wanted).abs().max()
    assert found.max_abs_diff == pytest.approx(float(difference), rel=1e-4)
    assert found.max_rel_diff == pytest.approx(float(difference / wanted.abs().max()), rel=1e-4)
    assert found.evaluation.accuracy is not None
    assert found.evaluation.accuracy.student == (got.argmax(1) == LABELS).double().mean()
    assert found.evaluation.accuracy.teacher == (wanted.argmax(1) == LABELS).double().mean()
    assert 1e-4 < found.evaluation.agreement.relative_error < 0.05
    assert (found.kind, found.calibrated, found.measured_on) == ("int8", 32, "data")
    assert found.bytes == (tmp_path / "x.onnx").stat().st_size < found.float_bytes / 2.5
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_factors_and_int8_multiply(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    wide = phnnify.export_onnx(dense, tmp_path / "dense.onnx", "1x512")
    converted = phnnify.convert(dense, 4).model
    small = export_quantized(converted, tmp_path / "small.onnx", "1x512", "int8")
    assert small.bytes < wide.bytes / 14
    assert small.evaluation.agreement.relative_error < 0.03


def test_without_data_it_is_measured_on_random_inputs(tmp_path: Path) -> None:
    found = export_quantized(network(), tmp_path / "x.onnx", "1x48", "fp16")
    assert (found.measured_on, found.calibrated, found.evaluation.agreement.samples) == (
        "random inputs",
        0,
        32,
    )
    assert found.evaluation.agreement.relative_error < 2e-3


def test_the_kind_is_checked_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int3' is unknown"):
        export_quantized(network(), tmp_path / "none" / "x.onnx", "1x48", "int3")


def test_a_file_that_cannot_be_run_takes_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ExportError("it does not run")

    monkeypatch.setattr(module, "evaluate", refuse)
    (tmp_path / "x.onnx").write_text("what was there before")
    with pytest.raises(ExportError, match="it does not run"):
        export_quantized(network(), tmp_path / "x.onnx", "1x48", "int8")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_calibrated_convolutions_of_factors_compute_in_whole_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    order = Order(4, 4, 2)  # fewer terms: in float32 the factored form would win
    model = nn.Sequential(PHMConv2d(64, 64, 3, padding=1, n=order), nn.BatchNorm2d(64), nn.ReLU()).eval()
    batch = Batch((torch.randn(4, 64, 32, 32),))
    export_quantized(model, tmp_path / "x.onnx", "1x64x32x32", "int8", calibration=[batch])
    open_session(tmp_path / "x.onnx", optimized=tmp_path / "run.onnx")
    found = {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}
    assert "QLinearConv" in found
    assert not {"Conv", "MatMul", "BatchNormalization"} & found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A network of weights, and data with labels."""
    torch.save(small().state_dict(), tmp_path / "net.pt")
    rows = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=rows, y=np.arange(40) % 8)
    return tmp_path


def test_convert_writes_the_file_and_says_what_it_cost(files: Path) -> None:
    done = command(
        "convert", files / "net.pt", "--arch", ARCH, "--data", files / "d.npz", "--eval", files / "d.npz",
        "--min-share", 0, "-o", files / "c.safetensors", "--onnx", files / "c.onnx", "--quantize", "int8",
        "--json",
    )  # fmt: skip
    assert done.code == 0
    found = json.loads(done.out)["onnx"]
    assert (found["kind"], found["calibrated"], found["measured_on"]) == ("int8", 40, "data")
    assert found["bytes"] == (files / "c.onnx").stat().st_size
    assert found["evaluation"]["accuracy"]["metric"] == "top-1"


def test_export_says_it_in_words_and_takes_its_inputs_from_the_data(files: Path) -> None:
    done = command(
        "export", files / "net.pt", "--arch", ARCH, "--onnx", files / "x.onnx", "--quantize", "int8",
        "--data", files / "d.npz",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    for words in ("int8, ", "times smaller than in float32", "calibrated on 40 inputs", "top-1 accuracy is"):
        assert words in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--onnx", "x.onnx", "--quantize", "int4"], "'int4' is unknown"),
        (["--pt2", "x.pt2", "--quantize", "int8"], "--quantize needs --onnx"),
        (["--onnx", "x.onnx", "--data", "d.npz"], "--data and --eval need --quantize"),
    ],
)
def test_wrong_usage_is_refused(files: Path, arguments: list[str], message: str) -> None:
    done = command("export", files / "net.pt", "--arch", ARCH, *arguments)
    assert done.code == 2
    assert message in done.err
