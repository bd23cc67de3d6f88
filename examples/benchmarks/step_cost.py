"""What the factors cost while they learn: a step of a converted network against one of the dense network.

    python examples/benchmarks/step_cost.py [NETWORK [SECONDS]]

NETWORK is one of the assets (../shared/assets beside the checkout), resnet20 by default. All students see the
same batch with the same teacher, loss (`Lesson`), optimizer and precision; a step is everything that the
training loop does with a batch that was read. They take turns for about SECONDS (30), on 2 threads.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from distill_table import batch_size, material
from fit_table import CASES, data_of, load
from results import use_two_threads
from timing import interleaved, verdict
from torch import nn

import phnnify
from phnnify.distilling.engine import compute_precision, learning_copy
from phnnify.distilling.lesson import Lesson
from phnnify.distilling.optimize import Average, make_optimizer
from phnnify.feed import make_feed

LIMIT = 1.3
CPU = torch.device("cpu")


class Learner:
    """One student, and what a step of the training loop does to it."""

    def __init__(self, teacher: nn.Module, student: nn.Module, recipe: phnnify.Recipe, batch: Any) -> None:
        self.recipe, self.batch = recipe, batch
        self.student = learning_copy(student, CPU, recipe.batch)
        self.lesson = Lesson(teacher, recipe, compute_precision(recipe.precision, CPU))
        self.lesson.try_channels_last(self.student, batch)
        self.optimizer = make_optimizer(self.student, recipe, 1e-4)
        self.average = Average(self.student, recipe.average)

    def __call__(self) -> None:
        """One step."""
        loss = self.lesson(self.student, self.batch)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.average.update(self.student)


def main() -> None:
    """Print the table as Markdown, one row a precision."""
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet20"
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    assets = Path(__file__).parents[3] / "shared" / "assets"
    use_two_threads()
    teacher = load(name, assets).eval()
    train = data_of(CASES[name], assets)[0]
    students = {"dense": teacher} | {
        f"n = {n}": phnnify.convert(teacher, n, data=train).model for n in (2, 4, 8)
    }
    size = batch_size(name)
    batch = next(make_feed(material(name, assets), size, 0).stream())
    print(f"| {name}, ms a step (of the dense network's) | {' | '.join(students)} | at most {LIMIT}? |")
    print(f"|{'---|' * (len(students) + 2)}")
    for precision in ("fp32", "bf16"):
        recipe = phnnify.Recipe(batch=size, precision=precision)
        learners = {key: Learner(teacher, student, recipe, batch) for key, student in students.items()}
        times = interleaved(learners, seconds)
        shares = [times.ratio(key, "dense") for key in learners]
        cells = [f"{1000 * times.of(key):.0f} ({s:.2f})" for key, s in zip(learners, shares, strict=True)]
        print(f"| {precision} | {' | '.join(cells)} | {verdict(max(shares) <= LIMIT)} |", flush=True)


if __name__ == "__main__":
    main()
