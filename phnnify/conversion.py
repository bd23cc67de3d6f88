"""A network converted by a plan, and the better of several plans.

The error of each weight's own outputs chooses its form, but errors add up to the network's in ways of their
own: where two plans are near each other, both are carried out, and the network whose answers on the
calibration inputs are nearer to the original's is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from phnnify.batches import Batch
from phnnify.choose import Choice
from phnnify.evaluate import Examination
from phnnify.fit import Fit, fit_weights
from phnnify.fresh import fresh_factors, fresh_network, kept_note
from phnnify.given import given_algebras
from phnnify.notes import ADVICE, FITTED, NEEDS_DISTILLATION, NOTHING_FITTED
from phnnify.opened import fold_norms, open_modules
from phnnify.rewrite import dense_weights, rewrite
from phnnify.sequence import fit_in_sequence_
from phnnify.watching import Watcher, saying


@dataclass(frozen=True)
class Conversion:
    """A converted network.

    Attributes:
        model: Same class and mode as the original.
        choice: What was done.
        fits: By name of the weight.
        notes: What to say about them, in sentences.
    """

    model: nn.Module
    choice: Choice
    fits: Mapping[str, Fit]
    notes: Sequence[str]


def convert_by(model: nn.Module, choice: Choice, batches: Sequence[Batch], watch: Watcher) -> Conversion:
    """The network converted by a plan: in closed form, and fitted to the calibration inputs if there are any.

    Raises:
        ModelError: the network cannot be copied or run, or holds a weight that is not finite.
    """
    plan = choice.plan
    opened = open_modules(model, bare=plan.conversions)
    weights = dense_weights(opened, plan.conversions)
    fits = fit_weights(
        weights,
        plan.conversions,
        saying(watch, "fitting {}"),
        given_algebras(plan, weights),
    )
    converted = rewrite(model, {name: fit.factors for name, fit in fits.items()}, plan.algebras)
    if not batches:
        return Conversion(converted, choice, fits, [NEEDS_DISTILLATION])
    done = fit_in_sequence_(converted, opened, fits, batches, saying(watch, "fitting {} to data"))
    samples = sum(batch.size for batch in batches)
    return Conversion(converted, choice, done.fits, [FITTED.format(samples=samples), *done.notes, ADVICE])


def draw_by(model: nn.Module, choice: Choice, seed: int) -> Conversion:
    """The network converted by a plan with all parameters drawn anew, to be trained from scratch.

    Raises:
        ModelError: the network cannot be copied, or a module cannot draw its parameters.
    """
    plan = choice.plan
    network, kept = fresh_network(fold_norms(model, plan.conversions), seed)
    weights = dense_weights(open_modules(network, bare=plan.conversions), plan.conversions)
    factors = fresh_factors(plan, weights, seed)
    notes = [NOTHING_FITTED, *kept_note(kept)]
    return Conversion(rewrite(network, factors, plan.algebras), choice, {}, notes)


def nearest_of(
    model: nn.Module, choices: Sequence[Choice], batches: Sequence[Batch], watch: Watcher
) -> Conversion:
    """By whichever choice the answers on the calibration inputs come nearest to the original's.

    Raises:
        ModelError: as `convert_by`.
    """
    found = [convert_by(model, choice, batches, watch) for choice in choices]
    if len(found) == 1:
        return found[0]
    watch("comparing forms", 0, 0)
    examine = Examination(model, batches)
    return min(found, key=lambda conversion: examine(conversion.model).agreement.distance)
