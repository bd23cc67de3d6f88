"""Plans chosen with data: the best form of each weight at its size, or the best sizes under a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from phnnify.batches import Batch
from phnnify.budget import Point, allocate
from phnnify.curves import Curves, contents_key, measure_curves, read_curves, write_curves
from phnnify.errors import PlanError
from phnnify.plan import Plan, with_orders
from phnnify.search import Form, Search
from phnnify.survey import survey
from phnnify.tables import shared_names, shared_problems
from phnnify.trace import Trace
from phnnify.watching import Progress

_NEAR = 1.25  # times the least summed loss, up to which low rank alone is worth a look
LEVELS = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.09, 0.06, 0.04)


@dataclass(frozen=True)
class Choice:
    """A plan, and what it is expected to lose.

    Attributes:
        plan: The plan.
        errors: By name of the weight, the relative error of its outputs on the inputs that the original sees.
        damage: The change of the network's answer (`evaluate.output_change`); None where it was not measured.
    """

    plan: Plan
    errors: Mapping[str, float] = field(default_factory=dict)
    damage: float | None = None


@dataclass(frozen=True)
class Level:
    """A size of the whole network, as a share of its parameters, and the damage expected at it."""

    share: float
    damage: float


def best_forms(
    model: nn.Module, plan: Plan, batches: Sequence[Batch], progress: Progress | None = None
) -> tuple[Choice, ...]:
    """The plan with the best form of each converted weight, at the size that the plan's order has.

    A second plan comes with it where low rank alone loses hardly more, summed over all weights: which of the
    two leads to the nearer network, their weights' own errors do not say.
    """
    orders = plan.conversions

    def best(name: str, search: Search) -> list[Form]:
        size = orders[name].parameters(search.shape)
        form = search.best(size, plan.n)
        return [form, search.low_rank(size) or form] if form else []

    shared = shared_names(model, orders)
    forms = survey(model, [name for name in orders if name not in shared], batches, best, progress)
    for name, (_, problem) in shared_problems(model, shared, batches).items():
        forms[name] = tuple(best(name, Search(problem)))
    found = [{name: pair[i] for name, pair in forms.items() if pair} for i in (0, 1)]
    chosen, thin = (_choice(plan, each) for each in found)
    lost = [sum(form.loss for form in each.values()) for each in found]
    return (chosen, thin) if chosen != thin and lost[1] <= _NEAR * lost[0] else (chosen,)


def _choice(plan: Plan, forms: Mapping[str, Form]) -> Choice:
    orders = {name: form.order for name, form in forms.items()}
    return Choice(with_orders(plan, orders), {name: math.sqrt(form.loss) for name, form in forms.items()})


class Budgeting:
    """Plans for budgets from the curves of a network's weights.

    Args:
        model: The original.
        traced: Its sites.
        plan: Which weights may be converted.
        batches: Calibration inputs.
        progress: Told how far it is.
        kept_in: A file that holds the curves, or will; measured anew where it is for other contents.

    Attributes:
        total: The parameters of the whole network.

    Raises:
        PlanError: no weight could be measured.
    """

    def __init__(
        self,
        model: nn.Module,
        traced: Trace,
        plan: Plan,
        batches: Sequence[Batch],
        progress: Progress | None = None,
        kept_in: Path | None = None,
    ) -> None:
        orders = plan.conversions
        shared = shared_names(model, orders)
        sites = {site.name: site for site in traced.sites if site.name in orders}
        sizes = {name: site.parameters for name, site in sites.items() if name not in shared}
        self._plan, self.total = plan, traced.parameters
        self._curves = _kept_curves(model, sizes, batches, progress, kept_in)
        if not self._curves:
            raise PlanError("the data reaches none of the weights that could be converted")
        unmeasured = {name: site for name, site in sites.items() if name not in self._curves}
        self._fixed = traced.parameters - sum(site.parameters for site in sites.values())
        self._fixed += sum(orders[name].parameters(site.matrix or ()) for name, site in unmeasured.items())

    @property
    def least(self) -> int:
        """The parameters of the smallest network that the curves allow."""
        return self._fixed + sum(min(p.parameters for p in points) for points in self._curves.values())

    def choose(self, parameters: int) -> Choice:
        """The plan that does least damage with at most so many parameters of the whole network.

        Raises:
            PlanError: the budget is below `least`.
        """
        if parameters < self.least:
            raise PlanError(
                f"the network cannot be made that small: at least {self.least:,} of its {self.total:,} "
                f"parameters stay ({self.least / self.total:.1%}); the budget is {parameters:,}",
                hint="ask for a larger budget, or let more weights in (--min-share 0, fewer --exclude)",
            )
        points = allocate(self._curves, parameters - self._fixed)
        plan = with_orders(self._plan, {name: point.order for name, point in points.items()})
        n = max(1, round(self.total / max(parameters, 1)))
        errors = {name: math.sqrt(point.loss) for name, point in points.items()}
        return Choice(Plan(n, plan.decisions), errors, _damage(points))

    def levels(self) -> tuple[Level, ...]:
        """Sizes of the whole network, falling, and the damage expected at each."""
        shares = [share for share in LEVELS if share * self.total >= self.least]
        found = [allocate(self._curves, int(share * self.total) - self._fixed) for share in shares]
        return tuple(Level(share, _damage(points)) for share, points in zip(shares, found, strict=True))


def _damage(points: Mapping[str, Point]) -> float:
    return sum(point.damage for point in points.values())


def _kept_curves(
    model: nn.Module,
    sizes: Mapping[str, int],
    batches: Sequence[Batch],
    progress: Progress | None,
    kept_in: Path | None,
) -> Curves:
    if kept_in is None:
        return measure_curves(model, sizes, batches, progress)
    key = contents_key(model, batches, sizes)
    curves = read_curves(kept_in, key)
    if curves is None:
        curves = measure_curves(model, sizes, batches, progress)
        write_curves(kept_in, key, curves)
    return curves
