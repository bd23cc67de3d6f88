"""Graphs of operators, as torch.export captures them, with layers where an operator is given a weight.

A captured graph reads its weights as tensors: `aten.linear(x, layer.weight, layer.bias)`. Here each such call
becomes the call of an `nn.Linear` that has these parameters, and likewise for convolutions, embeddings and
batch norms, so that the graph is a network like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from phnnify.opened.linear import linear_of

_Values = dict[str, Any]
_aten = torch.ops.aten
_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d,
}  # fmt: skip
_TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def with_layers(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The same graph with layers, sharing all tensors, in eval mode.

    Layers have the names of the modules in which the operators came about, where the graph knows and they are
    free.
    """
    root: Any = fx.GraphModule(graph_module, graph_module.graph)
    graph: fx.Graph = root.graph
    names: dict[tuple[str, ...], str] = {}
    for node in list(graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            graph.erase_node(node)
        make = _MAKERS.get(node.target) if node.op == "call_function" else None
        values = _values(root, node) if make else None
        if make is None or values is None:
            continue
        x = values.pop("indices" if "indices" in values else "input")
        values["axes"] = x.meta["val"].dim() if "val" in x.meta else None
        key = (str(node.target), *(str(id(v)) if isinstance(v, Tensor) else str(v) for v in values.values()))
        if key not in names:
            layer = make(values)
            if layer is None:
                continue
            names[key] = _free_name(root, node, set(names.values()) | _hidden(root, node, layer))
            root.add_submodule(names[key], layer)
        with graph.inserting_before(node):
            called = graph.call_module(names[key], (x,))
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    root.delete_all_unused_submodules()
    graph.lint()
    root.recompile()
    result: fx.GraphModule = root
    return result.eval()


def _values(root: nn.Module, node: fx.Node) -> _Values | None:
    """The arguments by name, with the network's tensors themselves; None where a weight is computed."""
    schema: Any = node.target
    arguments = schema._schema.arguments
    values = {a.name: a.default_value for a in arguments if a.has_default_value()}
    values |= dict(zip([a.name for a in arguments], node.args, strict=False)) | dict(node.kwargs)
    for name, value in values.items():
        if isinstance(value, fx.Node) and value.op == "get_attr":
            path, _, last = str(value.target).rpartition(".")
            values[name] = getattr(root.get_submodule(path), last)
    weight = values.get("weight")
    inner = [v for name, v in values.items() if name not in ("input", "indices")]
    if any(isinstance(v, fx.Node) for v in inner) or (weight is not None and not isinstance(weight, Tensor)):
        return None
    return values


def _free_name(root: nn.Module, node: fx.Node, taken: set[str]) -> str:
    """Where the operator came about, or one beside it; a module there that only held tensors is replaced."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    wanted = str(stack[-1][0]) if stack else ""
    if not wanted or not all(part.isidentifier() or part.isdigit() for part in wanted.split(".")):
        wanted = node.name
    name, count = wanted, 1
    while name in taken or _holds_layers(root, name):
        name, count = f"{wanted}_{count}", count + 1
    return name


def _hidden(root: Any, node: fx.Node, layer: nn.Module) -> set[str]:
    """The modules of which other operators read tensors that a layer in their place would not have."""
    hidden = set()
    for other in root.graph.nodes:
        if other.op == "get_attr" and any(user is not node for user in other.users):
            path, _, last = str(other.target).rpartition(".")
            if getattr(layer, last, None) is not getattr(root.get_submodule(path), last):
                hidden.add(path)
    return hidden


def _holds_layers(root: nn.Module, name: str) -> bool:
    try:
        there = root.get_submodule(name)
    except AttributeError:
        return False
    return bool(list(there.children())) or type(there) is not nn.Module


def _module(kind: type[nn.Module], values: _Values, *arguments: Any, **more: Any) -> nn.Module | None:
    """A layer around the weight and bias of an operator; None where the weight is no parameter."""
    weight, bias = values["weight"], values.get("bias")
    if not isinstance(weight, nn.Parameter) or not (bias is None or isinstance(bias, nn.Parameter)):
        return None
    layer: Any = kind(*arguments, **more, device="meta")
    layer.weight = weight
    if bias is not None or hasattr(layer, "bias"):
        layer.bias = bias
    return layer  # type: ignore[no-any-return]


def _linear(values: _Values) -> nn.Module | None:
    weight = values["weight"]
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2:
        return None
    return linear_of(weight, values["bias"])


def _convolution(values: _Values) -> nn.Module | None:
    weight, groups = values["weight"], values["groups"]
    axes = weight.dim() - 2
    transposed = bool(values.get("transposed", "output_padding" in values))
    sizes = {name: _for_each(values[name], axes) for name in ("stride", "padding", "dilation")}
    if None in sizes.values():
        return None
    more: dict[str, Any] = {"groups": groups, "bias": values["bias"] is not None, **sizes}
    out, columns = (weight.shape[1], weight.shape[0]) if transposed else weight.shape[:2]
    if transposed:
        more["output_padding"] = _for_each(values["output_padding"], axes)
        return _module(_TRANSPOSED[axes - 1], values, columns, out * groups, tuple(weight.shape[2:]), **more)
    return _module(_CONVOLUTIONS[axes - 1], values, columns * groups, out, tuple(weight.shape[2:]), **more)


def _for_each(given: Any, axes: int) -> Any:
    """One number for each axis, or a word; None where a number is computed."""
    if isinstance(given, str):
        return given
    numbers = tuple(given)
    return numbers * (axes // len(numbers)) if all(isinstance(number, int) for number in numbers) else None


def _embedding(values: _Values) -> nn.Module | None:
    rows, width = values["weight"].shape
    padding = values["padding_idx"]
    return _module(
        nn.Embedding, values, rows, width, padding_idx=None if padding < 0 else padding,
        scale_grad_by_freq=values["scale_grad_by_freq"], sparse=values["sparse"],
    )  # fmt: skip


def _norm(values: _Values) -> nn.Module | None:
    kind = _NORMS.get(values["axes"])
    statistics = values["running_mean"], values["running_var"]
    if kind is None or values["training"] or not all(isinstance(t, Tensor) for t in statistics):
        return None
    has_weight = values["weight"] is not None
    layer: Any = kind(len(statistics[0]), values["eps"], values["momentum"], affine=has_weight, device="meta")
    if has_weight:
        layer.weight, layer.bias = values["weight"], values["bias"]
    layer.running_mean, layer.running_var = statistics
    layer.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return layer  # type: ignore[no-any-return]


_MAKERS: dict[Any, Callable[[_Values], nn.Module | None]] = {
    _aten.linear.default: _linear,
    _aten.conv1d.default: _convolution,
    _aten.conv1d.padding: _convolution,
    _aten.conv2d.default: _convolution,
    _aten.conv2d.padding: _convolution,
    _aten.conv3d.default: _convolution,
    _aten.conv3d.padding: _convolution,
    _aten.conv_transpose1d.default: _convolution,
    _aten.conv_transpose2d.input: _convolution,
    _aten.conv_transpose3d.input: _convolution,
    _aten.embedding.default: _embedding,
    _aten.batch_norm.default: _norm,
}
