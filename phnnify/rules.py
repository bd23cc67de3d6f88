"""Which dense layer becomes which PHM layer, or the reason why its weight stays.

`RULES` is read from the top; the first rule that applies decides. A new kind of layer is one rule here.
Reasons that depend on the order or on the whole network (too small, tied, excluded) are in `plan` and
`trace`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import ParametrizationList

from phnnify.layers import (
    PHMConv1d,
    PHMConv2d,
    PHMConv3d,
    PHMConvTranspose1d,
    PHMConvTranspose2d,
    PHMConvTranspose3d,
    PHMEmbedding,
    PHMLayer,
    PHMLinear,
)


@dataclass(frozen=True)
class Rule:
    """Decides about a weight, given the module that owns it and the parameter's name in it.

    Attributes:
        applies: Whether this rule decides.
        becomes: The layer that replaces the module, or None where the weight stays.
        reason: Why it stays. `{kind}` and `{parameter}` stand for the module's class and the parameter.
    """

    applies: Callable[[nn.Module, str], bool]
    becomes: type[PHMLayer] | None = None
    reason: str = ""


def _twin(layer: type[PHMLayer]) -> Rule:
    # `type(m) is`, not isinstance: a subclass means something else.
    return Rule(lambda module, parameter: type(module) is layer.twin and parameter == "weight", layer)


def _kept(kind: type[nn.Module], reason: str) -> Rule:
    return Rule(lambda module, parameter: isinstance(module, kind), reason=reason)


def _computed(module: nn.Module, parameter: str) -> bool:
    old_style = parameter in ("weight_g", "weight_v", "weight_orig")
    return old_style or isinstance(module, ParametrizationList)


def _complex(module: nn.Module, parameter: str) -> bool:
    weight = getattr(module, parameter, None)
    return isinstance(weight, nn.Parameter) and weight.is_complex()


def _depthwise(module: nn.Module, parameter: str) -> bool:
    if not isinstance(module, nn.modules.conv._ConvNd) or parameter != "weight":
        return False
    return 1 < module.groups == module.in_channels


def _special_table(module: nn.Module, parameter: str) -> bool:
    if not isinstance(module, nn.Embedding):
        return False
    return module.max_norm is not None or module.sparse or module.scale_grad_by_freq


def _several(module: nn.Module, parameter: str) -> bool:
    weight = getattr(module, parameter, None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 3 and len(weight) > 1


_UNKNOWN = (  # whose forward alone says what the weight is
    _kept(nn.Embedding, "unsupported kind: {kind}, a subclass of Embedding"),
    _kept(nn.Linear, "unsupported kind: {kind}, a subclass of Linear"),
    _kept(nn.modules.conv._ConvNd, "unsupported kind: {kind}, a subclass of a convolution"),
    Rule(
        _several,
        reason="unsupported kind: {parameter} of {kind}, 3-D: its matrices are converted where --input or "
        "--data shows that each is used on its own (F.linear(x, w[i]), bmm, grouped_mm)",
    ),
    Rule(lambda module, parameter: True, reason="unsupported kind: {parameter} of {kind}"),
)
RULES: tuple[Rule, ...] = (
    _kept(PHMLayer, "already a PHM weight"),
    Rule(
        _computed,
        reason="its weight is computed by a parametrization that cannot be folded: of another kind than "
        "weight norm or spectral norm, or shared",
    ),
    Rule(_complex, reason="its numbers are complex"),
    Rule(_depthwise, reason="depthwise: each output has a filter of its own, too small to share"),
    Rule(_special_table, reason="an embedding with max_norm, sparse or scale_grad_by_freq"),
    _twin(PHMEmbedding),
    _twin(PHMLinear),
    _twin(PHMConv1d),
    _twin(PHMConv2d),
    _twin(PHMConv3d),
    _twin(PHMConvTranspose1d),
    _twin(PHMConvTranspose2d),
    _twin(PHMConvTranspose3d),
    _kept(NonDynamicallyQuantizableLinear, "used outside its module: attention reads the weight itself"),
    _kept(nn.MultiheadAttention, "unsupported kind: {parameter} of attention"),
    _kept(nn.RNNBase, "unsupported kind: {parameter} of a recurrent layer"),
    *_UNKNOWN,
)


def rule_for(module: nn.Module, parameter: str) -> Rule:
    """The first rule that applies, with its reason filled in."""
    rule = _first(module, parameter)
    reason = rule.reason.format(kind=type(module).__name__, parameter=parameter)
    return Rule(rule.applies, rule.becomes, reason)


def is_unknown(module: nn.Module, parameter: str) -> bool:
    """Whether a weight stays only because its module is of no known kind."""
    return _first(module, parameter) in _UNKNOWN


def _first(module: nn.Module, parameter: str) -> Rule:
    return next(rule for rule in RULES if rule.applies(module, parameter))
