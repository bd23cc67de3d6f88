"""The part of an ONNX graph that is computed from constants alone: taken out as values, and put back.

A converted network's file holds factors, and nodes that multiply them out; runtimes do that once, when they
load it. Tools that look for a layer's weight among the constants, such as quantizers, need the weight itself.
So: split the graph into what is computed from constants and the rest, give the rest its constants as values,
let the tool work, and put those nodes back whose result is larger than what it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from phnnify.runtime import open_session

if TYPE_CHECKING:
    import onnx

_RANDOM = ("Random", "Bernoulli", "Multinomial", "Dropout")

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Recipe:
    """How values are made from constants.

    Attributes:
        nodes: In order; they read constants and each other only.
        constants: By name, what they read.
        values: By name, what they make that the rest of the graph reads.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, onnx.TensorProto]
    values: Mapping[str, Array]

    def behind(self, names: Iterable[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes and constants that values are made from, in order."""
        needed, nodes = {*names}, []
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                nodes.append(node)
                needed |= {*node.input}
        return nodes[::-1], [self.constants[key] for key in sorted(needed & self.constants.keys())]

    def grows(self, name: str) -> bool:
        """Whether a value takes more bytes than all that it is made from."""
        from onnx import numpy_helper

        _, constants = self.behind([name])
        return self.values[name].nbytes > sum(numpy_helper.to_array(c).nbytes for c in constants)


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Recipe]:
    """A graph whose constants are all values, and the recipe of those that were computed.

    Raises:
        ExportError: ONNX Runtime cannot compute them.
    """
    import onnx
    from onnx import numpy_helper

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    names = set(known)
    inside: list[onnx.NodeProto] = []
    rest: list[onnx.NodeProto] = []
    for node in model.graph.node:
        constant = _is_computable(node) and {*node.input} - {""} <= names
        (inside if constant else rest).append(node)
        names |= {*node.output} if constant else set()
    read = {name for node in rest for name in _reads(node)} | {x.name for x in model.graph.output}
    wanted = [name for node in inside for name in node.output if name in read]
    recipe = Recipe(tuple(inside), known, _computed(model, inside, wanted))
    dense = onnx.ModelProto()
    dense.CopyFrom(model)
    del dense.graph.node[:], dense.graph.initializer[:]
    dense.graph.node.extend(rest)
    dense.graph.initializer.extend(known[name] for name in known if name in read)
    dense.graph.initializer.extend(numpy_helper.from_array(recipe.values[name], name) for name in wanted)
    return dense, recipe


def put_back(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], made: Mapping[str, Any]) -> None:
    """Compute constants in a graph instead of holding them.

    Args:
        model: It is changed.
        nodes: What computes them, in order.
        made: By name, the constants that the nodes read; those that they make are dropped.
    """
    outputs = {name for node in nodes for name in node.output}
    kept = [t for t in model.graph.initializer if t.name not in outputs and t.name not in made]
    others = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend([*kept, *made.values()])
    model.graph.node.extend([*nodes, *others])


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop constants that nothing reads, in place."""
    read = {name for node in model.graph.node for name in _reads(node)} | {x.name for x in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    """A node that reads and makes the same by another name."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        changed = [new if name == old else name for name in names]
        del names[:]
        names.extend(changed)
    return copy


def _is_computable(node: onnx.NodeProto) -> bool:
    """Whether a node gives the same each time, once its inputs are known."""
    return not node.op_type.startswith(_RANDOM) and not _inner(node)


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs of its branches and loops."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def _reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, also inside its branches and loops."""
    return {*node.input}.union(*(_reads(child) for graph in _inner(node) for child in graph.node))


def _computed(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: Sequence[str]
) -> dict[str, Array]:
    """The values of these names."""
    import onnx

    if not names:
        return {}
    graph = onnx.helper.make_graph(
        nodes, "constants", [], [onnx.ValueInfoProto(name=name) for name in names], model.graph.initializer
    )
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    alone.graph.CopyFrom(graph)
    return dict(zip(names, open_session(alone.SerializeToString()).run(None, {}), strict=True))
