"""Embedding tables, and weights that several layers share: what their factors are to do.

They are fitted before all others, to what the original itself sees, since a table is read before any other
layer runs. As a table, each row of the weight counts alike (C = 1, scaled to the rest); as dense layers, what
they compute on their inputs counts, all layers that share the weight together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from phnnify.alternate import Problem
from phnnify.batches import Batch
from phnnify.calibrate import Sums
from phnnify.fit import regularised
from phnnify.inputs import Example
from phnnify.layers import PHMEmbedding, PHMLinear
from phnnify.lockstep import Runs
from phnnify.measure import evaluation_copy, owners, submodule
from phnnify.rules import rule_for

_AS_A_TABLE = 1.0  # of the mean diagonal of C: both uses count alike


def shared_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the named layers that are tables or share their weight with another layer."""
    return [name for name in names if _is_table(submodule(model, name)) or len(owners(model, name)) > 1]


def shared_problems(
    teacher: nn.Module, names: Iterable[str], batches: Sequence[Batch]
) -> dict[str, tuple[Tensor, Problem]]:
    """By name, a weight (out, in) that is a table or shared, and what its factors are to do.

    Args:
        teacher: The original.
        names: As `shared_names` gives them.
        batches: Calibration inputs.

    Raises:
        ModelError: the network fails on the inputs, or takes different ways for different ones.
    """
    teacher = evaluation_copy(teacher)
    groups = {name: owners(teacher, name) for name in names}
    dense = {
        owner: name
        for name, group in groups.items()
        for owner in group
        if rule_for(submodule(teacher, owner), "weight").becomes is PHMLinear
    }
    sums: dict[str, Sums] = {}
    if dense:
        with Runs(teacher, dense, [Example(batch.args, batch.kwargs) for batch in batches]) as runs:
            while stops := runs.advance():
                name, layer = dense[stops[0].name], submodule(teacher, stops[0].name)
                sums.setdefault(name, Sums(layer)).add([(stop.x, stop.x) for stop in stops])
    found = {}
    for name, group in groups.items():
        weight = submodule(teacher, name).get_parameter("weight").detach()
        table = any(_is_table(submodule(teacher, owner)) for owner in group)
        problem = None
        if name in sums:
            statistics = sums[name].statistics(centered=False)
            problem = regularised(weight, statistics, _AS_A_TABLE if table else None)
        found[name] = weight, problem or _as_it_is(weight)
    return found


def _is_table(module: nn.Module) -> bool:
    return rule_for(module, "weight").becomes is PHMEmbedding


def _as_it_is(weight: Tensor) -> Problem:
    """To be near to the weight itself."""
    W = weight.double()
    return Problem(W.new_ones(W.shape[1]), W.t(), float(W.square().sum()), (W.shape[1],))
