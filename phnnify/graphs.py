"""ONNX graphs without waste: what the exporter writes, tidied.

- What only arranges the numbers of one tensor anew (Transpose, Reshape) is done on the tensor itself, so that
  weights are stored as the product reads them. What multiplies factors out is left to the runtime, which does
  it once as it loads the file: done here it would store n times the numbers.
- A Reshape to a shape that is computed while the network runs gets a constant one where that says the same:
  0 for an axis that stays, -1 for one that does not. Batch and sequence stay dynamic, and nothing computes
  their sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxscript import ir

_FOLD_LIMIT = 8  # the optimizer computes ahead only from tensors of so few entries: shapes, not factors
_FOLDED_LIMIT = 1024  # and only what has so few: no masks


def tidy_(graph: ir.Model) -> None:
    """Tidy a graph in place."""
    import onnxscript.optimizer
    from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass, RemoveUnusedNodesPass

    for node in graph.graph:
        if node.op_type == "Reshape":
            _fix_shape_(graph.graph, node)
    onnxscript.optimizer.optimize_ir(
        graph, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLDED_LIMIT, should_fold=_only_arranges
    )
    RemoveUnusedNodesPass()(graph)
    # Stack traces: half of a small file, and the paths of this machine in it.
    ClearMetadataAndDocStringPass()(graph)


def _only_arranges(node: ir.Node) -> bool | None:
    """Whether the optimizer must compute the node where it can, whatever its size; None as it likes."""
    return True if node.op_type in ("Reshape", "Transpose") else None


def _fix_shape_(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Reshape a constant shape, if one says the same."""
    from onnxscript import ir

    given, wanted = node.inputs[0], node.inputs[1]
    after = node.outputs[0].shape
    if given is None or wanted is None or given.shape is None or after is None or wanted.producer() is None:
        return
    sizes = [
        size if isinstance(size, int) else 0 if i < len(given.shape) and size == given.shape[i] else -1
        for i, size in enumerate(after)
    ]
    if sizes.count(-1) > 1 or 0 in [size for size in after if isinstance(size, int)]:
        return
    constant = ir.Value(
        name=f"{node.outputs[0].name}/shape", const_value=ir.tensor(sizes, dtype=ir.DataType.INT64)
    )
    graph.register_initializer(constant)
    node.replace_input_with(1, constant)
    node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
