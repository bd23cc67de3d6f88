"""MIP against the usual hypernetwork: equal budgets, equal optimizers, each at the best of its rates.

    python examples/benchmarks/mip_table.py [TASK ...] [--quick] [--figure FILE]

Tasks (`mip_tasks.py`; by default noise and scale), each with SGD (momentum 0.9) and Adam. Each formulation
takes the rate of a grid that leads to the least loss with the first seed, and is then trained with all
seeds. The loss is the mean over five conditionings on data that was not learnt from. Printed are the median
final loss over the seeds and its range; after how many steps the default's median final loss is reached;
and, of the gradient g of h over mini-batches and conditionings, Σ Var(g) / |E g|² and Var(|g|) / (E |g|)²:
medians over five points of the training and the seeds. Finished runs are kept in `results/` (`results.py`).

Then the proportionality: how large a predicted weight in the middle of the network and what it gives are at
the start at a conditioning, as parts of those at 1 (root mean squares; for MIP with a spread of 0.1, since
without one there is nothing to see).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import torch
from mip_tasks import TASKS, Task
from results import kept_in
from torch import Tensor

import phnnify

FORMULATIONS = ("default", "mip")
RATES = {"SGD": (0.01, 0.03, 0.1, 0.3), "Adam": (0.001, 0.003, 0.01, 0.03)}
MINIBATCHES = 16
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Plan:
    """How much is done: steps, checks of the loss, places on the way of those of the gradient, seeds."""

    steps: int = 600
    checks: int = 20
    probes: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        losses: At equal distances, from before the first step to after the last.
        directed: Σ Var(g) / |E g|² of the gradient g of h over mini-batches and conditionings, at the probes.
        norms: Var(|g|) / (E |g|)² of it.
    """

    losses: tuple[float, ...]
    directed: tuple[float, ...]
    norms: tuple[float, ...]

    @property
    def final(self) -> float:
        """The last loss; infinite where the training went astray."""
        return self.losses[-1] if self.losses[-1] == self.losses[-1] else float("inf")


def trained(task: Task, formulation: str, optimizer: str, rate: float, seed: int, plan: Plan) -> Run:
    """Train with one random conditioning at each step."""
    hyper, ((x, y), test) = task.hypernetwork(formulation, seed), task.data()
    kind: Any = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[optimizer]
    moving = kind(hyper.parameters(), rate, **({"momentum": 0.9} if optimizer == "SGD" else {}))
    torch.manual_seed(seed)
    losses, probed = [measured(task, hyper, test)], []
    for step in range(1, plan.steps + 1):
        moving.zero_grad()
        batch_loss(task, hyper, x, y).backward()  # type: ignore[no-untyped-call]
        moving.step()
        if step in [round(share * plan.steps) for share in plan.probes]:
            probed.append(gradient_variance(task, hyper, x, y))
        if step % (plan.steps // plan.checks) == 0:
            losses.append(measured(task, hyper, test))
    directed, norms = zip(*probed, strict=True)
    return Run(tuple(losses), directed, norms)


def batch_loss(task: Task, hyper: phnnify.HyperNetwork, x: Tensor, y: Tensor) -> Tensor:
    """On a random batch at a random conditioning."""
    batch = torch.randint(len(y), (64,))
    return task.loss(hyper, x[batch], y[batch], float(torch.rand(())))


def measured(task: Task, hyper: phnnify.HyperNetwork, test: tuple[Tensor, Tensor]) -> float:
    """The mean loss over GRID on data that was not learnt from."""
    hyper.eval()
    with torch.no_grad():
        losses = [float(task.loss(hyper, *test, gamma)) for gamma in GRID]
    hyper.train()
    return sum(losses) / len(losses)


def gradient_variance(task: Task, hyper: phnnify.HyperNetwork, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Of the gradient g of h: Σ Var(g) / |E g|², and Var(|g|) / (E |g|)²."""
    weights = list(hyper.predictor.parameters())
    drawn = []
    for _ in range(MINIBATCHES):
        parts = torch.autograd.grad(batch_loss(task, hyper, x, y), weights)
        drawn.append(torch.cat([part.flatten() for part in parts]))
    gradients = torch.stack(drawn)
    norms = gradients.norm(dim=1)
    directed = gradients.var(0).sum() / gradients.mean(0).square().sum()
    return float(directed), float(norms.var() / norms.mean().square())


class Cells:
    """Finished runs, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.done = {tuple(key): Run(*map(tuple, numbers)) for key, *numbers in map(json.loads, lines)}

    def run(self, name: str, formulation: str, optimizer: str, rate: float, seed: int, plan: Plan) -> Run:
        """The run, from the file or made now."""
        key = (name, formulation, optimizer, rate, seed, plan.steps)
        if key not in self.done:
            self.done[key] = run = trained(TASKS[name], *key[1:5], plan)
            numbers = [[float(f"{x:.4g}") for x in part] for part in (run.losses, run.directed, run.norms)]
            with self.path.open("a") as file:
                file.write(json.dumps([key, *numbers]) + "\n")
        return self.done[key]

    def best(self, name: str, formulation: str, optimizer: str, plan: Plan) -> tuple[float, list[Run]]:
        """The best rate, and the runs of all seeds with it."""

        def final(rate: float) -> float:
            return self.run(name, formulation, optimizer, rate, plan.seeds[0], plan).final

        rate = min(RATES[optimizer], key=final)
        return rate, [self.run(name, formulation, optimizer, rate, seed, plan) for seed in plan.seeds]


def steps_to(run: Run, loss: float, steps: int) -> float:
    """After how many steps a run has reached a loss for the first time; infinite where it never does."""
    reached = [i for i, value in enumerate(run.losses) if value <= loss]
    return reached[0] * steps / (len(run.losses) - 1) if reached else float("inf")


def proportions(task: Task, hyper: phnnify.HyperNetwork) -> tuple[list[float], list[float]]:
    """At each of SHARES the sizes of the probed weight and of its activations, as parts of those at 1."""
    (x, _), _ = task.data()
    seen: list[Tensor] = []
    sizes, activations = [], []
    for gamma in SHARES:
        given = {task.name: gamma}
        network = hyper.at(**given)
        handle = network.get_submodule(task.probe).register_forward_hook(lambda m, i, out: seen.append(out))
        with torch.no_grad():
            network(x[:128])
        handle.remove()
        out = seen.pop()
        activations.append(float((out[0] if isinstance(out, tuple) else out).square().mean().sqrt()))
        weight = network.get_parameter(f"{task.probe}.{task.weight}")
        sizes.append(float(weight.detach().square().mean().sqrt()))
    return [size / sizes[-1] for size in sizes], [size / activations[-1] for size in activations]


def main() -> None:
    """Print both tables, and draw the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[])
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps")
    parser.add_argument("--figure", type=Path, help="draw it into this file (phnnify[plots])")
    options = parser.parse_args()
    plan = Plan(20, 2, (1.0,), (0,)) if options.quick else Plan()
    cells, names = Cells(kept_in("mip_table.jsonl")), options.tasks or ["noise", "scale"]
    runs = print_losses(cells, names, plan)
    sizes = print_proportions(names)
    if options.figure:
        draw(options.figure, runs, sizes, plan)


Runs: TypeAlias = "dict[tuple[str, str, str], list[Run]]"


def print_losses(cells: Cells, names: Sequence[str], plan: Plan) -> Runs:
    """The table of final losses, and all runs by task, optimizer and formulation."""
    headings = ("task", "optimizer", "formulation", "rate", "final loss (range)")
    print(f"| {' | '.join(headings)} | steps to the default's | Var(g) | Var(norm) |")
    print("|---|---|---|---|---|---|---|---|")
    found: Runs = {}
    for name in names:
        for optimizer in RATES:
            goal = float("inf")
            for formulation in FORMULATIONS:
                rate, runs = cells.best(name, formulation, optimizer, plan)
                found[name, optimizer, formulation] = runs
                goal = median(run.final for run in runs) if formulation == "default" else goal
                numbers = " | ".join(row(runs, goal, plan.steps))
                print(f"| {name} | {optimizer} | {formulation} | {rate:g} | {numbers} |", flush=True)
    return found


def row(runs: Sequence[Run], goal: float, steps: int) -> list[str]:
    """The cells of runs: their final loss, the steps to a loss, both variances of the gradient."""
    finals = [run.final for run in runs]
    spent = median(steps_to(run, goal, steps) for run in runs)
    directed = median(number for run in runs for number in run.directed)
    norms = median(number for run in runs for number in run.norms)
    final = f"{median(finals):.3f} ({min(finals):.3f} to {max(finals):.3f})"
    return [final, f"{spent:.0f} of {steps}", f"{directed:.2g}", f"{norms:.2g}"]


Sizes: TypeAlias = "dict[tuple[str, str], tuple[list[float], list[float]]]"


def print_proportions(names: Sequence[str]) -> Sizes:
    """The table of what is proportional to the conditioning, and its numbers by task and formulation."""
    print("\n| task | formulation | what | " + " | ".join(f"{gamma:g}" for gamma in SHARES) + " |")
    print("|---" * (len(SHARES) + 3) + "|")
    found: Sizes = {}
    for name in names:
        for formulation in FORMULATIONS:
            hyper = TASKS[name].hypernetwork(
                formulation, 0, **({"spread": 0.1} if formulation == "mip" else {})
            )
            found[name, formulation] = proportions(TASKS[name], hyper.eval())
            for what, numbers in zip(("weights", "activations"), found[name, formulation], strict=True):
                cells = " | ".join(f"{number:.2f}" for number in numbers)
                print(f"| {name} | {formulation} | {what} | {cells} |")
    return found


def draw(path: Path, runs: Runs, sizes: Sizes, plan: Plan) -> None:
    """Training curves for each task and optimizer, and the proportionality."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "phnnify", "svg.fonttype": "none"}  # the same file each time, with text
    names = list(dict.fromkeys(name for name, *_ in runs))
    figure, axes = plt.subplots(
        len(names), 3, figsize=(9.5, 2.9 * len(names)), layout="constrained", squeeze=False
    )
    colours = {"default": "#d55e00", "mip": "#0072b2"}
    for (name, optimizer, formulation), group in runs.items():
        axis = axes[names.index(name)][list(RATES).index(optimizer)]
        curves = torch.tensor([run.losses for run in group])
        steps = torch.linspace(0, plan.steps, curves.shape[1])
        axis.plot(steps, curves.median(0).values, color=colours[formulation], label=formulation)
        axis.fill_between(
            steps, curves.amin(0), curves.amax(0), color=colours[formulation], alpha=0.2, linewidth=0
        )
        axis.set(title=f"{name}, {optimizer}", xlabel="step", ylabel="loss", yscale="log")
    for (name, formulation), (weights, activations) in sizes.items():
        axis = axes[names.index(name)][2]
        axis.plot(SHARES, weights, color=colours[formulation], label=f"{formulation}: weights")
        axis.plot(SHARES, activations, "--", color=colours[formulation], label=f"{formulation}: activations")
        axis.set(
            title=f"{name}, at the start",
            xlabel="conditioning",
            ylabel="size, relative to that at 1",
            ylim=(0, None),
        )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
