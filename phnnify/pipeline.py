"""The public verbs, and the only place that knows the order of the stages: trace → plan → fit → rewrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from phnnify.errors import PlanError
from phnnify.fit import fit_weights
from phnnify.inputs import Inputs, read_inputs
from phnnify.plan import Plan, PlanOptions, check_plan, make_plan
from phnnify.report import NEEDS_DISTILLATION, Report, make_report
from phnnify.rewrite import dense_weights, rewrite
from phnnify.trace import Trace, trace

Watcher = Callable[[str, int, int], None]
"""Told (what is going on, how much is done, how much there is; 0 where that is unknown)."""


@dataclass(frozen=True)
class Result:
    """A converted network, the plan it was made by, and the report of what was saved and lost."""

    model: nn.Module
    plan: Plan
    report: Report


def inspect(
    model: nn.Module,
    n: int = 4,
    *,
    inputs: Inputs | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_share: float = 0.005,
    seed: int = 0,
) -> tuple[Plan, Report]:
    """Say what `convert` would do, without doing it. Arguments as there."""
    traced = trace(model, read_inputs(inputs), seed=seed)
    plan = make_plan(traced, PlanOptions(n, tuple(include), tuple(exclude), min_share))
    return plan, make_report(traced, plan)


def convert(
    model: nn.Module,
    n: int = 4,
    *,
    inputs: Inputs | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_share: float = 0.005,
    plan: Plan | None = None,
    seed: int = 0,
    watch: Watcher | None = None,
) -> Result:
    """Replace the dense and convolutional weights of a network by PHM weights with 1/n of the parameters.

    Args:
        model: The original; it is not changed.
        n: Each converted weight keeps about 1/n of its parameters.
        inputs: Example inputs ('1x3x32x32', a tensor, or several): they verify that layers run, and count.
        include: Patterns of layer names; where given, only these are converted, and small ones too.
        exclude: Patterns of layer names that stay as they are.
        min_share: Weights with a smaller part of the parameters stay (0.005 is 0.5 %).
        plan: A plan to follow instead of making one (then n, include, exclude and min_share do not count).
        seed: For random inputs.
        watch: Told how far it is.

    Returns:
        The converted network (same class, same mode), the plan, and the report.

    Raises:
        UsageError: an option has a value that cannot mean anything.
        PlanError: the plan does not fit the network, or no weight can be converted.
        ModelError: the network cannot be copied or run, or holds a weight that is not finite.
    """
    watch = watch or _nobody
    watch("looking at the network", 0, 0)
    traced = trace(model, read_inputs(inputs), seed=seed)
    options = PlanOptions(n, tuple(include), tuple(exclude), min_share)
    plan = check_plan(plan, traced) if plan else make_plan(traced, options)
    _require_conversions(plan, traced)
    weights = dense_weights(model, plan.conversions)
    fits = fit_weights(
        weights, plan.conversions, lambda done, total, name: watch(f"fitting {name}", done, total)
    )
    converted = rewrite(model, {name: fit.factors for name, fit in fits.items()})
    errors = {name: fit.weight_error for name, fit in fits.items()}
    return Result(converted, plan, make_report(traced, plan, errors, [NEEDS_DISTILLATION]))


def _require_conversions(plan: Plan, traced: Trace) -> None:
    if plan.conversions:
        return
    reasons = [f"{decision.name}: {decision.reason}" for decision in plan.decisions]
    found = "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    raise PlanError(
        f"no weight can be converted ({found or 'the network has none'})",
        hint="`phnnify inspect` lists every weight with its reason; --min-share 0 lets small ones in"
        if traced.sites
        else None,
    )


def _nobody(what: str, done: int, total: int) -> None:
    """Nobody watches."""
