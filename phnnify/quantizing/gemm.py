"""Gemm as MatMul and Add, in an ONNX graph: ONNX Runtime's dynamic quantizer knows only these.

Gemm(x, W, b) = x·Wᵀ + b, with transB = 1 and factors of 1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def open_gemms(model: onnx.ModelProto) -> None:
    """Take each Gemm apart, in place; those that scale or transpose their first input stay."""
    nodes = [part for node in model.graph.node for part in _parts(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _parts(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    import onnx

    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type != "Gemm" or given.get("transA") or {given.get("alpha", 1), given.get("beta", 1)} != {1}:
        return [node]
    make, output = onnx.helper.make_node, node.output[0]
    parts, weight = [], node.input[1]
    if given.get("transB"):
        weight = f"{output} weight"
        parts.append(make("Transpose", [node.input[1]], [weight], perm=[1, 0]))
    biased = len(node.input) > 2 and node.input[2]
    product = f"{output} product" if biased else output
    parts.append(make("MatMul", [node.input[0], weight], [product]))
    if biased:
        parts.append(make("Add", [product, node.input[2]], [output]))
    return parts
