"""The plan that a converted network follows, as its layers show."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from torch import nn

from phnnify.algebras import Algebra
from phnnify.given import shown_algebras
from phnnify.layers import PHMLayer
from phnnify.measure import submodule
from phnnify.plan import Decision, Plan
from phnnify.trace import Trace


def plan_of(model: nn.Module) -> Plan:
    """The plan of a network alone; layers that share factors count once."""
    layers: dict[str, PHMLayer] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, PHMLayer) and id(module.S) not in seen:
            layers[name or "weight"] = module
            seen.add(id(module.S))
    algebras, own = shown_algebras(layers)
    decisions = [
        Decision(name, m.twin.__name__, tuple(m.dense_shape), order=m.order, algebra=algebras[name])
        for name, m in layers.items()
    ]
    return _plan(decisions, own)


def plan_beside(traced: Trace, student: nn.Module) -> Plan:
    """The plan of a network beside its original: what became of each of the original's weights."""
    layers: dict[str, PHMLayer] = {}
    for site in traced.sites:
        with contextlib.suppress(AttributeError):
            layer = submodule(student, site.name)
            layers |= {site.name: layer} if isinstance(layer, PHMLayer) else {}
    algebras, own = shown_algebras(layers)
    decisions = [
        Decision(site.name, site.kind, site.shape, layers[site.name].order, algebra=algebras[site.name])
        if site.name in layers
        else Decision(site.name, site.kind, site.shape, reason="it is not converted in the student")
        for site in traced.sites
    ]
    return _plan(decisions, own)


def _plan(decisions: Sequence[Decision], own: tuple[Algebra, ...]) -> Plan:
    return Plan(max((d.order.terms for d in decisions if d.order), default=1), tuple(decisions), own)
