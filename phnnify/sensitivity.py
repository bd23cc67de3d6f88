"""How much an error in one weight's outputs changes what the whole network answers.

Measured, not guessed: the original runs with one weight at a time in an approximate form, and its answer is
compared. The answer changes far more than in proportion to the error of the weight, so each form is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.algebra import Factors, compose
from phnnify.batches import Batch
from phnnify.evaluate import main_output, output_change
from phnnify.inputs import Example
from phnnify.measure import evaluation_copy, forward, submodule
from phnnify.rules import rule_for
from phnnify.watching import Progress


def damages(
    teacher: nn.Module,
    forms: Mapping[str, Sequence[Factors]],
    batches: Sequence[Batch],
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """The change of the network's answer with each form of each weight alone, as `evaluate.output_change`.

    The mean of each output channel is kept, as a corrected bias or a BatchNorm would.

    Args:
        teacher: The original.
        forms: By name of the layer.
        batches: Inputs.
        progress: Told before each layer, and at the end.
    """
    model = evaluation_copy(teacher)
    examples = [Example(batch.args, batch.kwargs) for batch in batches]
    wanted = [main_output(forward(model, example)) for example in examples]
    found = {}
    for done, (name, all_factors) in enumerate(forms.items()):
        if progress:
            progress(done, len(forms), name)
        layer = submodule(model, name)
        found[name] = [_damage(model, layer, factors, examples, wanted) for factors in all_factors]
    if progress:
        progress(len(forms), len(forms), "")
    return found


def _damage(
    model: nn.Module, layer: nn.Module, factors: Factors, examples: list[Example], wanted: list[Tensor]
) -> float:
    rule = rule_for(layer, "weight").becomes
    weight = compose(*factors)
    handle = layer.register_forward_hook(
        _replacing(rule.orient(weight) if rule else weight), with_kwargs=True
    )
    try:
        answers = [main_output(forward(model, example)) for example in examples]
    finally:
        handle.remove()
    changes = [output_change(y, y_hat) * len(y) for y, y_hat in zip(wanted, answers, strict=True)]
    return sum(changes) / max(sum(len(y) for y in wanted), 1)


def _replacing(weight: Tensor) -> Any:
    running = False

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        nonlocal running
        if running:
            return None
        running = True
        try:
            other: Tensor = torch.func.functional_call(
                module, {"weight": weight.to(output.dtype)}, args, kwargs
            )
        finally:
            running = False
        axis = -1 if isinstance(module, nn.Linear) or output.dim() < weight.dim() else 1
        axes = [i for i in range(output.dim()) if i != axis % output.dim()]
        change = other - output
        return output + change - (change.mean(axes, keepdim=True) if axes else 0.0)

    return hook
