"""How a network's forward pass uses its weights: through their modules, how often, or from outside.

Asked first is torch.fx's symbolic trace, which needs no input. Where a network cannot be traced so, and there
is an example input, `torch.export` runs it on tensors without data, and the fx graph that this gives is
walked: each use of a parameter there knows in which module it happened.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from phnnify.inputs import Example
from phnnify.layers import PHMLayer
from phnnify.measure import evaluation_copy, first_line, without_cache_
from phnnify.opened import OPENED
from phnnify.opened.bare import Held
from phnnify.quiet import quiet
from phnnify.rules import rule_for


@dataclass(frozen=True)
class Uses:
    """How the forward pass uses the weights.

    Attributes:
        method: 'torch.fx' or 'torch.export'.
        modules: By path of a module, how often it uses its own weights.
        outside: The names of the sites (`site_name`) that something else uses.
    """

    method: str
    modules: dict[str, int]
    outside: frozenset[str]


def site_name(module: str, parameter: str) -> str:
    """The name of a site: the module's for its `weight`, else the parameter's full name."""
    if parameter == "weight" and module:
        return module
    return f"{module}.{parameter}" if module else parameter


def find_uses(model: nn.Module, example: Example | None) -> tuple[Uses | None, str | None]:
    """How a network uses its weights; None, and one sentence on where and why that failed.

    Args:
        model: An `evaluation_copy`.
        example: An input, without which only the symbolic trace is asked.
    """
    if rule_for(model, "weight").becomes:  # the network is one dense layer
        return Uses("torch.fx", {"": 1}, frozenset()), None
    try:
        return _symbolic(model), None
    except Exception as error:  # whatever the user's own forward may raise when given a proxy
        kind = type(model).__name__
        symbolic = f"torch.fx cannot trace {kind} symbolically{_place(error)} ({first_line(error)})"
    if example is None:
        return None, f"{symbolic}; the sites come from the module tree instead"
    try:
        return _exported(model, example), None
    except Exception as error:  # whatever the user's own forward may raise when given fake tensors
        also = f"nor can torch.export ({first_line(error)})"
        return None, f"{symbolic}, {also}; the sites come from the module tree instead"


class _Tracer(fx.Tracer):
    """Stops at torch's own layers, at PHM layers, and at opened modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (PHMLayer, *OPENED)) or super().is_leaf_module(m, module_qualified_name)


def _symbolic(model: nn.Module) -> Uses:
    modules: dict[str, int] = {}
    outside: set[str] = set()
    paths = {id(module): path for path, module in model.named_modules()}
    for node in _Tracer().trace(model).nodes:
        if node.op == "call_module":
            for path, _ in model.get_submodule(str(node.target)).named_modules(prefix=str(node.target)):
                modules[path] = modules.get(path, 0) + 1
        elif node.op == "get_attr":
            held = _attribute(model, str(node.target))
            if isinstance(held, Held):
                for layer in held.layer.modules():
                    path = paths[id(layer)]
                    modules[path] = modules.get(path, 0) + len(node.users)
            else:
                outside.add(_site(str(node.target)))
    return Uses("torch.fx", modules, frozenset(outside))


def _exported(model: nn.Module, example: Example) -> Uses:
    model = without_cache_(evaluation_copy(model))
    with quiet():
        program = torch.export.export(model, example.args, dict(example.kwargs), strict=False)
    names = program.graph_signature.inputs_to_parameters
    paths = {id(module): path for path, module in model.named_modules()}
    modules: dict[str, int] = {}
    outside: set[str] = set()
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in names:
            continue
        parameter = model.get_parameter(names[node.name])
        for use in node.users:
            user = _module_of(model, use)
            inside = user.modules() if isinstance(user, OPENED) else [user]
            owner = next((module for module in inside if _holds(module, parameter)), None)
            if owner is None:
                outside.add(_site(names[node.name]))
            elif parameter.dim() > 1:
                modules[paths[id(owner)]] = modules.get(paths[id(owner)], 0) + 1
    return Uses("torch.export", modules, frozenset(outside))


def _module_of(model: nn.Module, node: fx.Node) -> nn.Module:
    """The innermost module in which a node of an exported graph came about."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return model.get_submodule(stack[-1][0]) if stack else model


def _holds(module: nn.Module, parameter: nn.Parameter) -> bool:
    return any(mine is parameter for mine in module._parameters.values())


def _attribute(model: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


def _site(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    return site_name(module, parameter)


def _place(error: BaseException) -> str:
    """' at file:line' of the deepest frame outside of torch, or nothing."""
    home = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if home not in Path(f.filename).parents]
    frames = [f for f in frames if Path(f.filename) != Path(__file__)]
    return f" at {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
