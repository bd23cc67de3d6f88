"""Gemm taken apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from phnnify.quantizing.gemm import open_gemms
from tests.onnx_graphs import draw, graph, output


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("inputs", [["x", "W", "b"], ["x", "W"], ["x", "W", ""]])
def test_the_parts_compute_the_same(transposed: int, inputs: list[str]) -> None:
    W = draw(5, 4) if transposed else draw(4, 5)
    node = helper.make_node("Gemm", inputs, ["y"], transB=transposed)
    model = graph([node], {"W": W, "b": draw(5, seed=1)}, [3, 4])
    x = draw(3, 4, seed=2)
    wanted = output(model, x)
    open_gemms(model)
    assert "Gemm" not in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(output(model, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_does_more_stays(attributes: dict[str, Any]) -> None:
    model = graph([helper.make_node("Gemm", ["x", "W", "b"], ["y"], **attributes)], {}, [4, 4])
    open_gemms(model)
    assert [node.op_type for node in model.graph.node] == ["Gemm"]
