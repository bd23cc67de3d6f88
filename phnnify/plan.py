"""Sites and options → a plan: for each weight, convert (with its order) or keep (with the reason).

A plan is a plain value. It can be printed, written to a file (`plan_file`), edited, and given back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor

from phnnify.algebra import Order
from phnnify.algebras import LEARNED, NAMES, SHARED, Algebra, named_algebra, stacked
from phnnify.errors import PlanError, UsageError
from phnnify.trace import Site, Trace

WORTH_ITS_SIZE = "worth its size: the budget is better saved elsewhere"


@dataclass(frozen=True)
class PlanOptions:
    """What decides between convert and keep.

    Attributes:
        n: Keep about 1/n of each converted weight.
        include: Patterns (`layer3.*`); where there are any, only matching weights are converted, and small
            ones too.
        exclude: Patterns of weights to keep.
        min_share: Weights with a smaller part of the network's parameters are kept (0.005 is 0.5 %); those of
            experts count together.
        low_rank: The part of each weight's size that goes to a low-rank term, 0 to 1; None where forms are
            chosen later.
        embeddings: Whether embedding tables, and what is tied to them, may be converted.
        algebra: A fixed one for all weights, of dimension n; None: learned.
        share_algebra: Whether weights of the same form learn one algebra together.
        fresh: Whether the network is to be trained from scratch, with the papers' order n everywhere.

    Raises:
        UsageError: n is below 2 (1 for the real algebra) or not the algebra's dimension, or min_share or
            low_rank is not within 0 to 1.
    """

    n: int = 4
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_share: float = 0.005
    low_rank: float | None = 0.0
    embeddings: bool = False
    algebra: Algebra | None = None
    share_algebra: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.algebra and self.algebra.n != self.n:
            raise UsageError(
                f"n is {self.n}; the {self.algebra.name} algebra has dimension {self.algebra.n}",
                hint="leave n out",
            )
        if self.n < 2 and not self.algebra:
            raise UsageError(f"n is {self.n}; it must be at least 2 to make anything smaller")
        if not 0 <= self.min_share <= 1:
            raise UsageError(f"the minimum share is {self.min_share}; it must be within 0 to 1")
        if self.low_rank is not None and not 0 <= self.low_rank <= 1:
            raise UsageError(f"the low-rank share is {self.low_rank}; it must be within 0 to 1")


@dataclass(frozen=True)
class Decision:
    """What happens to one weight: `order` is set where it is converted, else `reason`.

    `algebra` is 'learned', 'shared' (learned by all such weights of the same order together), or the name of
    a fixed one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    order: Order | None = None
    reason: str | None = None
    algebra: str = LEARNED


@dataclass(frozen=True)
class Plan:
    """Decisions about the weights of a network, in execution order, made for 1/n of the parameters.

    `constants` are the fixed algebras that are not among `algebras.NAMES`.

    Raises:
        PlanError: a fixed algebra is unknown, or has another order than its weight.
    """

    n: int
    decisions: tuple[Decision, ...]
    constants: tuple[Algebra, ...] = ()

    def __post_init__(self) -> None:
        for name, order in self.conversions.items():
            fixed = self.fixed(name)
            if fixed is not None and (order.terms, order.n_out, order.n_in) != fixed.shape:
                n = order.n_in
                raise PlanError(
                    f"the plan gives {name} the {self.algebras[name]} algebra, which needs {Order(n, n, n)}, "
                    f"and {order}"
                )

    @property
    def conversions(self) -> dict[str, Order]:
        """The orders of the weights that are converted, by name."""
        return {d.name: d.order for d in self.decisions if d.order is not None}

    @property
    def algebras(self) -> dict[str, str]:
        """What the algebras of the weights that are converted are, by name of the weight."""
        return {d.name: d.algebra for d in self.decisions if d.order is not None}

    def fixed(self, name: str) -> Tensor | None:
        """The fixed algebra of a weight that is converted, stacked where its rows are; None where learned."""
        algebra, order = self.algebras[name], self.conversions[name]
        if algebra in (LEARNED, SHARED):
            return None
        own = next((own for own in self.constants if own.name == algebra), None)
        try:
            A = (own or named_algebra(algebra, order.n_in)).A()
        except ValueError as error:
            raise PlanError(f"the plan's algebra for {name}: {error}") from None
        parts = order.n_out // len(A) if order.n_out % len(A) == 0 and order.n_out == order.terms else 1
        return stacked(A, parts)

    def sizes(self, matrices: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """How many parameters each converted weight has, by name.

        A shared algebra counts with the first weight that has it, a fixed one nowhere.

        Args:
            matrices: The shapes (out, in, *kernel) by name.
        """
        sizes: dict[str, int] = {}
        seen: set[tuple[int, int, int]] = set()
        for name, order in self.conversions.items():
            form = (order.terms, order.n_out, order.n_in)
            algebra = self.algebras[name]
            held = algebra == LEARNED or (algebra == SHARED and form not in seen)
            seen |= {form} if algebra == SHARED else set()
            sizes[name] = order.parameters(matrices[name]) - (0 if held else math.prod(form))
        return sizes


def make_plan(trace: Trace, options: PlanOptions) -> Plan:
    """Decide about every site of a trace.

    Raises:
        PlanError: a pattern matches no weight.
    """
    names = [site.name for site in trace.sites]
    for option, patterns in (("include", options.include), ("exclude", options.exclude)):
        for pattern in patterns:
            if not _matches(names, [pattern]):
                shown = ", ".join(names[:3])
                raise PlanError(f"--{option} {pattern!r} matches no weight", hint=f"names look like {shown}")
    own = () if options.algebra is None or options.algebra.name in NAMES else (options.algebra,)
    return Plan(options.n, tuple(_decide(site, options) for site in trace.sites), own)


def _matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _decide(site: Site, options: PlanOptions) -> Decision:
    reason = _reason_to_keep(site, options)
    if reason or site.matrix is None:
        return Decision(site.name, site.kind, site.shape, reason=reason)
    order = _with_share(_order(site.matrix, options), site.matrix, options.low_rank or 0.0)
    if fixed := options.algebra:
        order = Order(site.parts * fixed.n, fixed.n, site.parts * fixed.n)
        return Decision(site.name, site.kind, site.shape, order=order, algebra=fixed.name)
    algebra = SHARED if options.share_algebra else LEARNED
    return Decision(site.name, site.kind, site.shape, order=order, algebra=algebra)


def _order(matrix: Sequence[int], options: PlanOptions) -> Order:
    """The papers' order n, or a form of that size where n asks for no more than a size."""
    if options.fresh or options.share_algebra or options.algebra:
        return Order.closest(matrix[0], matrix[1], options.n)
    order = Order.sized(matrix, options.n)
    size, row = math.prod(matrix), matrix[0] + math.prod(matrix[1:])
    if order.n_out * order.n_in > 1 or options.low_rank == 0 or not size:
        return order
    return Order.low_rank(max(1, size // (options.n * row)))


def _with_share(order: Order, matrix: Sequence[int], share: float) -> Order:
    """A form of the same size with about this part of it in a low-rank term."""
    size, row = order.parameters(matrix), matrix[0] + math.prod(matrix[1:])
    terms = round((1 - share) * order.terms)
    fewer = Order(order.n_out, order.n_in, terms) if terms else None
    rank = (size - (fewer.parameters(matrix) if fewer else 0)) // row
    rank = min(rank, matrix[0], row - matrix[0])
    if fewer is None:
        return Order.low_rank(rank) if rank else order
    return Order(order.n_out, order.n_in, terms, rank)


def _reason_to_keep(site: Site, options: PlanOptions) -> str | None:
    if _matches([site.name], options.exclude):
        return "excluded by the user"
    if options.include and not _matches([site.name], options.include):
        return "not included by the user"
    if site.obstacle or site.matrix is None:
        return site.obstacle
    if site.table and not options.embeddings:
        tied = f", tied to {', '.join(site.ties)}" if site.ties else ""
        return f"an embedding table{tied}: --embeddings converts it"
    rows = (site.matrix[0] // site.parts, *site.matrix[1:]) if options.algebra else site.matrix
    if reason := _reason_of_order(rows, options):
        return reason
    share = site.share * site.siblings
    if share < options.min_share and not options.include:
        return f"small: {share:.2%} of the parameters, below {options.min_share:.2%}"
    return None


def _reason_of_order(matrix: Sequence[int], options: PlanOptions) -> str | None:
    """Why a weight of this shape is no smaller in this form, or does not have it."""
    out, columns = matrix[:2]
    order = _order(matrix, options)
    fixed = options.algebra
    if fixed and (order.n_out, order.n_in) != (fixed.n, fixed.n):
        return f"the {fixed.name} algebra needs sides that {fixed.n} divides, not {out} and {columns}"
    if fixed and fixed.n == 1:
        return None  # as it was, which is what the real algebra asks for
    if order.terms and order.n_out * order.n_in == 1:
        return f"order does not fit: no number up to {options.n} divides {out} or {columns}"
    size = order.parameters(matrix) - (order.terms * order.n_out * order.n_in if fixed else 0)
    return None if size < math.prod(matrix) else f"no saving: {size} numbers in place of {math.prod(matrix)}"


def with_orders(plan: Plan, orders: Mapping[str, Order | None]) -> Plan:
    """The plan with other orders for weights that it converts; None keeps a weight as worth its size."""
    decisions = []
    for decision in plan.decisions:
        if decision.order is None or decision.name not in orders:
            decisions.append(decision)
            continue
        order = orders[decision.name]
        decisions.append(replace(decision, order=order, reason=None if order else WORTH_ITS_SIZE))
    return Plan(plan.n, tuple(decisions), plan.constants)


def check_plan(plan: Plan, trace: Trace) -> Plan:
    """The plan as it applies to a network: its decisions in the order of the trace, others kept.

    Raises:
        PlanError: it names an unknown weight, one with another shape, one that cannot be converted, or an
            order that does not fit it.
    """
    sites = {site.name: site for site in trace.sites}
    decided = {decision.name: decision for decision in plan.decisions}
    unknown = [name for name in decided if name not in sites]
    if unknown:
        raise PlanError(
            f"the plan names {_first(unknown)}, which the network does not have",
            hint="write a plan for this network with `phnnify inspect MODEL --plan FILE`",
        )
    for decision in decided.values():
        _check_decision(decision, sites[decision.name])
    kept = {s.name: Decision(s.name, s.kind, s.shape, reason="not in the plan") for s in trace.sites}
    return Plan(plan.n, tuple({**kept, **decided}[site.name] for site in trace.sites), plan.constants)


def _check_decision(decision: Decision, site: Site) -> None:
    if decision.shape != site.shape:
        raise PlanError(f"the plan has {decision.name} as {decision.shape}; the network's is {site.shape}")
    if decision.order is None:
        return
    if site.obstacle or site.matrix is None:
        raise PlanError(f"the plan converts {site.name}, which must stay: {site.obstacle}")
    if not decision.order.fits(site.matrix):
        raise PlanError(f"the plan's {decision.order} does not fit {site.name} of shape {site.matrix}")


def require_conversions(plan: Plan) -> None:
    """Refuse a plan of a whole network that converts nothing.

    Raises:
        PlanError: no weight is converted; the first reasons are told.
    """
    if plan.conversions:
        return
    reasons = [f"{decision.name}: {decision.reason}" for decision in plan.decisions]
    found = "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    raise PlanError(
        f"no weight can be converted ({found or 'the network has none'})",
        hint="`phnnify inspect` lists every weight with its reason; --min-share 0 lets small ones in"
        if reasons
        else None,
    )


def _first(names: Sequence[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
