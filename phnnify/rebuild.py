"""A fresh network, and the plan and tensors of a converted one → the converted network again."""

from __future__ import annotations

from torch import nn

from phnnify.algebra import Factors, Order
from phnnify.archive import Content
from phnnify.errors import FileError, ModelError, PlanError
from phnnify.folders import METADATA_KEY
from phnnify.plan import parse_plan
from phnnify.rewrite import rewrite
from phnnify.weights import load_weights


def rebuild(model: nn.Module, content: Content, source: str) -> nn.Module:
    """The network as it was converted: the plan applied, with the weights of the file.

    Args:
        model: A network of the original's class. It is not changed.
        content: What the file of a converted network holds: tensors, and the plan in the metadata.
        source: What to call it in messages.

    Raises:
        FileError: the tensors are not those of the plan.
        ModelError: the network is another one.
        PlanError: the plan is damaged.
    """
    plan = parse_plan(content.metadata[METADATA_KEY])
    tensors = content.tensors
    factors = {}
    for name, order in plan.conversions.items():
        prefix = "" if name == "weight" and "A" in tensors else f"{name}."
        try:
            present = "ASUV" if order.rank else "AS"
            factors[name] = Factors(*(tensors[f"{prefix}{factor}"] for factor in present))
        except KeyError as error:
            raise FileError(f"{source} is damaged: its plan converts {name}, but it has no {error}") from None
        if not _have_order(factors[name], order):
            raise FileError(f"{source} is damaged: the factors of {name} are not those of its plan")
    try:
        converted = rewrite(model, factors)
    except (ValueError, PlanError) as error:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: {error}",
            hint="give a network of the class that was converted",
        ) from None
    load_weights(converted, tensors, source)
    return converted


def _have_order(factors: Factors, order: Order) -> bool:
    ranks = [] if factors.U is None or factors.V is None else [factors.U.shape[1:], factors.V.shape[:1]]
    algebra = (order.terms, order.n_out, order.n_in)
    return tuple(factors.A.shape) == algebra and all(tuple(rank) == (order.rank,) for rank in ranks)
