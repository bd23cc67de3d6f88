"""What an ONNX graph computes from constants alone."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from phnnify.quantizing.initializers import drop_unused, put_back, renamed, split
from tests.onnx_graphs import branching, composed_conv, draw, graph, output


def test_a_weight_made_of_factors_becomes_a_value_and_the_graph_computes_the_same() -> None:
    model, x = composed_conv(), draw(2, 32, 6, 6)
    dense, recipe = split(model)
    W = {t.name: numpy_helper.to_array(t) for t in dense.graph.initializer}["W"]
    factors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_allclose(W, (factors["A"] @ factors["S"]).reshape(32, 32, 3, 3), rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in dense.graph.node] == ["Conv", "BatchNormalization", "Relu"]
    assert "S" not in {t.name for t in dense.graph.initializer}
    np.testing.assert_allclose(output(dense, x), output(model, x), rtol=1e-4, atol=1e-4)
    assert recipe.grows("W")


def test_a_weight_put_back_is_made_of_its_factors_again() -> None:
    model, x = composed_conv(), draw(2, 32, 6, 6)
    dense, recipe = split(model)
    nodes, constants = recipe.behind(["W"])
    assert [node.op_type for node in nodes] == ["MatMul", "Reshape"]
    assert {tensor.name for tensor in constants} == {"A", "S", "shape"}
    put_back(dense, nodes, {tensor.name: tensor for tensor in constants})
    assert "W" not in {t.name for t in dense.graph.initializer}
    np.testing.assert_allclose(output(dense, x), output(model, x), rtol=1e-4, atol=1e-4)


def test_another_layout_of_the_same_numbers_does_not_grow() -> None:
    nodes = [
        helper.make_node("Transpose", ["W"], ["V"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "V"], ["y"]),
    ]
    _, recipe = split(graph(nodes, {"W": draw(5, 4)}, [3, 4]))
    assert not recipe.grows("V")
    np.testing.assert_array_equal(recipe.values["V"], draw(5, 4).T)


def test_what_is_drawn_or_depends_on_the_input_is_no_constant() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["c"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["z"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["z", "s"], ["y"]),
    ]
    dense, recipe = split(graph(nodes, {"c": draw(3, 4)}, [3, 4]))
    assert not recipe.values
    assert len(dense.graph.node) == 4


def test_unused_constants_are_dropped_and_those_of_branches_are_not() -> None:
    model = branching()
    drop_unused(model)
    assert {t.name for t in model.graph.initializer} == {"yes", "inner"}
    dense, recipe = split(model)  # a branch reads what it likes: never computed ahead
    assert not recipe.nodes
    assert len(dense.graph.node) == 1


def test_a_renamed_node_is_a_copy() -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    assert [*renamed(node, "a", "z").input] == ["z", "b"]
    assert [*renamed(node, "c", "z").output] == ["z"]
    assert [*node.input, *node.output] == ["a", "b", "c"]
