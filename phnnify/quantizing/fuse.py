"""BatchNormalization after a convolution becomes part of its weight and bias, in an ONNX graph.

    g = γ/sqrt(σ² + ε);  g·(W * x + b − μ) + β = (g·W) * x + (g·(b − μ) + β)

The weight may be computed from factors: the product with g is then a node more that is computed from
constants. Runtimes do the same in float32; a quantizer has to see it done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from phnnify.quantizing.initializers import Array, drop_unused

if TYPE_CHECKING:
    import onnx


def fold_norms(model: onnx.ModelProto) -> None:
    """Fold each BatchNormalization that alone reads a convolution, in place."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    reads = Counter(name for node in graph.node for name in node.input) + Counter(
        x.name for x in graph.output
    )
    makers = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv, nodes = makers.get(norm.input[0]), list(graph.node)
        if conv is None or conv.op_type != "Conv" or reads[conv.output[0]] > 1:
            continue
        names = [*norm.input[1:], *conv.input[2:]]
        if not {*names} <= constants.keys():
            continue
        gain, bias = _gain_and_bias(
            norm, {name: numpy_helper.to_array(constants[name]) for name in names}, conv
        )
        rank = _rank(conv)
        scaled = _scaled(conv, norm.output[0], gain.reshape(-1, *[1] * rank), bias, graph)
        place = nodes.index(conv)
        nodes[place : place + 1] = scaled
        nodes.remove(norm)
        del graph.node[:]
        graph.node.extend(nodes)
    drop_unused(model)


def _gain_and_bias(
    norm: onnx.NodeProto, values: Mapping[str, Array], conv: onnx.NodeProto
) -> tuple[Array, Array]:
    gamma, beta, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    gain = gamma / np.sqrt(variance + epsilon)
    before = values[conv.input[2]] if len(conv.input) > 2 else 0
    return gain.astype(np.float32), (gain * (before - mean) + beta).astype(np.float32)


def _rank(conv: onnx.NodeProto) -> int:
    """The axes of its weight after the first."""
    kernel = next(a.ints for a in conv.attribute if a.name == "kernel_shape")
    return len(kernel) + 1


def _scaled(
    conv: onnx.NodeProto, output: str, gain: Array, bias: Array, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """The nodes that take the convolution's place; their constants go into the graph."""
    import onnx
    from onnx import numpy_helper

    weight = conv.input[1]
    names = [f"{output} {part}" for part in ("gain", "bias", "weight")]
    graph.initializer.extend(
        [numpy_helper.from_array(gain, names[0]), numpy_helper.from_array(bias, names[1])]
    )
    fused = onnx.NodeProto()
    fused.CopyFrom(conv)
    del fused.input[:], fused.output[:]
    fused.input.extend([conv.input[0], names[2], names[1]])
    fused.output.append(output)
    return [onnx.helper.make_node("Mul", [weight, names[0]], [names[2]]), fused]
