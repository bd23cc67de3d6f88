"""From a network to its sites: every dense weight, how often it runs, and what it costs.

A symbolic trace by torch.fx tells which weights the forward pass uses, in which order, and whether as a
module or from outside of it. Where the network cannot be traced symbolically, the module tree stands in,
and `Trace.note` says where and why the trace failed. With an example input, one real run counts calls and
FLOPs and gives the order of execution.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import fx, nn

from phnnify.inputs import InputSpec, random_example
from phnnify.layers import PHMEmbedding, PHMLayer, PHMLinear
from phnnify.measure import Run, evaluation_copy, first_line, parameter_count, run_counts
from phnnify.opened import OPENED
from phnnify.rules import rule_for


@dataclass(frozen=True)
class Site:
    """One dense weight of a network.

    Attributes:
        name: The parameter's name; the module's name where the parameter is called `weight`.
        kind: The class of the module that owns it, such as 'Conv2d'.
        shape: The weight's shape, as the module stores it.
        matrix: The shape (out, in, *kernel) in which the algebra sees it; None where no rule converts it.
        share: Its part of the network's parameters, 0 to 1.
        calls: How often one forward pass uses it; None where that is unknown.
        flops: Floating-point operations of one run on the example input; None where that is unknown.
        obstacle: Why it must stay, whatever the options; None where it may be converted.
        ties: The names of other layers that have the same weight.
        table: Whether it is an embedding table, or tied to one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    matrix: tuple[int, ...] | None
    share: float
    calls: int | None = None
    flops: int | None = None
    obstacle: str | None = None
    ties: tuple[str, ...] = ()
    table: bool = False

    @property
    def parameters(self) -> int:
        """The number of entries."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Trace:
    """The sites of a network in execution order.

    Attributes:
        sites: Every parameter of two or more axes, each once.
        parameters: The parameters of the whole network.
        method: 'torch.fx' or 'module tree'.
        note: Why the method is not torch.fx, in one sentence.
    """

    sites: tuple[Site, ...]
    parameters: int
    method: str
    note: str | None = None


@dataclass(frozen=True)
class _Uses:
    """Parameter names by id of how the forward pass uses them: through their module, or from outside."""

    modules: dict[str, int]
    outside: frozenset[str]


def trace(model: nn.Module, inputs: Sequence[InputSpec] = (), *, seed: int = 0) -> Trace:
    """Find the sites of a network. The network itself is neither changed nor run; a copy is.

    Args:
        model: Any network.
        inputs: Example inputs; without them calls come from the symbolic trace and FLOPs are unknown.
        seed: For the random example.

    Raises:
        ModelError: the network cannot be copied, or fails on the example input.
    """
    model = evaluation_copy(model)
    runs = run_counts(model, random_example(inputs, model, seed=seed)) if inputs else None
    uses, note = _symbolic_uses(model)
    total = parameter_count(model)
    candidates = list(_candidates(model, total))
    order = {path: i for i, path in enumerate(runs or (uses.modules if uses else ()))}
    candidates.sort(key=lambda candidate: _rank(candidate[0], order))
    sites = tuple(_observed(site, module, uses, runs) for module, site in candidates)
    return Trace(sites, total, "torch.fx" if uses else "module tree", note)


def _rank(module: str, order: dict[str, int]) -> int:
    """When a module runs; one that is never called itself runs with the module around it."""
    while module and module not in order:
        module = module.rpartition(".")[0]
    return order.get(module, len(order))


def _candidates(model: nn.Module, total: int) -> Iterator[tuple[str, Site]]:
    """Every parameter of two or more axes once, as (name of its module, site), with what rules say."""
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module in model.named_modules():
        for parameter, tensor in module.named_parameters(recurse=False, remove_duplicate=False):
            if tensor.dim() > 1:
                owners.setdefault(id(tensor), []).append((path, module, parameter))
    for (path, module, parameter), *others in owners.values():
        tensor = getattr(module, parameter)
        rule = rule_for(module, parameter)
        matrix = tuple(rule.becomes.orient(tensor).shape) if rule.becomes else None
        obstacle = None if rule.becomes else rule.reason
        ties = tuple(site_name(o[0], o[2]) for o in others)
        becomes = {rule.becomes, *(rule_for(o[1], o[2]).becomes for o in others)}
        if others and not becomes <= {PHMEmbedding, PHMLinear}:
            obstacle = f"tied: the same parameter as {', '.join(ties)}"
        yield (
            path,
            Site(
                name=site_name(path, parameter),
                kind=type(module).__name__,
                shape=tuple(tensor.shape),
                matrix=matrix,
                share=tensor.numel() / total,
                obstacle=obstacle,
                ties=ties,
                table=PHMEmbedding in becomes,
            ),
        )


def site_name(module: str, parameter: str) -> str:
    """The name of a site: the module's for its `weight`, else the parameter's full name."""
    if parameter == "weight" and module:
        return module
    return f"{module}.{parameter}" if module else parameter


def _observed(site: Site, module: str, uses: _Uses | None, runs: dict[str, Run] | None) -> Site:
    """The site with what the trace and the run saw of it, all that share its weight together."""
    obstacle = site.obstacle
    modules = [module, *site.ties]
    calls = sum(uses.modules.get(path, 0) for path in modules) if uses else None
    flops = None
    if uses and uses.outside & {site.name, *site.ties}:
        calls = None
        obstacle = obstacle or "used outside its module"
    elif uses and not calls:
        obstacle = obstacle or "not used by the traced forward pass"
    if runs is not None and (seen := [runs[path] for path in modules if path in runs]):
        calls = sum(run.calls for run in seen)
        flops = sum(run.flops(site.parameters) for run in seen) if site.matrix else None
    elif runs is not None and site.matrix:
        calls, obstacle = 0, obstacle or "not run as a module with the example input"
    return replace(site, obstacle=obstacle, calls=calls, flops=flops)


class _Tracer(fx.Tracer):
    """Stops at torch's own layers, at PHM layers, and at opened modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (PHMLayer, *OPENED)) or super().is_leaf_module(m, module_qualified_name)


def _symbolic_uses(model: nn.Module) -> tuple[_Uses | None, str | None]:
    """How the forward pass uses the weights; or None, and one sentence on where and why it failed."""
    if rule_for(model, "weight").becomes:  # the network is one dense layer
        return _Uses({"": 1}, frozenset()), None
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # whatever the user's own forward may raise when given a proxy
        where = _place(error)
        return None, (
            f"torch.fx cannot trace {type(model).__name__} symbolically{where} ({first_line(error)}); "
            "the sites come from the module tree instead"
        )
    modules: dict[str, int] = {}
    outside: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            for path, _ in model.get_submodule(str(node.target)).named_modules(prefix=str(node.target)):
                modules[path] = modules.get(path, 0) + 1
        elif node.op == "get_attr":
            outside.add(site_name(*_split(str(node.target))))
    return _Uses(modules, frozenset(outside)), None


def _split(target: str) -> tuple[str, str]:
    module, _, parameter = target.rpartition(".")
    return module, parameter


def _place(error: BaseException) -> str:
    """' at file:line' of the deepest frame outside of torch, or nothing."""
    home = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if home not in Path(f.filename).parents]
    frames = [f for f in frames if Path(f.filename) != Path(__file__)]
    return f" at {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
