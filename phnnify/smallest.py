"""The smallest network that loses no more than was permitted: found by bisection between sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from phnnify.batches import Batch
from phnnify.choose import Budgeting, Choice
from phnnify.conversion import convert_by
from phnnify.errors import PlanError
from phnnify.evaluate import evaluate
from phnnify.watching import Watcher

_ATTEMPTS = 6  # sizes that a bisection tries


def smallest_within(
    drop: float,
    model: nn.Module,
    budgeting: Budgeting,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    watch: Watcher,
) -> Choice:
    """The plan of the smallest network that loses at most `drop` (`evaluate.Evaluation.drop`).

    Args:
        drop: What may be lost, 0 to 1.
        model: The original.
        budgeting: Makes its plans.
        batches: Inputs to fit to.
        held_out: Inputs to compare on.
        watch: Told how far it is.

    Raises:
        PlanError: all sizes that were tried lose more.
        ModelError: as `conversion.convert_by`.
    """
    low, high = budgeting.least / budgeting.total, 1.0
    found: Choice | None = None
    least_drop = 1.0
    for attempt in range(_ATTEMPTS):
        share = math.sqrt(low * high)
        choice = budgeting.choose(max(budgeting.least, int(share * budgeting.total)))
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
