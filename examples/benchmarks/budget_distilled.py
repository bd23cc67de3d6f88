"""What a budget is worth after distillation: equal sizes of all weights against sizes of their own, by seed.

    python examples/benchmarks/budget_distilled.py [FOLDER [NETWORK[:N[:STEPS[:SEEDS]]] ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). `even` is the default at n, each
weight in its best form at 1/n of its numbers; `budget` may have as many parameters as that took, and sizes
the weights too. Both learn by the default recipe for the steps of `distill_table.py`, with SEEDS seeds (3);
the metric is that of the last state on the whole test set, of each seed: top-1, for the text nats per
character. Finished rows are kept in results/budget_distilled.jsonl, so that it resumes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill_table import STEPS, batch_size, judged, material, questions
from fit_table import CASES, data_of, load, parameters
from results import kept_in, use_two_threads
from torch import nn

import phnnify

SIZES = {"mnist_mlp_6_200": (4, 8, 16, 32), "resnet20": (4, 8), "charlm": (4, 8), "resnet56": (4, 8)}
SEEDS = 3


def rows(name: str, n: int, steps: int, seeds: int, assets: Path, done: set[Any]) -> list[dict[str, Any]]:
    """What is not done yet of one network at one size."""
    model = load(name, assets)
    train, _ = data_of(CASES[name], assets)
    test, samples = questions(name, assets), material(name, assets)

    def merit(network: nn.Module) -> float:
        """Top-1, or the loss."""
        return judged(network, test)[name == "charlm"]

    def learned(student: nn.Module, seed: int) -> nn.Module:
        recipe = phnnify.Recipe(steps=steps, batch=batch_size(name), device="cpu", seed=seed)
        return phnnify.distill(model, student, samples, recipe).model

    even = phnnify.convert(model, n, data=train).model
    share = parameters(even) / parameters(model)
    makers: dict[str, Callable[[], nn.Module]] = {
        "even": lambda: even,
        "budget": lambda: phnnify.convert(model, budget=f"{100 * share:.4f}%", data=train).model,
    }
    found = []
    for way, make in makers.items():
        if (name, n, way, steps, seeds) in done:
            continue
        student = make()
        found.append(
            {
                "network": name, "n": n, "way": way, "steps": steps, "seeds": seeds,
                "parameters": parameters(student) / parameters(model),
                "original": merit(model),
                "before": merit(student),
                "after": [merit(learned(student, seed)) for seed in range(seeds)],
            }
        )  # fmt: skip
    return found


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    form = ".3f" if row["network"] == "charlm" else ".2%"
    after = [format(value, form) for value in row["after"]]
    mean = format(sum(row["after"]) / len(row["after"]), form)
    cells = [row["network"], row["n"], row["way"], format(row["parameters"], ".2%")]
    cells += [format(row[key], form) for key in ("original", "before")]
    return f"| {' | '.join(map(str, [*cells, mean, ' '.join(after)]))} |"


def main() -> None:
    """Print the table as Markdown, two rows for each network and size."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    use_two_threads()
    kept = kept_in("budget_distilled.jsonl")
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {tuple(row[key] for key in ("network", "n", "way", "steps", "seeds")): row for row in lines}
    print("| network | n | way | parameters | original | before | after, mean | by seed |")
    print("|---|---|---|---|---|---|---|---|")
    for asked in sys.argv[2:] or CASES:
        name, only, *rest = [*asked.split(":"), "", "", ""][:4]
        steps, seeds = int(rest[0] or STEPS[name]), int(rest[1] or SEEDS)
        for n in [int(only)] if only else SIZES[name]:
            keys = [(name, n, way, steps, seeds) for way in ("even", "budget")]
            for row in rows(name, n, steps, seeds, assets, set(done)) if set(keys) - set(done) else []:
                done[name, n, row["way"], steps, seeds] = row
                kept.parent.mkdir(exist_ok=True)
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            print("\n".join(shown(done[key]) for key in keys), flush=True)


if __name__ == "__main__":
    main()
