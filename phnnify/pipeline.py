"""The public verbs, and the only place that knows the order of the stages: trace → plan → fit → rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from phnnify.batches import Batch, as_batch, calibration_batches
from phnnify.data import DataOptions, read_data
from phnnify.errors import PlanError, UsageError
from phnnify.evaluate import evaluate
from phnnify.fit import Fit, fit_weights
from phnnify.inputs import Inputs, InputSpec, read_inputs
from phnnify.plan import Plan, PlanOptions, check_plan, make_plan
from phnnify.report import FITTED, NEEDS_DISTILLATION, Report, make_report
from phnnify.rewrite import dense_weights, rewrite
from phnnify.sequence import fit_in_sequence_
from phnnify.trace import Trace, trace

Watcher = Callable[[str, int, int], None]
"""Told (what is going on, how much is done, how much there is; 0 where that is unknown)."""


@dataclass(frozen=True)
class Result:
    """A converted network, and how it came about.

    Attributes:
        model: Same class and mode as the original.
        plan: What was done to each weight.
        report: What was saved and lost.
        inputs: What the network takes: as given, or as the data showed.
    """

    model: nn.Module
    plan: Plan
    report: Report
    inputs: tuple[InputSpec, ...] = ()


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
    data: str | Iterable[Any] | None = None,
    samples: int = 512,
    eval_data: str | Iterable[Any] | None = None,
    data_options: DataOptions | None = None,
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
        data: Inputs to fit the weights to, without labels: a reference (`data.read_data`) or an iterable of
            tensors, tuples (inputs, targets) or dicts of keyword arguments. Without it the fit looks at the
            weights alone.
        samples: How many of them are used; of a reference they are drawn with the seed.
        eval_data: Inputs, best with labels, on which the original and the converted network are compared.
        data_options: How referenced images and arrays become inputs.
        seed: For random inputs and draws.
        watch: Told how far it is.

    Returns:
        The converted network (same class, same mode), the plan, and the report.

    Raises:
        UsageError: an option has a value that cannot mean anything.
        FileError: the data cannot be read.
        PlanError: the plan does not fit the network, or no weight can be converted.
        ModelError: the network cannot be copied or run, or holds a weight that is not finite.
    """
    watch = watch or _nobody
    batches = _batches(model, data, samples, data_options, seed, watch)
    watch("looking at the network", 0, 0)
    specs = read_inputs(inputs) or input_specs(batches)
    traced = trace(model, specs, seed=seed)
    options = PlanOptions(n, tuple(include), tuple(exclude), min_share)
    plan = check_plan(plan, traced) if plan else make_plan(traced, options)
    _require_conversions(plan, traced)
    weights = dense_weights(model, plan.conversions)
    fits = fit_weights(
        weights, plan.conversions, lambda done, total, name: watch(f"fitting {name}", done, total)
    )
    converted = rewrite(model, {name: fit.factors for name, fit in fits.items()})
    notes = [NEEDS_DISTILLATION]
    if batches:
        fits, notes = _fit_to_data_(converted, model, fits, batches, watch)
    report = make_report(traced, plan, fits, notes)
    if eval_data is not None:
        watch("comparing with the original", 0, 0)
        compared = evaluate(model, converted, _opened(eval_data, data_options, None, seed))
        report = replace(report, evaluation=compared)
    return Result(converted, plan, report, specs)


def input_specs(batches: Sequence[Batch]) -> tuple[InputSpec, ...]:
    """What the network takes, as one sample of the first batch shows."""
    if not batches:
        return ()
    named = [(None, x) for x in batches[0].args] + list(batches[0].kwargs.items())
    return tuple(InputSpec.like(x, name).with_batch(1) for name, x in named)


def _batches(
    model: nn.Module,
    data: str | Iterable[Any] | None,
    samples: int,
    options: DataOptions | None,
    seed: int,
    watch: Watcher,
) -> list[Batch]:
    """The calibration inputs, on the network's device; none without data."""
    if data is None:
        return []
    if samples < 1:
        raise UsageError(f"the number of samples is {samples}; it must be at least 1")
    watch("reading the data", 0, 0)
    device = next((p.device for p in model.parameters()), None)
    batches = calibration_batches(_opened(data, options, samples, seed), samples)
    return [batch.to(device) for batch in batches] if device else batches


def _opened(
    data: str | Iterable[Any], options: DataOptions | None, samples: int | None, seed: int
) -> Iterable[Batch]:
    if isinstance(data, str):
        return read_data(data, options, samples=samples, seed=seed)
    items = [data] if isinstance(data, Tensor) else data
    return (as_batch(item, "data") for item in items)


def _fit_to_data_(
    converted: nn.Module, model: nn.Module, fits: dict[str, Fit], batches: list[Batch], watch: Watcher
) -> tuple[dict[str, Fit], list[str]]:
    """Fit the converted network to data in place; gives the fits and what to say about them."""
    done = fit_in_sequence_(
        converted,
        model,
        fits,
        batches,
        lambda done, total, name: watch(f"fitting {name} to data", done, total),
    )
    samples = sum(batch.size for batch in batches)
    return done.fits, [FITTED.format(samples=samples), *done.notes]


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
