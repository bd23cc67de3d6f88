"""What predicts the damage that compressed weights do: ways to weight a budget, on networks of the assets.

    python examples/benchmarks/budget_table.py [FOLDER [NETWORK ...]]

One budget, that of `--n 4`, spent by Lagrangian sweeps over the same curves (`phnnify.curves`) that minimise
the sum over all weights of

- loss: the relative squared error of each weight's own outputs;
- loss²;
- Fisher: the same error weighted by the mean square gradient of the answer's log-likelihood at those outputs;
- damage: the measured change of the answer with each weight alone in that form;
- damage · loss (what `phnnify.budget` minimises).

`even` is no sweep: the best form of every weight at the size of order 4. Then the fit in sequence, and top-1
on the test sets of `fit_table.py`; nothing is distilled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fit_table import CASES, data_of, load, papers_plan
from results import use_two_threads
from torch import Tensor, nn

import phnnify
from phnnify.batches import Batch, calibration_batches
from phnnify.budget import Point, allocate
from phnnify.choose import best_forms
from phnnify.curves import measure_curves
from phnnify.evaluate import evaluate, main_output
from phnnify.plan import Plan, with_orders


def fisher(model: nn.Module, names: list[str], batches: list[Batch]) -> dict[str, float]:
    """By layer: E|∂ log p(label)/∂y|² · E|y − ȳ|² / numbers in y, labels drawn from the answer itself."""
    torch.manual_seed(0)
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
            outputs[name].retain_grad()
            return outputs[name]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    found = dict.fromkeys(names, 0.0)
    for batch in batches:
        logits = main_output(model(*batch.args)).flatten(0, -2)
        labels = torch.multinomial(logits.detach().softmax(1), 1).flatten()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        for name in names:
            y, gradient = outputs[name].detach(), outputs[name].grad
            axis = -1 if isinstance(model.get_submodule(name), nn.Linear) else 1
            axes = [i for i in range(y.dim()) if i != axis % y.dim()]
            if gradient is not None:
                found[name] += float(
                    gradient.square().sum() * (y - y.mean(axes, keepdim=True)).square().mean()
                )
    for handle in handles:
        handle.remove()
    return found


def main() -> None:
    """Print the table as Markdown."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    use_two_threads()
    print("| network | minimised | parameters | top-1 | divergence |\n|---|---|---|---|---|")
    for name in sys.argv[2:] or CASES:
        model = load(name, assets)
        train, test = data_of(CASES[name], assets)
        plan = papers_plan(model, 4, train)
        sizes = {
            layer: model.get_submodule(layer).get_parameter("weight").numel() for layer in plan.conversions
        }
        curves = measure_curves(model, sizes, train)
        weights = fisher(model, list(sizes), calibration_batches(train, 128))
        even = best_forms(model, plan, train)[0].plan
        limit = sum(order.parameters(weight_shape(model, layer)) for layer, order in even.conversions.items())
        show(name, "even", model, even, train, test)
        costs: dict[str, Callable[[str, Point], float]] = {
            "loss": lambda layer, point: point.loss,
            "loss²": lambda layer, point: point.loss**2,
            "Fisher": lambda layer, point, w=weights: w[layer] * point.loss,  # type: ignore[misc]
            "damage": lambda layer, point: point.damage,
            "damage · loss": lambda layer, point: point.damage * point.loss,
        }
        for way, cost in costs.items():
            priced = {
                layer: [Point(p.order, p.parameters, cost(layer, p), 1.0) for p in points]
                for layer, points in curves.items()
            }
            chosen = allocate(priced, limit)
            orders = {layer: point.order for layer, point in chosen.items()}
            show(name, way, model, with_orders(plan, orders), train, test)


def weight_shape(model: nn.Module, layer: str) -> tuple[int, ...]:
    """Of a dense or ordinary convolutional layer."""
    return tuple(model.get_submodule(layer).get_parameter("weight").shape)


def show(name: str, way: str, model: nn.Module, plan: Plan, train: list[Batch], test: list[Batch]) -> None:
    """Convert by a plan and print a row."""
    result = phnnify.convert(model, plan=plan, data=train)
    found = evaluate(model, result.model, test)
    top1 = found.accuracy.student if found.accuracy else 0.0
    print(
        f"| {name} | {way} | {result.report.params.kept:.1%} | {top1:.1%} | {found.agreement.kl:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
