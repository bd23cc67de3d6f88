"""A fresh network, and the plan and tensors of a converted one → the converted network again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from phnnify.algebra import Factors, Order
from phnnify.archive import Content
from phnnify.errors import FileError, ModelError, PlanError
from phnnify.folders import METADATA_KEY
from phnnify.given import sharing
from phnnify.hollow import fill_
from phnnify.plan import Plan
from phnnify.plan_file import parse_plan
from phnnify.rewrite import rewrite
from phnnify.weights import load_weights


def rebuild(model: nn.Module, content: Content, source: str) -> nn.Module:
    """The network as it was converted: the plan applied, with the weights of the file.

    Args:
        model: A network of the original's class, also one without data (`hollow`). It is not changed.
        content: What the file of a converted network holds: tensors, and the plan in the metadata.
        source: What to call it in messages.

    Raises:
        FileError: the tensors are not those of the plan.
        ModelError: the network is another one.
        PlanError: the plan is damaged.
    """
    plan = parse_plan(content.metadata[METADATA_KEY])
    factors = factors_of(plan, content.tensors, source)
    try:
        converted = rewrite(model, factors, plan.algebras)
    except (ValueError, PlanError) as error:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: {error}",
            hint="give a network of the class that was converted",
        ) from None
    fill_(converted)
    load_weights(converted, content.tensors, source)
    return converted


def factors_of(plan: Plan, tensors: Mapping[str, Any], source: str) -> dict[str, Factors]:
    """The factors of each converted weight, by its name.

    Args:
        plan: How the network was converted.
        tensors: What its file holds, by name.
        source: What to call it in messages.

    Raises:
        FileError: the tensors are not those of the plan.
    """
    factors = {}
    groups = {name: names for names in sharing(plan).values() for name in names}
    for name, order in plan.conversions.items():
        prefix = "" if name == "weight" and "S" in tensors else f"{name}."
        own = f"{prefix}A"  # a shared algebra is written once, under the name of any that has it
        written = [own, *(f"{other}.A" for other in groups.get(name, ()))]
        keys = [next((key for key in written if key in tensors), own)]
        keys += [f"{prefix}{factor}" for factor in ("SUV" if order.rank else "S")]
        try:
            factors[name] = Factors(*(tensors[key] for key in keys))
        except KeyError as error:
            raise FileError(f"{source} is damaged: its plan converts {name}, but it has no {error}") from None
        if not _have_order(factors[name], order):
            raise FileError(f"{source} is damaged: the factors of {name} are not those of its plan")
    return factors


def _have_order(factors: Factors, order: Order) -> bool:
    ranks = [] if factors.U is None or factors.V is None else [factors.U.shape[1:], factors.V.shape[:1]]
    algebra = (order.terms, order.n_out, order.n_in)
    return tuple(factors.A.shape) == algebra and all(tuple(rank) == (order.rank,) for rank in ranks)
