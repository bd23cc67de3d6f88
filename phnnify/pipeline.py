"""The public verbs, alone in knowing the order: trace → plan → (choose) → rewrite → fit → (distill)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phnnify.algebras import Algebra
from phnnify.asked import FIT, Form, Sizing
from phnnify.bare_uses import opened_up
from phnnify.batches import Batch, as_batch, calibration_batches
from phnnify.choose import Budgeting, Choice, best_forms
from phnnify.conversion import Watcher, convert_by, draw_by, nearest_of
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.distilling.distillation import train_student
from phnnify.distilling.recipe import Recipe, RunFiles
from phnnify.errors import PlanError, UsageError
from phnnify.evaluate import Evaluation, evaluate
from phnnify.feed import make_feed
from phnnify.fit import Progress
from phnnify.given import shown_algebras
from phnnify.inputs import Inputs, InputSpec, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import submodule, tensor_bytes
from phnnify.plan import Decision, Plan, check_plan, make_plan
from phnnify.report import Report, make_report
from phnnify.trace import Trace, trace

_ATTEMPTS = 6  # sizes that a bisection tries
_CHECKED = 2048  # samples of referenced data on which a student is measured while it learns
_RIGHT = 0.75  # below this accuracy of an original on images as they lie in a file, one asks why
_DOUBT = (
    "The original itself is right on {:.1%} of the evaluation data only. If its images were normalized when "
    "it was trained, give the same --mean and --std."
)


@dataclass(frozen=True)
class Result:
    """A converted network, and how it came about.

    Attributes:
        model: Same class and mode as the original.
        plan: What was done to each weight.
        report: What was saved and lost.
        inputs: What the network takes: as given, or as the data showed.
        trouble: Why its distillation was given up before the end; None where all went well.
    """

    model: nn.Module
    plan: Plan
    report: Report
    inputs: tuple[InputSpec, ...] = ()
    trouble: str | None = None


def inspect(
    model: nn.Module,
    n: int | None = None,
    *,
    inputs: Inputs | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_share: float | None = None,
    low_rank: str | float | None = None,
    embeddings: bool = False,
    algebra: str | Algebra | None = None,
    share_algebra: bool = False,
    init: str = FIT,
    budget: str | None = None,
    data: str | Iterable[Any] | None = None,
    samples: int = 512,
    data_options: DataOptions | None = None,
    curves: Path | None = None,
    seed: int = 0,
    watch: Watcher | None = None,
) -> tuple[Plan, Report]:
    """Say what `convert` would do, without doing it. Arguments as there.

    `curves`, with a budget, is a file in which what was measured is kept for the next time.
    """
    watch = watch or _nobody
    form = Form.read(n, algebra, share_algebra, init, data=data)
    sizing = Sizing.read(low_rank, budget, None, has_data=data is not None, form=form)
    batches = _batches(model, data, samples, data_options, seed, watch)
    watch("looking at the network", 0, 0)
    specs = read_inputs(inputs) or input_specs(batches)
    opened = opened_up(model, specs, seed=seed)
    traced = trace(opened, specs, seed=seed)
    plan = make_plan(traced, form.plan_options(include, exclude, min_share, sizing.share, embeddings))
    if sizing.budget and plan.conversions:
        budgeting = Budgeting(opened, traced, plan, batches, _measuring(watch), curves)
        choice = budgeting.choose(sizing.budget.parameters(traced.parameters, tensor_bytes(model)))
        return choice.plan, make_report(traced, choice.plan, expected=choice, levels=budgeting.levels())
    if sizing.auto and plan.conversions:
        choices = best_forms(opened, plan, batches, _measuring(watch))
        choice = nearest_of(model, choices, batches, watch).choice if len(choices) > 1 else choices[0]
        return choice.plan, make_report(traced, choice.plan, expected=choice)
    return plan, make_report(traced, plan)


def convert(
    model: nn.Module,
    n: int | None = None,
    *,
    inputs: Inputs | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_share: float | None = None,
    low_rank: str | float | None = None,
    embeddings: bool = False,
    algebra: str | Algebra | None = None,
    share_algebra: bool = False,
    init: str = FIT,
    budget: str | None = None,
    max_drop: str | None = None,
    plan: Plan | None = None,
    data: str | Iterable[Any] | None = None,
    samples: int = 512,
    eval_data: str | Iterable[Any] | None = None,
    data_options: DataOptions | None = None,
    distill: Recipe | None = None,
    files: RunFiles | None = None,
    before_distillation: Callable[[Result], object] | None = None,
    seed: int = 0,
    watch: Watcher | None = None,
) -> Result:
    """Replace the dense and convolutional weights of a network by PHM weights with 1/n of the parameters.

    Args:
        model: The original; it is not changed.
        n: Each converted weight keeps about 1/n of its parameters; 4 by default, or the algebra's dimension.
        inputs: Example inputs ('1x3x32x32', a tensor, or several): they verify that layers run, and count.
        include: Patterns of layer names; where given, only these are converted, and small ones too.
        exclude: Patterns of layer names that stay as they are.
        min_share: Weights with a smaller part of the parameters stay: 0.005 (0.5 %) by default, and 0 for a
            fresh network, whose first layer is small and the more in need of its inputs' natural domain.
        low_rank: 'off': order n with n terms, as in the papers. 'auto' (the default with data): per weight,
            at the same size, the blocks, terms and rank that fit best. A share from 0 to 1: so much of each
            weight's size goes to a low-rank term.
        embeddings: Whether embedding tables are converted too, with the layers that are tied to them.
        algebra: A fixed one for all weights: a name of `algebras.NAMES`, a file of constants
            (`constants.read_algebra`) or an `Algebra`. By default each weight learns its own.
        share_algebra: Whether all weights of the same order learn one algebra together.
        init: 'fit': the weights come near those of the original. 'fresh': all parameters are drawn anew
            (`fresh`), to be trained from scratch.
        budget: Instead of n, a size for the whole network: '25%' of its parameters, or '1.5MB'. Each weight
            gets its own part of it. Needs data.
        max_drop: Instead of n, the smallest network that loses at most so much ('1%') accuracy on the data,
            or agreement with the original where the data has no labels.
        plan: A plan to follow instead of making one (then none of the options above counts).
        data: Inputs to fit the weights to, without labels: a reference (`data.read_data`) or an iterable of
            tensors, tuples (inputs, targets) or dicts of keyword arguments. Without it the fit looks at the
            weights alone.
        samples: How many of them are used; of a reference they are drawn with the seed.
        eval_data: Inputs, best with labels, on which the original and the converted network are compared.
        data_options: How referenced images and arrays become inputs.
        distill: How the converted network is to learn from the original, on all of the data.
        files: Where that run leaves its state and its log.
        before_distillation: Given the converted network before it learns.
        seed: For random inputs and draws.
        watch: Told how far it is.

    Returns:
        The converted network (same class, same mode), the plan, and the report.

    Raises:
        UsageError: an option has a value that cannot mean anything, or options exclude each other.
        FileError: the data cannot be read.
        PlanError: the plan does not fit the network, no weight can be converted, or no network is small or
            near enough.
        ModelError: the network cannot be copied or run, or holds a weight that is not finite.
    """
    watch = watch or _nobody
    if distill and data is None:
        raise UsageError("--distill needs --data", hint="inputs like those of the original")
    form = Form.read(n, algebra, share_algebra, init, data=data, eval_data=eval_data)
    sizing = Sizing.read(low_rank, budget, max_drop, has_data=data is not None, form=form)
    batches = _batches(model, data, samples * (2 if sizing.drop else 1), data_options, seed, watch)
    watch("looking at the network", 0, 0)
    specs = read_inputs(inputs) or input_specs(batches)
    opened = opened_up(model, specs, seed=seed, names=plan.conversions if plan else ())
    traced = trace(opened, specs, seed=seed)
    options = form.plan_options(include, exclude, min_share, sizing.share, embeddings)
    choice = Choice(check_plan(plan, traced) if plan else make_plan(traced, options))
    choices: tuple[Choice, ...] = ()
    _require_conversions(choice.plan, traced)
    if plan is None and sizing.drop:
        batches, held_out = _halves(batches)
        budgeting = Budgeting(opened, traced, choice.plan, batches, _measuring(watch))
        choice = _smallest(model, traced, budgeting, sizing.drop, batches, held_out, watch)
    elif plan is None and sizing.budget:
        budgeting = Budgeting(opened, traced, choice.plan, batches, _measuring(watch))
        choice = budgeting.choose(sizing.budget.parameters(traced.parameters, tensor_bytes(model)))
        _require_conversions(choice.plan, traced)
    elif plan is None and sizing.auto:
        choices = best_forms(opened, choice.plan, batches, _measuring(watch))
    if form.fresh:
        done = draw_by(model, choice, seed)
    else:
        done = nearest_of(model, choices or (choice,), batches, watch)
    report = make_report(traced, done.choice.plan, done.fits, done.notes, done.choice)
    evaluation = _Evaluation(eval_data, data_options, seed)
    if eval_data is not None:
        watch("comparing with the original", 0, 0)
        report = evaluation.of(report, model, done.model)
    result = Result(done.model, done.choice.plan, report, specs)
    if distill is None:
        return result
    if before_distillation:
        before_distillation(result)
    material = _material(data, data_options)
    return _distilled(model, result, material, evaluation, distill, files or RunFiles(), watch)


def distill(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    recipe: Recipe | None = None,
    *,
    eval_data: str | Iterable[Any] | None = None,
    data_options: DataOptions | None = None,
    files: RunFiles | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Train a converted network to answer as its original does.

    Args:
        teacher: The original; it is not changed.
        student: The converted network, or any other with the same inputs and outputs; it is not changed.
        data: Inputs, with labels or without: a reference (`data.read_data`), a tensor, a tuple (inputs,
            targets), or batches that can be gone through again and again, such as a list or a DataLoader.
        recipe: How it learns, and for how long.
        eval_data: Data, best with labels, on which the student is measured on the way; its best state is
            kept.
        data_options: How referenced images and arrays become inputs.
        files: Where the run leaves its state and its log, and whether it goes on from there.
        watch: Told how far it is.

    Returns:
        The trained student (the student's class and mode), its plan, and the report.

    Raises:
        UsageError: Accelerate is missing, or the state to resume from is of another run.
        FileError: data cannot be read, or a file not written.
        ModelError: a network fails on the data, or the two answers cannot be compared.
        StoppedError: the run was asked to stop; its state is saved.
    """
    watch = watch or _nobody
    recipe = recipe or Recipe()
    material = _material(data, data_options)
    evaluation = _Evaluation(eval_data, data_options, recipe.seed)
    watch("looking at the networks", 0, 0)
    specs = input_specs([next(make_feed(material, 1, 0).stream())])
    traced = trace(opened_up(teacher, specs, seed=recipe.seed), specs, seed=recipe.seed)
    plan = _plan_seen(traced, student)
    report = make_report(traced, plan)
    if eval_data is not None:
        report = evaluation.of(report, teacher, student)
    result = Result(student, plan, report, specs)
    return _distilled(teacher, result, material, evaluation, recipe, files or RunFiles(), watch)


def _distilled(
    teacher: nn.Module,
    result: Result,
    material: Any,
    evaluation: _Evaluation,
    recipe: Recipe,
    files: RunFiles,
    watch: Watcher,
) -> Result:
    """The result with a student that has learned."""
    done = train_student(
        teacher, result.model, material, recipe, eval_data=evaluation.some(), files=files, watch=watch
    )
    compared = before = result.report.evaluation
    if before:
        watch("comparing with the original", 0, 0)
        compared = evaluate(teacher, done.model, evaluation.all()).with_before(before)
    report = result.report.with_distillation(done.course, compared)
    return replace(result, model=done.model, report=report, trouble=done.trouble)


def _plan_seen(traced: Trace, student: nn.Module) -> Plan:
    """The plan that a student follows, as its layers show."""
    layers: dict[str, PHMLayer] = {}
    for site in traced.sites:
        with contextlib.suppress(AttributeError):
            layer = submodule(student, site.name)
            layers |= {site.name: layer} if isinstance(layer, PHMLayer) else {}
    algebras, own = shown_algebras(layers)
    decisions = tuple(
        Decision(site.name, site.kind, site.shape, layers[site.name].order, algebra=algebras[site.name])
        if site.name in layers
        else Decision(site.name, site.kind, site.shape, reason="it is not converted in the student")
        for site in traced.sites
    )
    return Plan(max((d.order.terms for d in decisions if d.order), default=1), decisions, own)


class _Evaluation:
    """The data to evaluate on: all of it, or as much as is looked at again and again."""

    def __init__(self, data: str | Iterable[Any] | None, options: DataOptions | None, seed: int) -> None:
        self._data: Any = data if data is None or isinstance(data, str) else list(_batched(data))
        self._options, self._seed = options, seed

    def of(self, report: Report, teacher: nn.Module, student: nn.Module) -> Report:
        """The report with what the two give on all of it, and with a doubt where the first is often wrong."""
        found = evaluate(teacher, student, self.all())
        doubts = (
            (_DOUBT.format(found.accuracy.teacher),) if self._is_doubtful(found) and found.accuracy else ()
        )
        return replace(report, evaluation=found, notes=(*report.notes, *doubts))

    def _is_doubtful(self, found: Evaluation) -> bool:
        """Whether an original that sees images, as they are in a file, is wrong on many."""
        normalized = not isinstance(self._data, str) or (self._options is not None and self._options.mean)
        if normalized or found.accuracy is None or found.accuracy.teacher >= _RIGHT:
            return False
        first = next(iter(self.all())).args
        return bool(first) and first[0].dim() == 4 and first[0].is_floating_point()

    def all(self) -> Iterable[Batch]:
        return _opened(self._data, self._options, None, self._seed)

    def some(self) -> Iterable[Batch] | None:
        return None if self._data is None else _opened(self._data, self._options, _CHECKED, self._seed)


def _material(data: Any, options: DataOptions | None) -> Any:
    """What a student learns on: all samples of a reference, or what the caller has."""
    return read_data(data, options) if isinstance(data, str) else data


def _smallest(
    model: nn.Module,
    traced: Trace,
    budgeting: Budgeting,
    drop: float,
    batches: list[Batch],
    held_out: list[Batch],
    watch: Watcher,
) -> Choice:
    """The plan of the smallest network that loses at most `drop`, found by bisection between sizes."""
    low, high = budgeting.least / traced.parameters, 1.0
    found: Choice | None = None
    least_drop = 1.0
    for attempt in range(_ATTEMPTS):
        share = math.sqrt(low * high)
        choice = budgeting.choose(max(budgeting.least, int(share * traced.parameters)))
        if not choice.plan.conversions:
            low = share
            continue
        converted = convert_by(model, choice, batches, watch).model
        watch(f"comparing at {share:.0%} of the size", attempt, _ATTEMPTS)
        lost = evaluate(model, converted, held_out).drop
        least_drop = min(least_drop, lost)
        if lost <= drop:
            found, high = choice, share
        else:
            low = share
    if found is None:
        raise PlanError(
            f"no smaller network loses at most {drop:.2%}: the best of those tried loses {least_drop:.2%}",
            hint="permit a larger drop, or give more inputs (--samples)",
        )
    return found


def _halves(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Inputs to fit to, and others to compare on; one batch serves for both."""
    half = sum(batch.size for batch in batches) // 2
    first = calibration_batches(batches, max(half, 1))
    rest: list[Batch] = []
    skip = half
    for batch in batches:
        if skip < batch.size:
            rest.append(batch.tail(skip))
        skip = max(0, skip - batch.size)
    return first, rest


def _measuring(watch: Watcher) -> Progress:
    return lambda done, total, name: watch(f"measuring {name}", done, total)


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
    return _batched(data)


def _batched(data: Iterable[Any]) -> Iterable[Batch]:
    items = [data] if isinstance(data, Tensor) else data
    return (as_batch(item, "data") for item in items)


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
