"""A plan as text and back: TOML to read and edit, JSON for the metadata of other files."""

from __future__ import annotations

import json
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from phnnify.algebra import Order
from phnnify.algebras import LEARNED, Algebra, own_algebra
from phnnify.errors import PlanError
from phnnify.plan import Decision, Plan

VERSION = 1
_KEYS = ("name", "kind", "shape", "order", "terms", "rank", "algebra", "reason")


def plan_json(plan: Plan) -> str:
    """One line of JSON; inverse of `parse_plan`."""
    return json.dumps(_document(plan))


def plan_toml(plan: Plan) -> str:
    """TOML with one table per weight; inverse of `parse_plan`."""
    document = tomlkit.document()
    document.add(tomlkit.comment("What happens to each weight. An order [n_out, n_in] with terms converts,"))
    document.add(tomlkit.comment("and a rank adds a low-rank term (alone: order [1, 1], terms 0);"))
    document.add(tomlkit.comment("a reason keeps. algebra: learned (the default), shared, or a name."))
    document.add(tomlkit.comment("Edit it and give it back with --plan."))
    document.update(_document(plan))
    return tomlkit.dumps(document)


def _document(plan: Plan) -> dict[str, Any]:
    document: dict[str, Any] = {"version": VERSION, "n": plan.n}
    if plan.constants:
        document["constants"] = {algebra.name: algebra.lists() for algebra in plan.constants}
    return {**document, "layers": [_entry(decision) for decision in plan.decisions]}


def _entry(decision: Decision) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": decision.name, "kind": decision.kind, "shape": list(decision.shape)}
    if decision.order is None:
        return {**entry, "reason": decision.reason or "kept"}
    order = decision.order
    entry |= {"order": [order.n_out, order.n_in], "terms": order.terms}
    entry |= {"rank": order.rank} if order.rank else {}
    return entry if decision.algebra == LEARNED else {**entry, "algebra": decision.algebra}


def parse_plan(text: str) -> Plan:
    """Read a plan from TOML or JSON; inverse of `plan_toml` and `plan_json`.

    Raises:
        PlanError: the text is neither, or an entry is incomplete or makes no sense.
    """
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else tomlkit.parse(text).unwrap()
    except (ValueError, TOMLKitError, RecursionError) as error:
        raise PlanError(f"the plan is neither TOML nor JSON: {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise PlanError(f"not a plan of version {VERSION}: it needs `version = {VERSION}` at its top")
    n, layers = document.get("n"), document.get("layers")
    if type(n) is not int or n < 1 or not isinstance(layers, list):
        raise PlanError("the plan needs a whole number `n` and a list `layers`")
    decisions = tuple(_read_entry(entry, i) for i, entry in enumerate(layers))
    names = [decision.name for decision in decisions]
    if len(set(names)) < len(names):
        raise PlanError(f"the plan names {next(x for x in names if names.count(x) > 1)} twice")
    return Plan(n, decisions, _read_constants(document.get("constants", {})))


def _read_constants(given: Any) -> tuple[Algebra, ...]:
    if not isinstance(given, dict):
        raise PlanError("`constants` of the plan should be a table of algebras by name")
    try:
        return tuple(own_algebra(str(name), values) for name, values in given.items())
    except ValueError as error:
        raise PlanError(f"the plan's constants: {error}") from None


def _read_entry(entry: Any, index: int) -> Decision:
    if isinstance(entry, dict) and (unknown := [key for key in entry if key not in _KEYS]):
        raise PlanError(
            f"layer {index + 1} of the plan has {', '.join(map(repr, unknown))}, which means nothing there",
            hint=f"what means something is {', '.join(_KEYS)}",
        )
    try:
        shape = _whole_numbers(entry["shape"])
        name, kind = entry["name"], entry["kind"]
        if not (isinstance(name, str) and isinstance(kind, str)):
            raise TypeError("name and kind must be text")
        if "order" not in entry:
            return Decision(name, kind, shape, reason=str(entry.get("reason", "kept")))
        n_out, n_in = _whole_numbers(entry["order"])
        terms, rank = _whole_numbers([entry["terms"], entry.get("rank", 0)], least=0)
        algebra = entry.get("algebra", LEARNED)
        if not isinstance(algebra, str):
            raise TypeError("algebra must be text")
        return Decision(name, kind, shape, order=Order(n_out, n_in, terms, rank), algebra=algebra)
    except KeyError as error:
        raise PlanError(f"layer {index + 1} of the plan has no {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"layer {index + 1} of the plan cannot be read: {error}") from None


def _whole_numbers(values: Any, least: int = 1) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and value >= least for value in values):
        raise TypeError(f"{values!r} should be a list of whole numbers of at least {least}")
    return tuple(values)
