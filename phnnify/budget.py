"""A budget for the whole network → a form for each weight.

Each weight has a curve: forms of falling size, the damage that each alone does to the network's answer, and
the error of the weight's own outputs. Damages measured one at a time don't add up when all weights change at
once: the more a weight errs, the more its neighbours' errors count. What is summed is therefore

    cost = damage · loss,

which predicted the accuracy of converted networks best among the damage, the loss, their powers and products
(examples/benchmarks/budget_table.py). The least sum under a budget is found by a Lagrangian sweep: on the
lower convex hull of every curve, steps from a form to the next smaller one are taken in order of cost per
parameter saved, until the network is small enough. The result is the best there is, to within one step of one
weight; where the last step saved more than needed, steps are taken back as far as the budget allows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phnnify.algebra import Order
from phnnify.errors import PlanError, UsageError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Point:
    """One form of a weight, and what it is expected to do.

    Attributes:
        order: None for the weight as it is.
        parameters: The numbers it holds.
        damage: The change of the network's answer (`evaluate.output_change`).
        loss: The relative squared error of the weight's own outputs.
    """

    order: Order | None
    parameters: int
    damage: float
    loss: float = 0.0

    @property
    def cost(self) -> float:
        """What is summed over all weights."""
        return self.damage * self.loss


@dataclass(frozen=True)
class Budget:
    """A size for the whole network: a share of its parameters, or bytes.

    Attributes:
        share: 0 to 1.
        bytes: Of all tensors.
    """

    share: float | None = None
    bytes: int | None = None

    def parameters(self, total: int, tensor_bytes: int) -> int:
        """The parameters that a network of `total` parameters and `tensor_bytes` bytes may keep."""
        if self.bytes is None:
            return int((self.share or 0.0) * total)
        return int(total * self.bytes / tensor_bytes)


def parse_budget(text: str) -> Budget:
    """Read '25%' or '1.5MB' (also B, kB, GB, KiB, MiB, GiB).

    Raises:
        UsageError: it is neither, or not above zero, or not below 100 %.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|[kmg]?i?b)\s*", text, re.IGNORECASE)
    unit = match.group(2).upper() if match else ""
    if match is None or (unit != "%" and unit not in _UNITS):
        raise UsageError(f"--budget {text!r} is no size", hint="such as 25% (of the parameters) or 1.5MB")
    number = float(match.group(1))
    if number <= 0 or (unit == "%" and number >= 100):
        raise UsageError(f"--budget {text!r} must be above 0 and below the whole network")
    return Budget(share=number / 100) if unit == "%" else Budget(bytes=int(number * _UNITS[unit]))


def allocate(curves: Mapping[str, Sequence[Point]], limit: int) -> dict[str, Point]:
    """Choose a point of every curve so that the cost is least and at most `limit` parameters are kept.

    Args:
        curves: By name of the weight; each holds the weight as it is.
        limit: For all of them together.

    Raises:
        PlanError: even the smallest forms are too large.
    """
    hulls = {name: _hull(points) for name, points in curves.items()}
    least = sum(hull[-1].parameters for hull in hulls.values())
    if least > limit:
        raise PlanError(
            f"the weights that can be converted take at least {least:,} numbers; the budget leaves {limit:,}",
            hint="ask for a larger budget, or let more weights in (--min-share 0, fewer --exclude)",
        )
    at = dict.fromkeys(hulls, 0)
    size = sum(hull[0].parameters for hull in hulls.values())
    steps = sorted(
        (_rate(hull[i], hull[i + 1]), name, i) for name, hull in hulls.items() for i in range(len(hull) - 1)
    )
    for _, name, i in steps:
        if size <= limit:
            break
        size -= hulls[name][i].parameters - hulls[name][i + 1].parameters
        at[name] = i + 1
    for _, name, i in reversed(steps):  # what the last step saved beyond need
        more = hulls[name][i].parameters - hulls[name][i + 1].parameters
        if at[name] == i + 1 and size + more <= limit:
            size += more
            at[name] = i
    return {name: hull[at[name]] for name, hull in hulls.items()}


def _rate(larger: Point, smaller: Point) -> float:
    """Cost for each parameter saved."""
    return (smaller.cost - larger.cost) / (larger.parameters - smaller.parameters)


def _hull(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull, from the largest form to the smallest."""
    hull: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.parameters, point.cost)):
        if hull and (point.parameters == hull[-1].parameters):
            continue
        while hull and point.cost <= hull[-1].cost:
            hull.pop()
        while len(hull) > 1 and _rate(hull[-1], point) <= _rate(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull
