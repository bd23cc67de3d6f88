"""Small ONNX graphs, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from phnnify.runtime import open_session

Array = np.ndarray[Any, np.dtype[Any]]


def draw(*shape: int, seed: int = 0) -> Array:
    """Normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], shape: Sequence[int | str]
) -> onnx.ModelProto:
    """A model from x, of a shape, to y, of as many axes."""
    sizes = [f"size {axis}" for axis in range(len(shape))]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def output(model: onnx.ModelProto, x: Array) -> Array:
    """What ONNX Runtime computes, once the file passes the checker."""
    onnx.checker.check_model(model)
    found: Array = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    return found


def composed_conv() -> onnx.ModelProto:
    """A convolution of 32 channels whose weight is multiplied out of factors, and its normalization."""
    nodes = [
        helper.make_node("MatMul", ["A", "S"], ["blocks"]),
        helper.make_node("Reshape", ["blocks", "shape"], ["W"]),
        helper.make_node("Conv", ["x", "W", "bias"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c", *"gbmv"], ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = {
        "A": draw(8, 2), "S": draw(2, 4 * 32 * 9, seed=1), "shape": np.array([32, 32, 3, 3]),
        "bias": draw(32), "g": draw(32, seed=2), "b": draw(32, seed=3), "m": draw(32, seed=4),
        "v": np.abs(draw(32, seed=5)) + 0.1,
    }  # fmt: skip
    return graph(nodes, constants, ["batch", 32, 6, 6])


def branching() -> onnx.ModelProto:
    """A graph with branches that read a constant outside, and a constant that nothing reads."""
    result = helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])
    branch = helper.make_graph([helper.make_node("Add", ["x", "inner"], ["b"])], "branch", [], [result])
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    return graph([node], {"yes": np.array(True), "inner": draw(3), "lost": draw(3)}, [3])
