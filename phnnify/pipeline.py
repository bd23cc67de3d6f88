"""The public verbs, alone in knowing the order: trace → plan → (choose) → rewrite → fit → (distill)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from phnnify.algebras import Algebra
from phnnify.asked import FIT, Form, Sizing
from phnnify.bare_uses import opened_up
from phnnify.batches import Batch, halves, input_specs
from phnnify.caller_data import calibration_inputs, learning_data
from phnnify.change import Change
from phnnify.choose import Budgeting, Choice, best_forms
from phnnify.conversion import draw_by, nearest_of
from phnnify.data_options import DataOptions
from phnnify.distilling.distillation import train_student
from phnnify.distilling.recipe import Recipe, RunFiles
from phnnify.errors import UsageError
from phnnify.eval_data import EvalData
from phnnify.evaluate import evaluate
from phnnify.feed import make_feed
from phnnify.inputs import Inputs, InputSpec, read_inputs
from phnnify.measure import parameter_count, tensor_bytes
from phnnify.plan import Plan, check_plan, make_plan, require_conversions
from phnnify.plan_shown import plan_beside
from phnnify.report import Report, make_report
from phnnify.smallest import smallest_within
from phnnify.trace import Trace, trace
from phnnify.watching import Watcher, nobody, saying


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
    watch = watch or nobody
    form = Form.read(n, algebra, share_algebra, init, data=data)
    sizing = Sizing.read(low_rank, budget, None, has_data=data is not None, form=form)
    batches = calibration_inputs(model, data, samples, data_options, seed, watch)
    watch("looking at the network", 0, 0)
    specs = read_inputs(inputs) or input_specs(batches)
    opened = opened_up(model, specs, seed=seed)
    traced = trace(opened, specs, seed=seed)
    plan = make_plan(traced, form.plan_options(include, exclude, min_share, sizing.low_rank, embeddings))
    if sizing.budget and plan.conversions:
        budgeting = Budgeting(opened, traced, plan, batches, saying(watch, "measuring {}"), curves)
        choice = budgeting.choose(sizing.budget.parameters(traced.parameters, tensor_bytes(model)))
        return choice.plan, make_report(traced, choice.plan, expected=choice, levels=budgeting.levels())
    if sizing.auto and plan.conversions:
        choices = best_forms(opened, plan, batches, saying(watch, "measuring {}"))
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
    keep: Callable[[Result], object] | None = None,
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
        keep: Given the converted network where what comes next could lose it: before it learns, and where it
            cannot be compared with the original.
        seed: For random inputs and draws.
        watch: Told how far it is.

    Returns:
        The converted network (same class, same mode), the plan, and the report.

    Raises:
        UsageError: an option has a value that cannot mean anything, options exclude each other, or labels are
            to be learned and the data has none.
        FileError: the data cannot be read.
        PlanError: the plan does not fit the network, no weight can be converted, or no network is small or
            near enough.
        ModelError: the network cannot be copied or run, or holds a weight that is not finite.
    """
    watch = watch or nobody
    if distill and data is None:
        raise UsageError("--distill needs --data", hint="inputs like those of the original")
    form = Form.read(n, algebra, share_algebra, init, data=data, eval_data=eval_data)
    sizing = Sizing.read(low_rank, budget, max_drop, has_data=data is not None, form=form)
    batches = calibration_inputs(model, data, samples * (2 if sizing.drop else 1), data_options, seed, watch)
    if distill:
        distill.check_labels(batches[0])
    watch("looking at the network", 0, 0)
    evaluation = EvalData(eval_data, data_options, seed)
    evaluation.check(model)
    specs = read_inputs(inputs) or input_specs(batches)
    opened = opened_up(model, specs, seed=seed, names=plan.conversions if plan else ())
    traced = trace(opened, specs, seed=seed)
    options = form.plan_options(include, exclude, min_share, sizing.low_rank, embeddings)
    planned = check_plan(plan, traced) if plan else make_plan(traced, options)
    require_conversions(planned)
    held_out: list[Batch] = []
    if plan is None and sizing.drop:
        batches, held_out = halves(batches)
    choices: tuple[Choice, ...] = (Choice(planned),)
    if plan is None:
        choices = _sized(sizing, model, opened, traced, planned, batches, held_out, watch)
    done = draw_by(model, choices[0], seed) if form.fresh else nearest_of(model, choices, batches, watch)
    report = make_report(traced, done.choice.plan, done.fits, done.notes, done.choice)
    result = Result(done.model, done.choice.plan, report, specs)
    if eval_data is not None:
        watch("comparing with the original", 0, 0)
        result = _compared(model, result, evaluation, keep)
    if distill is None:
        return result
    if keep:
        keep(result)
    material = learning_data(data, data_options)
    return _distilled(model, result, material, evaluation, distill, files or RunFiles(), watch)


def _sized(
    sizing: Sizing,
    model: nn.Module,
    opened: nn.Module,
    traced: Trace,
    plan: Plan,
    batches: list[Batch],
    held_out: list[Batch],
    watch: Watcher,
) -> tuple[Choice, ...]:
    """The plan with the sizes that were asked for; several where their networks are to be compared."""
    measuring = saying(watch, "measuring {}")
    if sizing.drop:
        budgeting = Budgeting(opened, traced, plan, batches, measuring)
        return (smallest_within(sizing.drop, model, budgeting, batches, held_out, watch),)
    if sizing.budget:
        budgeting = Budgeting(opened, traced, plan, batches, measuring)
        choice = budgeting.choose(sizing.budget.parameters(traced.parameters, tensor_bytes(model)))
        require_conversions(choice.plan)
        return (choice,)
    return best_forms(opened, plan, batches, measuring) if sizing.auto else (Choice(plan),)


def _compared(
    model: nn.Module, result: Result, evaluation: EvalData, keep: Callable[[Result], object] | None
) -> Result:
    """The result with the evaluation in its report; where that fails, the network is kept."""
    try:
        return replace(result, report=evaluation.add_to(result.report, model, result.model))
    except Exception:  # whatever the user's own loader may raise
        if keep:
            keep(result)
        raise


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
        UsageError: Accelerate is missing, the state to resume from is of another run, or labels are to be
            learned and the data has none.
        FileError: data cannot be read, or a file not written.
        ModelError: a network fails on the data, or the two answers cannot be compared.
        StoppedError: the run was asked to stop; its state is saved.
    """
    watch = watch or nobody
    recipe = recipe or Recipe()
    material = learning_data(data, data_options)
    evaluation = EvalData(eval_data, data_options, recipe.seed)
    first = next(make_feed(material, 1, 0).stream())
    recipe.check_labels(first)
    watch("looking at the networks", 0, 0)
    specs = input_specs([first])
    traced = trace(opened_up(teacher, specs, seed=recipe.seed), specs, seed=recipe.seed)
    plan = plan_beside(traced, student)
    sizes = Change(parameter_count(teacher), parameter_count(student))
    report = replace(make_report(traced, plan), params=sizes)
    if eval_data is not None:
        report = evaluation.add_to(report, teacher, student)
    result = Result(student, plan, report, specs)
    return _distilled(teacher, result, material, evaluation, recipe, files or RunFiles(), watch)


def _distilled(
    teacher: nn.Module,
    result: Result,
    material: Any,
    evaluation: EvalData,
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
