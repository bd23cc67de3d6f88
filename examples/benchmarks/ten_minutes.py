"""What ten minutes on two threads give: conversion and distillation together, from files to a network.

    python examples/benchmarks/ten_minutes.py NETWORK N|BUDGET [MINUTES [FIELD=VALUE,...]]

NETWORK is one of the assets (../shared/assets beside the checkout), N an order such as 4, or a budget such as
25%. The time runs from the first read of the data; what the conversion leaves of it (a second at least) goes
to the distillation. The last state is what is measured, afterwards, on the whole test set: nothing is chosen
on test data. Fields of `phnnify.Recipe` can be changed, as in recipe_table.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from distill_table import batch_size, judged, material, questions
from fit_table import CASES, data_of, load, parameters
from recipe_table import changed
from results import use_two_threads

import phnnify
from phnnify.distilling.augment import Augmentation


def main() -> None:
    """Print one line."""
    name, size, *more = sys.argv[1:]
    minutes, changes = float(more[0]) if more else 10.0, more[1] if more[1:] else "none"
    assets = Path(__file__).parents[3] / "shared" / "assets"
    use_two_threads()
    teacher = load(name, assets)
    start = time.monotonic()
    samples, train = material(name, assets), data_of(CASES[name], assets)[0]
    budget = size if size.endswith("%") else None
    student = phnnify.convert(teacher, 4 if budget else int(size), budget=budget, data=train).model
    converted = time.monotonic() - start
    recipe = phnnify.Recipe(
        minutes=max(minutes - converted / 60, 1 / 60),
        batch=batch_size(name), device="cpu",
        augment=Augmentation.read("flip,crop" if name.startswith("resnet") else "none"),
    )  # fmt: skip
    result = phnnify.distill(teacher, student, samples, changed(recipe, changes))
    seconds = time.monotonic() - start
    course, test = result.report.distillation, questions(name, assets)
    assert course is not None
    shares = parameters(student) / parameters(teacher)
    merits = " → ".join("{:.2%} ({:.3f})".format(*judged(m, test)) for m in (teacher, student, result.model))
    print(
        f"{name}, {size}, {changes}: {shares:.1%} of the parameters; top-1 (loss) of original, converted, "
        f"distilled: {merits}; {converted:.0f} s of {seconds:.0f} for the conversion, {course.steps:,} steps "
        f"at {course.rate:.1e}"
    )


if __name__ == "__main__":
    main()
