"""From a network to its sites: every dense weight, how often it runs, and what it costs.

A trace (`uses`) tells which weights the forward pass uses, in which order, and whether as a module or from
outside of it. Where the network cannot be traced, the module tree stands in, and `Trace.note` says where and
why. With an example input, one real run counts calls and FLOPs and gives the order of execution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from phnnify.inputs import InputSpec, random_example
from phnnify.layers import PHMEmbedding, PHMLinear
from phnnify.measure import Run, evaluation_copy, parameter_count, run_counts
from phnnify.opened.folded import Norm, norm_of
from phnnify.opened.linear import parts_of
from phnnify.opened.several import siblings_of
from phnnify.rules import rule_for
from phnnify.uses import Uses, find_uses, site_name


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
        parts: How many outputs of equal width, such as a recurrent layer's gates, are stacked in its rows.
        norm: What was folded into it, and how many more parameters there were with that.
        siblings: How many such weights, itself included, are one parameter of the network's, as experts are.
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
    parts: int = 1
    siblings: int = 1
    norm: Norm | None = None

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
        method: 'torch.fx', 'torch.export' or 'module tree'.
        note: Why it is the module tree, in one sentence.
    """

    sites: tuple[Site, ...]
    parameters: int
    method: str
    note: str | None = None


def trace(model: nn.Module, inputs: Sequence[InputSpec] = (), *, seed: int = 0) -> Trace:
    """Find the sites of a network. The network itself is neither changed nor run; a copy is.

    Args:
        model: Any network.
        inputs: Example inputs; without them calls come from the symbolic trace, where there is one, and FLOPs
            are unknown.
        seed: For the random example.

    Raises:
        ModelError: the network cannot be copied, or fails on the example input.
    """
    model = evaluation_copy(model)
    example = random_example(inputs, model, seed=seed) if inputs else None
    runs = run_counts(model, example) if example else None
    uses, note = find_uses(model, example)
    norms = [norm for module in model.modules() if (norm := norm_of(module))]
    total = parameter_count(model) + sum(norm.parameters for norm in norms)
    candidates = list(_candidates(model, total))
    order = {path: i for i, path in enumerate(runs or (uses.modules if uses else ()))}
    candidates.sort(key=lambda candidate: _rank(candidate[0], order))
    sites = tuple(_observed(site, module, uses, runs) for module, site in candidates)
    return Trace(sites, total, uses.method if uses else "module tree", note)


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
                parts=parts_of(module),
                siblings=siblings_of(module),
                norm=norm_of(module) if parameter == "weight" else None,
            ),
        )


def _observed(site: Site, module: str, uses: Uses | None, runs: dict[str, Run] | None) -> Site:
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
