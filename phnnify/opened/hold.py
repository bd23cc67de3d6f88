"""Bare parameters put into layers, whose names say how they are used (`bare`)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from phnnify.opened.bare import CONV, CONVOLUTIONS, FORMS, LINEAR, LINEARS, SEVERAL, TABLE, Held
from phnnify.opened.linear import linear_of, parameter_like
from phnnify.opened.several import siblings


def hold_(module: nn.Module, parameter: str, form: str) -> None:
    """Put a parameter of a module into a layer of its own, `parameter_form`, in place.

    Args:
        module: The parameter's owner.
        parameter: Its name there, of two or more axes.
        form: One of FORMS.
    """
    weight = module.get_parameter(parameter)
    layer: Any
    if form == CONV:
        out, columns, *kernel = weight.shape
        convolution: Any = list(CONVOLUTIONS.values())[len(kernel) - 1]
        layer = convolution(columns, out, tuple(kernel), bias=False, device="meta")
        layer.weight = weight
    elif form == TABLE:
        rows, width = weight.shape
        layer = nn.Embedding(rows, width, device="meta")
        layer.weight = weight
    elif form in SEVERAL.values():
        matrices = weight if form == LINEARS else weight.mT
        layer = siblings(linear_of(parameter_like(weight, each.contiguous()), None) for each in matrices)
    elif form == LINEAR and weight.dim() == 2:
        layer = linear_of(weight, None)
    else:
        matrix = weight.flatten(1)
        matrix = matrix if form == LINEAR else matrix.t().contiguous()
        layer = linear_of(parameter_like(weight, matrix), None)
    delattr(module, parameter)
    module.add_module(f"{parameter}_{form}", layer.train(module.training))
    vars(module)[parameter] = Held.of(layer, form, weight.shape)


def bare_parameter(model: nn.Module, name: str) -> tuple[nn.Module, str, str] | None:
    """What a layer's name says: the module, its parameter, and the form; None where there is none so."""
    path, _, last = re.sub(r"s\.\d+$", "s", name).rpartition(".")
    parameter, _, form = last.rpartition("_")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    return (module, parameter, form) if form in FORMS and parameter in module._parameters else None
