"""What each ingredient of a distillation is worth: the recipe with one thing changed at a time.

    python examples/benchmarks/recipe_table.py NETWORK STEPS [CHANGE ...]

NETWORK is one of the assets (../shared/assets beside the checkout), converted at n = 4 with 512 inputs. A
change is a list such as `rate=3e-3,augment=flip+crop` of fields of `phnnify.Recipe`; `none` is the default
recipe. Without changes those of CHANGES are gone through. The metric is that of the last state on the whole
test set. Finished rows are kept in results/recipe_table.jsonl, so that it resumes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from distill_table import batch_size, judged, material, questions
from fit_table import CASES, data_of, load
from results import kept_in, use_two_threads

import phnnify
from phnnify.distilling.augment import Augmentation

CHANGES = (
    "none", "rate=1e-3", "rate=3e-3", "optimizer=sgd", "temperature=1", "temperature=10", "labels=0.3",
    "hidden=1", "average=0", "augment=none", "augment=flip", "augment=flip+crop+mixup", "batch=64",
)  # fmt: skip


def changed(recipe: phnnify.Recipe, text: str) -> phnnify.Recipe:
    """The recipe with other values in some fields."""
    values: dict[str, Any] = {}
    for part in [] if text == "none" else text.split(","):
        name, _, value = part.partition("=")
        if name == "augment":
            values[name] = Augmentation.read(value.replace("+", ","))
        elif name in ("optimizer", "loss", "precision"):
            values[name] = value
        else:
            values[name] = int(value) if name in ("batch", "steps", "seed") else float(value)
    return dataclasses.replace(recipe, **values)


def main() -> None:
    """Print the table as Markdown, one row a change."""
    name, steps, *changes = sys.argv[1:]
    assets = Path(__file__).parents[3] / "shared" / "assets"
    use_two_threads()
    kept = kept_in("recipe_table.jsonl")
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {tuple(row[:3]): row for row in map(json.loads, lines)}
    print("| network | steps | change | top-1 | loss | rate | seconds |\n|---|---|---|---|---|---|---|")
    teacher, test = load(name, assets), questions(name, assets)
    student = phnnify.convert(teacher, 4, data=data_of(CASES[name], assets)[0]).model
    samples = material(name, assets)
    recipe = phnnify.Recipe(
        steps=int(steps), batch=batch_size(name), device="cpu",
        augment=Augmentation.read("flip,crop" if name.startswith("resnet") else "none"),
    )  # fmt: skip
    for change in changes or CHANGES:
        row = done.get((name, int(steps), change))
        if row is None:
            start = time.perf_counter()
            result = phnnify.distill(teacher, student, samples, changed(recipe, change))
            seconds = time.perf_counter() - start
            course = result.report.distillation
            assert course is not None
            row = [name, int(steps), change, *judged(result.model, test), course.rate, seconds]
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(
            f"| {name} | {steps} | {change} | {row[3]:.2%} | {row[4]:.3f} | {row[5]:.1e} | {row[6]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
