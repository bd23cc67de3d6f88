"""What a reader should know about a converted network, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from phnnify.distilling.course import Course
from phnnify.plan import Plan
from phnnify.trace import Site

NEEDS_DISTILLATION = (
    "Fitted to the weights alone, without data: expect a network near chance. "
    "It needs distillation from the original before use."
)
NOTHING_FITTED = "Nothing was fitted: all weights are drawn anew, to be trained from scratch."
FITTED = "Fitted to {samples} inputs, layer after layer."
ADVICE = (
    "Distillation from the original (--distill) brings it nearer still; look at the accuracy before you use "
    "it."
)
FOLDED = "{kind} folded into the weights of {names}: converted, they have none."
LEARNED = (
    "Learned from the original for {steps:,} steps of {batch} inputs, {minutes:.1f} minutes at the highest "
    "rate of {rate:.1e}{kept}. Errors of single layers are those before."
)
_SHOWN = 5  # names in a note


def folded_norms(plan: Plan, sites: Mapping[str, Site]) -> Iterator[str]:
    """One sentence for each kind of norm that converted weights had."""
    kinds: dict[str, list[str]] = {}
    for name in plan.conversions:
        if norm := sites[name].norm:
            kinds.setdefault(norm.kind, []).append(name)
    for kind, names in kinds.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield FOLDED.format(kind=kind.capitalize(), names=", ".join(names[:_SHOWN]) + more)


def after_distillation(notes: Iterable[str], course: Course) -> tuple[str, ...]:
    """The notes once the network has learned from its original: none that tells to let it, and how it did."""
    best = course.best_step
    kept = "" if best is None else f"; what is kept is its best state, of step {best:,}"
    learned = LEARNED.format(
        steps=course.steps, batch=course.batch, minutes=course.seconds / 60, rate=course.rate, kept=kept
    )
    return *(note for note in notes if note not in (ADVICE, NEEDS_DISTILLATION)), learned
