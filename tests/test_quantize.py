"""ONNX files in smaller numbers."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from phnnify.batches import Batch
from phnnify.errors import ExportError, UsageError
from phnnify.quantizing.quantize import quantize_onnx
from phnnify.runtime import open_session
from tests.onnx_graphs import Array, composed_conv, draw, graph, output

X = draw(16, 32, 6, 6, seed=7)
CALIBRATION = [Batch((torch.from_numpy(X),))]
WAYS = {"fp16": ("fp16", []), "int8": ("int8", []), "int8, calibrated": ("int8", CALIBRATION)}
ways = pytest.mark.parametrize("way", WAYS)


def product() -> onnx.ModelProto:
    """Two dense layers, the first of factors, the second plain, and one too small to matter."""
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["A", "S"], ["blocks"]),
        make("Reshape", ["blocks", "shape"], ["W"]),
        make("Gemm", ["x", "W", "b"], ["h"], transB=1),
        make("Relu", ["h"], ["r"]),
        make("MatMul", ["r", "V"], ["p"]),
        make("MatMul", ["p", "few"], ["y"]),
    ]
    constants = {
        "A": draw(8, 2), "S": draw(2, 8 * 64, seed=1), "shape": np.array([64, 64]), "b": draw(64, seed=2),
        "V": draw(64, 64, seed=3), "few": draw(64, 4, seed=4),
    }  # fmt: skip
    return graph(nodes, constants, ["batch", 64])


def quantized(model: onnx.ModelProto, way: str, folder: Path, data: list[Batch]) -> onnx.ModelProto:
    onnx.save(model, folder / "source.onnx")
    kind, calibrated = WAYS[way]
    quantize_onnx(folder / "source.onnx", folder / "target.onnx", kind, data if calibrated else ())
    return onnx.load(folder / "target.onnx")


def run(path: Path, folder: Path) -> Counter[str]:
    """What ONNX Runtime really computes at each call."""
    open_session(path, optimized=folder / "run.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "run.onnx").graph.node)


def error(model: onnx.ModelProto, other: onnx.ModelProto, x: Array) -> float:
    wanted = output(model, x).astype(np.float64)
    return float(np.linalg.norm(output(other, x) - wanted) / np.linalg.norm(wanted))


@ways
@pytest.mark.parametrize("make", [composed_conv, product])
def test_the_file_shrinks_and_answers_nearly_the_same(make: object, way: str, tmp_path: Path) -> None:
    model = composed_conv() if make is composed_conv else product()
    x = X if make is composed_conv else draw(16, 64, seed=8)
    small = quantized(model, way, tmp_path, [Batch((torch.from_numpy(x),))])
    assert error(model, small, x) < (2e-3 if way == "fp16" else 0.03)
    factor = 1.7 if way == "fp16" else 2.4  # scales and nodes weigh much in graphs as small as these
    assert small.ByteSize() < model.ByteSize() / factor
    assert [value.name for value in (*small.graph.input, *small.graph.output)] == ["x", "y"]


@ways
def test_the_file_holds_factors_and_the_runtime_multiplies_them_out_when_it_loads(
    way: str, tmp_path: Path
) -> None:
    small = quantized(composed_conv(), way, tmp_path, CALIBRATION)
    assert max(np.prod(t.dims) for t in small.graph.initializer) == 2 * 4 * 32 * 9  # S
    found = run(tmp_path / "target.onnx", tmp_path)
    assert not {"MatMul", "Reshape", "BatchNormalization", "Mul"} & found.keys()
    assert found["QLinearConv" if way == "int8, calibrated" else "Conv"] == 1


def test_matrix_products_compute_in_whole_numbers_with_ranges_found_at_each_call(tmp_path: Path) -> None:
    quantized(product(), "int8", tmp_path, [])
    found = run(tmp_path / "target.onnx", tmp_path)
    assert found["DynamicQuantizeMatMul"] == 2
    assert found["MatMul"] == 1  # the small one
    assert set(found) == {"DynamicQuantizeMatMul", "MatMul", "Relu"}


def test_calibrated_products_compute_in_whole_numbers(tmp_path: Path) -> None:
    quantized(product(), "int8, calibrated", tmp_path, [Batch((torch.from_numpy(draw(16, 64)),))])
    found = run(tmp_path / "target.onnx", tmp_path)
    assert found["QGemm"] == 1
    assert found["QLinearMatMul"] == 1
    assert not {"MatMulInteger", "Gemm"} & found.keys()


def test_a_file_of_one_batch_size_is_calibrated_in_batches_of_it(tmp_path: Path) -> None:
    model = product()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    data = [Batch((torch.from_numpy(draw(8, 64)),))]
    small = quantized(model, "int8, calibrated", tmp_path, data)
    assert error(model, small, draw(8, 64)[3:6]) < 0.05


def test_factors_that_a_product_reads_too_are_stored_in_both_precisions(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("MatMul", ["A", "S"], ["blocks"]),
        make("Reshape", ["blocks", "shape"], ["W"]),
        make("MatMul", ["x", "W"], ["h"]),
        make("Gemm", ["h", "S"], ["y"], transB=1),  # S again
    ]
    constants = {"A": draw(8, 2), "S": draw(2, 512, seed=1), "shape": np.array([8, 512])}
    for way in ("fp16", "int8"):
        model = graph(nodes, constants, [4, 8])
        assert error(model, quantized(model, way, tmp_path, []), draw(4, 8, seed=2)) < 0.05


@ways
def test_quantizing_twice_gives_the_same_bytes(way: str, tmp_path: Path) -> None:
    first = quantized(composed_conv(), way, tmp_path, CALIBRATION)
    assert quantized(composed_conv(), way, tmp_path, CALIBRATION) == first


def test_nothing_is_said_and_no_logger_is_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.root.manager.disable
    for way in WAYS:
        quantized(composed_conv(), way, tmp_path, CALIBRATION)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int4' is unknown"):
        quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", "int4")


def test_what_cannot_be_quantized_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="ONNX Runtime cannot quantize the file"):
        quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_weight_on_the_left_of_a_product_is_stored_small_and_whole_at_run_time(tmp_path: Path) -> None:
    model = graph([onnx.helper.make_node("MatMul", ["V", "x"], ["y"])], {"V": draw(64, 64)}, [64, 5])
    x = draw(64, 5, seed=1)
    small = quantized(model, "int8, calibrated", tmp_path, [Batch((torch.from_numpy(x),))])
    assert error(model, small, x) < 0.02
    assert small.ByteSize() < model.ByteSize() / 3
    assert run(tmp_path / "target.onnx", tmp_path) == {"MatMul": 1}
