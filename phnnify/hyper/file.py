"""A hypernetwork in a file: what its metadata says, and making one of a fresh network and such a file.

The metadata hold, as JSON, how each hypernetwork was made, the inner ones of a nest first, and the plan of a
network with PHM layers. The tensors are those of the state dict. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from phnnify.algebra import Factors, empty_factors
from phnnify.archive import Content
from phnnify.errors import FileError, ModelError, PhnnifyError, UsageError
from phnnify.hyper.network import HyperNetwork, HyperOptions
from phnnify.measure import copied
from phnnify.opened import open_modules
from phnnify.plan import Plan
from phnnify.plan_file import parse_plan, plan_json
from phnnify.rewrite import dense_weights, rewrite
from phnnify.weights import load_weights

HYPER_KEY = "phnnify.hyper"
"""Where the metadata of a hypernetwork's safetensors file say how it was made."""


def inner_network(model: nn.Module) -> nn.Module:
    """The network inside of all hypernetworks around it."""
    while isinstance(model, HyperNetwork):
        model = model.network
    return model


def describe_hyper(hyper: HyperNetwork, plan: Plan) -> str:
    """What the metadata say.

    Args:
        hyper: The hypernetwork.
        plan: That of the network inside; one without conversions where it has no PHM layers.
    """
    made = [asdict(options) for options in reversed(list(_options(hyper)))]
    document = {"made": made, "plan": json.loads(plan_json(plan)) if plan.conversions else None}
    return json.dumps(document, sort_keys=True)


def _options(model: nn.Module) -> Iterator[HyperOptions]:
    while isinstance(model, HyperNetwork):
        yield model.options
        model = model.network


def rebuild_hyper(model: nn.Module, content: Content, source: str) -> HyperNetwork:
    """The hypernetwork of a file.

    Args:
        model: A network of the original's class. It is not changed.
        content: What the file holds.
        source: What to call it in messages.

    Raises:
        FileError: the metadata are damaged.
        ModelError: the network is another one.
    """
    made, plan = _parse(content.metadata[HYPER_KEY], source)
    try:
        network = copied(model, {})
        if plan:
            network = rewrite(network, _blank_factors(network, plan), plan.algebras)
        for options in made:
            network = HyperNetwork(network, options)
    except (ValueError, PhnnifyError) as error:
        raise ModelError(
            f"{source} does not fit {type(model).__name__}: {error}",
            hint="give a network of the class that it was made from",
        ) from None
    if not isinstance(network, HyperNetwork):
        raise FileError(f"{source} is damaged: it holds no hypernetwork")
    load_weights(network, content.tensors, source)
    return network


def _parse(text: str, source: str) -> tuple[list[HyperOptions], Plan | None]:
    """How the hypernetworks were made, and the plan of the network inside.

    Raises:
        FileError: the text says something else.
        PlanError: the plan is damaged.
    """
    try:
        document = json.loads(text)
        made = [_read_options(item) for item in document["made"]]
        plan = document["plan"]
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise FileError(f"{source} is damaged: what it says about its hypernetwork: {error}") from None
    return made, parse_plan(json.dumps(plan)) if plan is not None else None


def _read_options(item: dict[str, Any]) -> HyperOptions:
    values = {field.name: item[field.name] for field in fields(HyperOptions)}
    names = ("activation", "norm", "formulation")
    if not all(isinstance(values[name], str) for name in names) or not isinstance(values["inputs"], dict):
        raise TypeError("a value of another kind")
    values["layers"] = tuple(str(name) for name in values["layers"])
    values["hidden"] = tuple(int(width) for width in values["hidden"])
    return HyperOptions(**{**values, "spread": float(values["spread"])})


def _blank_factors(network: nn.Module, plan: Plan) -> dict[str, Factors]:
    """Factors of the plan's orders, to be filled."""
    orders = plan.conversions
    weights = dense_weights(open_modules(network, orders), orders)
    for name, weight in weights.items():
        if not orders[name].fits(weight.shape):
            raise ValueError(f"{orders[name]} does not fit {name} of shape {tuple(weight.shape)}")
    return {name: empty_factors(weight, orders[name]) for name, weight in weights.items()}
