"""Short names."""

from __future__ import annotations

import numpy as np
from onnx import helper

from phnnify.quantizing.names import shorten_names
from tests.onnx_graphs import branching, composed_conv, draw, graph, output


def test_the_graph_computes_the_same_in_fewer_bytes_by_the_same_inputs_and_outputs() -> None:
    model, x = composed_conv(), draw(1, 32, 6, 6)
    for node in model.graph.node:
        node.name = f"a long name of {node.op_type}"
    wanted, before = output(model, x), model.ByteSize()
    shorten_names(model)
    assert model.ByteSize() < before
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["x", "y"]
    np.testing.assert_array_equal(output(model, x), wanted)


def test_numbers_that_are_taken_are_not_given_again() -> None:
    nodes = [helper.make_node("Add", ["x", "c"], ["s"]), helper.make_node("Add", ["s", "c"], ["y"])]
    model = graph(nodes, {"c": draw(3)}, [3])
    model.graph.input[0].name = model.graph.node[0].input[0] = "0"
    shorten_names(model)
    assert [list(node.input) for node in model.graph.node] == [["0", "1"], ["2", "1"]]


def test_graphs_with_branches_keep_their_names() -> None:
    model = branching()
    shorten_names(model)
    assert model == branching()
