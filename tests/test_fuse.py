"""BatchNormalization inside a convolution."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from phnnify.quantizing.fuse import fold_norms
from tests.onnx_graphs import composed_conv, draw, graph, output


@pytest.mark.parametrize("biased", [True, False])
def test_the_convolution_takes_the_normalization_over_and_computes_the_same(biased: bool) -> None:
    model, x = composed_conv(), draw(2, 32, 6, 6)
    if not biased:
        del model.graph.node[2].input[2:]
    wanted = output(model, x)
    fold_norms(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Reshape", "Mul", "Conv", "Relu"]
    np.testing.assert_allclose(output(model, x), wanted, rtol=1e-3, atol=1e-3)
    assert not {*"gbmv"} & {t.name for t in model.graph.initializer}


def unfoldable(name: str) -> onnx.ModelProto:
    model = composed_conv()
    if name == "another reads the convolution":
        model.graph.node[4].CopyFrom(helper.make_node("Add", ["n", "c"], ["y"]))
    elif name == "its numbers are computed":
        model.graph.node.insert(0, helper.make_node("Identity", ["g"], ["computed"]))
        model.graph.node[4].input[1] = "computed"
    else:
        nodes = [helper.make_node("BatchNormalization", ["x", *"abcd"], ["y"])]
        constants = {name: np.abs(draw(3)) for name in "abcd"}
        return graph(nodes, constants, [2, 3, 4, 4])
    return model


@pytest.mark.parametrize(
    "name", ["another reads the convolution", "its numbers are computed", "no convolution"]
)
def test_where_it_does_not_hold_nothing_changes(name: str) -> None:
    model = unfoldable(name)
    before = [node.op_type for node in model.graph.node]
    fold_norms(model)
    assert [node.op_type for node in model.graph.node] == before
