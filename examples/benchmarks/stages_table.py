"""Whether learning block by block first pays: the same total number of steps, split in two ways.

    python examples/benchmarks/stages_table.py NETWORK STEPS [SHARE ...]

NETWORK is one of the assets (../shared/assets beside the checkout), converted at n = 4 with 512 inputs. For
a SHARE of the steps (0, 0.25 and 0.5 by default) each block of the student sees what the original's block
saw and learns to give what that gave (relative squared error); all blocks at once, so such a step costs what
one of the second stage does. Then the default recipe goes on to the end. Each stage finds its own rate.
Blocks are the residual blocks, the transformer layers, and the single converted layers outside of those. The
metric is that of the last state on the whole test set.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from distill_table import batch_size, judged, material, questions
from fit_table import CASES, data_of, load
from results import use_two_threads
from torch import Tensor, nn

import phnnify
from phnnify.batches import Batch
from phnnify.distilling.engine import compute_precision, learning_copy
from phnnify.distilling.optimize import Average, balance_, find_rate, load_state_, make_optimizer
from phnnify.feed import make_feed
from phnnify.layers import PHMLayer
from phnnify.losses import relative_loss

CPU = torch.device("cpu")


def blocks_of(student: nn.Module) -> list[str]:
    """The names of the outermost modules that stand in a list, or alone, and hold converted layers."""
    found: list[str] = []

    def walk(module: nn.Module, name: str) -> None:
        for key, child in module.named_children():
            path = f"{name}.{key}" if name else key
            if isinstance(child, PHMLayer) or not any(isinstance(m, PHMLayer) for m in child.modules()):
                found.extend([path] if isinstance(child, PHMLayer) else [])
            elif key.isdigit():
                found.append(path)
            else:
                walk(child, path)

    walk(student, "")
    return found


class BlockLesson:
    """The mean relative squared error of the student's blocks on the original's inputs of them."""

    def __init__(self, teacher: nn.Module, names: list[str]) -> None:
        self.teacher, self.names = teacher, names
        self.precision = compute_precision("auto", CPU)

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        """The loss, with gradients that stay within each block."""
        seen: dict[str, tuple[Any, Any, Tensor]] = {}
        with ExitStack() as hooks, torch.no_grad(), self.computing():
            for name in self.names:

                def keep(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
                    seen[name] = args, kwargs, output

                module = self.teacher.get_submodule(name)
                hooks.callback(module.register_forward_hook(keep, with_kwargs=True).remove)
            self.teacher(*batch.args, **batch.kwargs)
        with self.computing():
            losses = [
                relative_loss(student.get_submodule(name)(*args, **kwargs), output)
                for name, (args, kwargs, output) in seen.items()
            ]
        return torch.stack(losses).mean()

    def computing(self) -> torch.autocast:
        """In the precision of the second stage."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision is not None)


def first_stage(teacher: nn.Module, student: nn.Module, samples: Any, recipe: phnnify.Recipe) -> nn.Module:
    """The student after learning block by block, and the rate that was found."""
    lesson = BlockLesson(teacher, blocks_of(student))
    learner = learning_copy(student, CPU, recipe.batch)
    balance_(learner)
    feed = make_feed(samples, recipe.batch, recipe.seed + 1)
    rate = find_rate(learner, recipe, (partial(lesson, batch=batch) for batch in feed.stream()))
    optimizer, average = make_optimizer(learner, recipe, rate), Average(learner, recipe.average)
    steps = recipe.steps or 0
    for step, batch in zip(range(steps), feed.stream(), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * recipe.share_of_rate(step / steps)
        loss = lesson(learner, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), recipe.clip)
        optimizer.step()
        average.update(learner)
    load_state_(learner, average.state)
    return learner.eval()


def main() -> None:
    """Print the table as Markdown, one row a share."""
    name, steps, *shares = sys.argv[1:]
    assets = Path(__file__).parents[3] / "shared" / "assets"
    use_two_threads()
    teacher, test, samples = load(name, assets).eval(), questions(name, assets), material(name, assets)
    student = phnnify.convert(teacher, 4, data=data_of(CASES[name], assets)[0]).model
    size = batch_size(name)
    print("| network | steps | block by block | top-1 (loss) after that | in the end | seconds |")
    print("|---|---|---|---|---|---|")
    for share in shares or ("0", "0.25", "0.5"):
        start, first = time.perf_counter(), round(float(share) * int(steps))
        begun = student
        if first:
            begun = first_stage(teacher, student, samples, phnnify.Recipe(steps=first, batch=size))
        recipe = phnnify.Recipe(steps=int(steps) - first, batch=size, device="cpu")
        ended = phnnify.distill(teacher, begun, samples, recipe).model
        seconds = time.perf_counter() - start
        merits = " | ".join("{:.2%} ({:.3f})".format(*judged(model, test)) for model in (begun, ended))
        print(f"| {name} | {steps} | {first} | {merits} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
