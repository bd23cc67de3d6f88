"""Linear layers around weights that belong to something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def linear_of(weight: nn.Parameter, bias: nn.Parameter | None, parts: int = 1) -> nn.Linear:
    """A Linear layer of these very parameters, (out, in) and (out,).

    Args:
        weight: Taken as it is.
        bias: Taken as it is.
        parts: How many outputs of equal width, such as gates, are stacked in `out`; `parts_of` tells it.
    """
    out, columns = weight.shape
    layer = nn.Linear(columns, out, bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    if parts > 1:
        layer.parts = parts  # type: ignore[assignment]
    return layer


def parts_of(layer: nn.Module) -> int:
    """How many outputs are stacked in a layer's."""
    return int(vars(layer).get("parts", 1))


def parameter_like(old: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter with values of its own, to be learned where the old one was."""
    return nn.Parameter(values.detach().clone(), requires_grad=old.requires_grad)


def linear_like(closed: Any) -> nn.Linear:
    """What a layer computes that has the parameters of `nn.Linear`, and its meaning."""
    return linear_of(closed.weight, closed.bias).train(closed.training)


def linear_of_conv1d(closed: Any) -> nn.Linear:
    """What transformers' `Conv1D` computes, which keeps its weight as (in, out)."""
    layer = linear_of(parameter_like(closed.weight, closed.weight.t().contiguous()), closed.bias)
    return layer.train(closed.training)


def filled(module: _Module, values: Mapping[str, Tensor]) -> _Module:
    """A module without data (on the meta device) with copies of these values as its parameters."""
    state = {name: value.detach().clone() for name, value in values.items()}
    module.load_state_dict(state, assign=True)
    return module
