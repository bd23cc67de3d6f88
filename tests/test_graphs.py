"""ONNX graphs without waste, as ONNX Runtime's own optimizer leaves them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
from torch import nn

from phnnify.algebra import Order
from phnnify.export import export_onnx
from phnnify.layers import PHMConv2d, PHMEmbedding, PHMLayer, PHMLinear

FILTERS_FIRST = Order(24, 4, 3)
ARRANGING = {"Shape", "Concat", "Gather", "Transpose", "Einsum", "Expand", "Squeeze", "Unsqueeze", "Slice"}


def operators(path: Path) -> Counter[str]:
    """Of the graph that ONNX Runtime runs, without the changes of memory layout of its convolutions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return Counter(n.op_type for n in nodes if n.domain != "com.microsoft.nchwc" or n.op_type == "Conv")


FACTORED: dict[str, tuple[PHMLayer, str, dict[str, int]]] = {
    "algebra first": (PHMLinear(16, 24, n=4), "1x16", {"MatMul": 2, "Reshape": 3, "Add": 1}),
    "sequences": (PHMLinear(16, 24, n=4), "1x?5x16", {"MatMul": 2, "Reshape": 3, "Add": 1}),
    "no bias": (PHMLinear(16, 24, False, n=4), "1x?5x16", {"MatMul": 2, "Reshape": 3}),
    "filters first": (PHMLinear(16, 24, n=FILTERS_FIRST), "1x?5x16", {"MatMul": 2, "Reshape": 3, "Add": 1}),
    "low rank": (PHMLinear(16, 24, n=Order.low_rank(3)), "1x16", {"Gemm": 2}),
    "both": (PHMLinear(16, 24, n=Order(4, 4, 2, 3)), "1x16",
        {"Gemm": 2, "MatMul": 2, "Reshape": 3, "Add": 1}),
    "convolution": (PHMConv2d(16, 24, 3, n=Order(4, 4, 2)), "1x16x8x8",
        {"Conv": 1, "MatMul": 1, "Reshape": 3, "Add": 1}),
    "convolution, algebra first": (PHMConv2d(16, 24, 3, n=Order(2, 4, 2)), "1x16x8x8",
        {"Conv": 1, "MatMul": 1, "Reshape": 3, "Add": 1}),
    "pointwise": (PHMConv2d(16, 24, 1, n=4), "1x16x8x8", {"Conv": 1, "MatMul": 1, "Reshape": 3, "Add": 1}),
    "convolution, low rank": (PHMConv2d(16, 24, 3, n=Order.low_rank(3)), "1x16x8x8", {"Conv": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTORED)
def test_the_factored_graph_is_two_products_and_nothing_computes_a_shape(case: str, tmp_path: Path) -> None:
    layer, spec, wanted = FACTORED[case]
    export_onnx(layer, tmp_path / "x.onnx", spec, form="factored")
    assert operators(tmp_path / "x.onnx") == wanted


@pytest.mark.parametrize("case", FACTORED)
def test_the_folded_graph_is_that_of_the_dense_layer_once_it_is_loaded(case: str, tmp_path: Path) -> None:
    layer, spec, _ = FACTORED[case]
    for form in ("folded", "dense"):
        export_onnx(layer, tmp_path / f"{form}.onnx", spec, form=form)
    assert operators(tmp_path / "folded.onnx") == operators(tmp_path / "dense.onnx")
    sizes = {form: (tmp_path / f"{form}.onnx").stat().st_size for form in ("folded", "dense")}
    stored = sum(i.raw_data.__len__() for i in onnx.load(tmp_path / "folded.onnx").graph.initializer)
    assert stored < sizes["dense"]


@pytest.mark.parametrize("case", FACTORED)
def test_weights_are_stored_as_the_product_reads_them(case: str, tmp_path: Path) -> None:
    layer, spec, _ = FACTORED[case]
    export_onnx(layer, tmp_path / "x.onnx", spec, form="factored")
    graph = onnx.load(tmp_path / "x.onnx").graph
    assert not {node.op_type for node in graph.node} & ARRANGING
    stored = {i.name for i in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            assert stored & set(node.input), "a product without a stored factor"


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("form", ["factored", "folded"])
def test_the_reference_evaluator_agrees_for_any_batch_and_length(
    form: Any, opset: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    orders = (4, FILTERS_FIRST, Order(4, 4, 2, 3))
    layers = [PHMLinear(16, 24, n=orders[0]), PHMLinear(24, 24, n=orders[1]), PHMLinear(24, 8, n=orders[2])]
    model = nn.Sequential(*layers).eval()
    export_onnx(model, tmp_path / "x.onnx", "1x?5x16", form=form, opset=opset)
    loaded = onnx.load(tmp_path / "x.onnx")
    assert [o.version for o in loaded.opset_import if not o.domain] == [opset]
    x = torch.randn(3, 7, 16)
    run = onnx.reference.ReferenceEvaluator(loaded).run
    got: Any = run(None, {loaded.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(got[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_table_gathers_and_multiplies_and_nothing_else_of_its_weight(tmp_path: Path) -> None:
    export_onnx(PHMEmbedding(20, 16, n=4), tmp_path / "x.onnx", "int64:1x?5")
    found = operators(tmp_path / "x.onnx")
    assert found["Gather"] == 2
    assert found["MatMul"] == 1
    assert not found.keys() & {"Einsum", "Transpose"}


def test_auto_expects_the_batch_that_it_is_told(tmp_path: Path) -> None:
    layer = PHMLinear(1024, 1024, n=4)
    for batch, products in ((1, {"MatMul": 2}), (4096, {"Gemm": 1})):
        export_onnx(layer, tmp_path / "x.onnx", "1x1024", batch=batch)
        found = operators(tmp_path / "x.onnx")
        assert {name: found[name] for name in products} == products
