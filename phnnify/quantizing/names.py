"""Short names for what flows inside an ONNX graph: in a small file they are several per cent of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def shorten_names(model: onnx.ModelProto) -> None:
    """Number all tensors, in place, but the inputs and outputs; nodes lose their names.

    A graph with branches or loops keeps its names: those inside see those outside.
    """
    graph = model.graph
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return
    fixed = {x.name for x in (*graph.input, *graph.output)} | {""}
    given = [t.name for t in graph.initializer] + [name for node in graph.node for name in node.output]
    numbers = (str(i) for i in range(len(given) + len(fixed)) if str(i) not in fixed)
    short = {name: name if name in fixed else next(numbers) for name in given}
    for tensor in graph.initializer:
        tensor.name = short[tensor.name]
    for node in graph.node:
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]
