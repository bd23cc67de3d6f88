"""In which form each converted layer runs: as told, or as is fastest where the network will run."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from phnnify.cost import ONNX, PYTORCH, Form, Target
from phnnify.inputs import Example, Inputs, random_example, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import forward

ExportForm = Literal["auto", "factored", "folded", "dense"]
FORMS: tuple[ExportForm, ...] = ("auto", "factored", "folded", "dense")
TARGETS = {"pytorch": PYTORCH, "onnx": ONNX}


def set_form_(
    model: nn.Module,
    form: Form,
    inputs: Inputs | None = None,
    *,
    batch: int | None = None,
    target: Literal["pytorch", "onnx"] = "pytorch",
) -> nn.Module:
    """Say in which form the converted layers of a network run in eval mode.

    Args:
        model: Changed in place.
        form: "factored": with the factors, which reads 1/n of the numbers; convolutions of several groups and
            transposed ones cannot. "folded": with the weight composed once and kept, which takes n times the
            memory of the factors. "auto": what `cost` says is faster.
        inputs: For "auto", example inputs (`inputs.read_inputs`): each layer that a run on them reaches gets
            the form for what comes to it. Without, each layer decides whenever it runs.
        batch: Their size of axis 0.
        target: For "auto" with inputs: what will run the network.

    Returns:
        The model.

    Raises:
        ModelError: the network fails on the inputs.
        UsageError: the inputs cannot be read.
    """
    layers = [module for module in model.modules() if isinstance(module, PHMLayer)]
    for layer in layers:
        layer.form = form
    if form == "auto" and inputs is not None:
        example = random_example(read_inputs(inputs), model, seed=0, batch=batch)
        _settle_(model, layers, example, TARGETS[target])
    return model


def _settle_(model: nn.Module, layers: list[PHMLayer], example: Example, target: Target) -> None:
    found: dict[PHMLayer, Form] = {}

    def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(layer, PHMLayer) and args and isinstance(args[0], Tensor):
            found[layer] = layer.fastest_form(args[0], target)

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        forward(model, example)
    finally:
        for handle in handles:
            handle.remove()
    for layer, form in found.items():
        layer.form = form


def with_dense_layers_(model: nn.Module) -> nn.Module:
    """A network with the dense twins of its converted layers: their weights composed, for good.

    Args:
        model: Changed in place, unless it is itself a converted layer.
    """
    if isinstance(model, PHMLayer):
        return model.to_dense()
    twins: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PHMLayer):
                twin = twins.setdefault(id(child), child.to_dense())
                setattr(parent, name, twin)
    return model
