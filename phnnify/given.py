"""Algebras that weights do not find for themselves: fixed ones, and those that several weights share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from phnnify.algebra import Order
from phnnify.algebras import LEARNED, SHARED, Algebra, recognised, unstacked
from phnnify.errors import ModelError, PlanError
from phnnify.factorization import common_algebra
from phnnify.layers import PHMLayer
from phnnify.plan import Plan


def given_algebras(plan: Plan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The algebra (terms, n_out, n_in) of each weight whose algebra is fixed or shared, by name.

    A shared one is that with which all weights of its order are approximated best together.

    Args:
        plan: Says which.
        weights: (out, in, *kernel), by name.

    Raises:
        PlanError: such a weight is to have a low-rank term too, for which there is no fit.
        ModelError: a weight holds values that are not finite.
    """
    found = {}
    for name in plan.conversions:
        fixed = plan.fixed(name)
        if fixed is not None:
            found[name] = fixed.to(weights[name].dtype)
    for order, names in sharing(plan).items():
        try:
            shared = common_algebra([weights[name] for name in names], order)
        except ValueError as error:
            raise ModelError(f"one of {', '.join(names)} cannot be fitted: {error}") from None
        found |= dict.fromkeys(names, shared)
    for name in found:
        if plan.conversions[name].rank:
            raise PlanError(
                f"the plan gives {name} a low-rank term and the {plan.algebras[name]} algebra",
                hint="a low-rank term can be fitted only where each weight learns an algebra of its own",
            )
    return found


def sharing(plan: Plan) -> dict[Order, list[str]]:
    """The weights that share an algebra, by their order without its rank."""
    groups: dict[Order, list[str]] = {}
    for name, order in plan.conversions.items():
        if plan.algebras[name] == SHARED and order.terms:
            groups.setdefault(Order(order.n_out, order.n_in, order.terms), []).append(name)
    return groups


def shown_algebras(layers: Mapping[str, PHMLayer]) -> tuple[dict[str, str], tuple[Algebra, ...]]:
    """What the algebras of layers are, as a plan says it, and the fixed ones that have no name.

    Args:
        layers: By name; those that have the filters of another are the same weight.

    Raises:
        PlanError: a plan cannot say it.
    """
    uses = Counter(algebra for algebra, _ in {(id(layer.A), id(layer.S)) for layer in layers.values()})
    shared: dict[torch.Size, set[int]] = {}
    found: dict[str, str] = {}
    own: list[Algebra] = []
    for name, layer in layers.items():
        if layer.has_fixed_algebra:
            found[name] = _name_of_fixed(name, layer.A, own)
        elif uses[id(layer.A)] > 1:
            found[name] = SHARED
            shared.setdefault(layer.A.shape, set()).add(id(layer.A))
        else:
            found[name] = LEARNED
    if any(len(group) > 1 for group in shared.values()):
        raise PlanError(
            "layers of the same order share several algebras, which a plan cannot say",
            hint="write a .pt file",
        )
    return found, tuple(own)


def _name_of_fixed(name: str, A: Tensor, own: list[Algebra]) -> str:
    """The name of a fixed algebra; one without gets its place in `own`."""
    A = unstacked(A)
    if known := recognised(A):
        return known.name
    try:
        algebra = Algebra.of(f"own-{len(own) + 1}", A)
    except ValueError as error:
        raise PlanError(f"the fixed algebra of {name}: {error}", hint="write a .pt file") from None
    known = next((other for other in own if other.constants == algebra.constants), None)
    if known is None:
        own.append(algebra)
    return (known or algebra).name
