"""Weight norm and spectral norm folded: the same module with the weight that it computes as a parameter.

    W = g v / ‖v‖ (Salimans & Kingma 2016)        W = W₀ / (uᵀ W₀ v) (Miyato et al. 2018)

Both of torch's ways are known: parametrizations, and the older hooks. Spectral norm is folded with its u and
v as they are, which is what it computes in eval mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from phnnify.measure import evaluation_copy

_KINDS: dict[type, str] = {
    parametrizations._WeightNorm: "weight norm",
    parametrizations._SpectralNorm: "spectral norm",
    WeightNorm: "weight norm",
    SpectralNorm: "spectral norm",
}
_HOMES = {kind.__module__ for kind in _KINDS}


class Norm(NamedTuple):
    """What was folded into a module's weight.

    Attributes:
        kind: 'weight norm' or 'spectral norm'.
        parameters: How many more parameters the module had with it.
    """

    kind: str
    parameters: int


def norm_of(module: nn.Module) -> Norm | None:
    """What was folded into this module."""
    found: Norm | None = vars(module).get("folded")
    return found


def foldable(model: nn.Module) -> Iterator[nn.Module]:
    """The modules of a network whose weights are computed by norms, from tensors that nothing else has."""
    modules = list(model.modules())
    owners = Counter(id(p) for module in modules for p in module._parameters.values() if p is not None)
    lists = Counter(id(each) for module in modules for each in _lists(module).values())
    for module in modules:
        norms, hooks = [norm for each in _lists(module).values() for norm in each], _hooks(module)
        known = (norms or hooks) and all(type(norm) in _KINDS for norm in norms)
        shared = any(lists[id(each)] > 1 for each in _lists(module).values())
        if known and not shared and all(owners[id(p)] == 1 for p in _originals(module)):
            yield module


def fold(module: nn.Module) -> nn.Module:
    """The module with its weights as they are computed; it shares all else. `module` is not changed."""
    kind: Any = parametrize.type_before_parametrizations(module)
    with torch.no_grad():
        values = {name: evaluation_copy(each)() for name, each in _lists(module).items()}
        values |= {hook.name: _computed(hook, module) for hook in _hooks(module)}
    learned = any(p.requires_grad for p in _originals(module))
    gone = {f"{hook.name}_{part}" for hook in _hooks(module) for part in ("g", "v", "orig", "u")}
    folded: nn.Module = kind.__new__(kind)
    vars(folded).update({name: value for name, value in vars(module).items() if name not in values})
    parameters = {n: nn.Parameter(v.detach().clone(), requires_grad=learned) for n, v in values.items()}
    vars(folded)["_parameters"] = {**parameters, **_without(module._parameters, gone)}
    vars(folded)["_buffers"] = _without(module._buffers, gone)
    vars(folded)["_modules"] = _without(module._modules, {"parametrizations"} if _lists(module) else ())
    for name, value in vars(module).items():
        if name.endswith("_hooks"):
            vars(folded)[name] = _without_norms(value)
    more = sum(p.numel() for p in _originals(module)) - sum(p.numel() for p in parameters.values())
    vars(folded)["folded"] = Norm(_name(module), more)
    return folded


def _lists(module: nn.Module) -> dict[str, Any]:
    """By name of a parameter, what computes it in torch's newer way."""
    return dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}  # type: ignore[operator, union-attr]


def _hooks(module: nn.Module) -> list[Any]:
    """What computes weights in torch's older way, where these are not computed in turn."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if type(hook) in _KINDS]
    return [hook for hook in hooks if all(module._parameters.get(name) is not None for name in _parts(hook))]


def _parts(hook: Any) -> list[str]:
    parts = ("g", "v") if isinstance(hook, WeightNorm) else ("orig",)
    return [f"{hook.name}_{part}" for part in parts]


def _computed(hook: Any, module: nn.Module) -> Tensor:
    value: Tensor = (
        hook.compute_weight(module)
        if isinstance(hook, WeightNorm)
        else hook.compute_weight(module, do_power_iteration=False)
    )
    return value


def _originals(module: nn.Module) -> list[nn.Parameter]:
    """The parameters from which weights are computed."""
    new = [p for each in _lists(module).values() for p in each.parameters()]
    return new + [module.get_parameter(name) for hook in _hooks(module) for name in _parts(hook)]


def _name(module: nn.Module) -> str:
    norms = [norm for each in _lists(module).values() for norm in each]
    return " and ".join(sorted({_KINDS[type(norm)] for norm in [*norms, *_hooks(module)]}))


def _without(own: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if name not in set(names)}


def _without_norms(hooks: Any) -> Any:
    """A module's hooks of one kind without those that came with a norm."""
    if not isinstance(hooks, dict):
        return hooks
    return type(hooks)((key, hook) for key, hook in hooks.items() if _home(hook) not in _HOMES)


def _home(hook: Any) -> str:
    hook = getattr(hook, "hook", hook)  # torch wraps those for state dicts
    return str(getattr(hook, "__module__", ""))
