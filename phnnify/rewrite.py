"""A network and factors → a new network with PHM layers in place of the chosen dense ones.

The original is untouched. The new network is a deep copy made with a memo in which each chosen dense layer
already has its PHM layer as its copy: so every reference to it, registered or not, once or many times, finds
the PHM layer; ties between other parameters stay ties; and the class stays the user's. Modules that hide
chosen weights are opened first (`opened`); all others stay what they are. Layers that share a weight share
its factors; layers with weights of their own may share an algebra.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from phnnify.algebra import Factors
from phnnify.algebras import LEARNED, SHARED
from phnnify.errors import PlanError
from phnnify.layers import PHMLayer, PHMLinear
from phnnify.measure import copied, owners, submodule
from phnnify.opened import open_modules
from phnnify.rules import rule_for


def dense_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights of the named sites as (out, in, *kernel), the way the algebra sees them.

    Raises:
        PlanError: there is no dense layer of that name.
    """
    weights = {}
    for name in names:
        module, layer = _dense_layer(model, name)
        weights[name] = layer.orient(module.get_parameter("weight").detach())
    return weights


def rewrite(
    model: nn.Module, factors: Mapping[str, Factors], algebras: Mapping[str, str] | None = None
) -> nn.Module:
    """The network with PHM layers in place of the named sites.

    Args:
        model: The original.
        factors: By name of the site.
        algebras: As in a plan, by name of the site: 'learned' (the default), 'shared', or that of a fixed
            one. The factors hold their values, equal ones where they are shared.

    Raises:
        PlanError: there is no dense layer of that name.
        ModelError: the network cannot be copied.
    """
    model = open_modules(model, factors, bare=factors)
    memo: dict[int, Any] = {}
    shared: dict[Any, Tensor] = {}
    for name, pair in factors.items():
        _dense_layer(model, name)
        twins = []
        for owner in owners(model, name):
            dense, layer = _dense_layer(model, owner)
            twins.append(_replacement(layer, dense, pair, memo))
            memo[id(dense)] = twins[-1]
        _tie_(twins)
        _set_algebra_(twins, (algebras or {}).get(name, LEARNED), shared)
    replaced: nn.Module | None = memo.get(id(model))  # the network may itself be one dense layer
    return copied(model, memo) if replaced is None else replaced


def _dense_layer(model: nn.Module, name: str) -> tuple[nn.Module, type[PHMLayer]]:
    """The module of a site, and the layer that replaces it."""
    try:
        module = submodule(model, name)
    except AttributeError:
        raise PlanError(f"the network has no layer {name!r}") from None
    layer = rule_for(module, "weight").becomes
    if layer is None:
        raise PlanError(f"{name} is a {type(module).__name__}, which cannot be converted")
    return module, layer


def _tie_(layers: list[PHMLayer]) -> None:
    """Let all have the factors of one: a dense layer where there is one, whose memory layout matters."""
    first = next((layer for layer in layers if isinstance(layer, PHMLinear)), layers[0])
    for layer in layers:
        layer.A, layer.S, layer.U, layer.V = first.A, first.S, first.U, first.V


def _set_algebra_(layers: list[PHMLayer], algebra: str, shared: dict[Any, Tensor]) -> None:
    for layer in layers:
        if algebra == SHARED:
            layer.A = shared.setdefault((layer.A.shape, layer.A.dtype, layer.A.device), layer.A)
        elif algebra != LEARNED:
            layer.fix_algebra()


def _replacement(layer: type[PHMLayer], dense: nn.Module, factors: Factors, memo: dict[int, Any]) -> PHMLayer:
    replacement = layer.from_dense(dense, factors.order, factors)
    if replacement.bias is not None:
        replacement.bias = copy.deepcopy(dense.get_parameter("bias"), memo)  # a tied bias stays tied
    for name, value in vars(dense).items():
        if name.endswith("_hooks"):
            setattr(replacement, name, copy.copy(value))
    return replacement
