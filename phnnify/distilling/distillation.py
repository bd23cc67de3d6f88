"""Teacher, student, data → a trained student. The loop runs on Hugging Face Accelerate."""

from __future__ import annotations

from typing import Any

from torch import nn

from phnnify.distilling.checkpoint import read_checkpoint
from phnnify.distilling.course import Record
from phnnify.distilling.engine import make_accelerator, own_randomness
from phnnify.distilling.recipe import Recipe, RunFiles
from phnnify.distilling.run import Distilled, Run, Watcher
from phnnify.evaluate import Examination
from phnnify.feed import make_feed


def train_student(
    teacher: nn.Module,
    student: nn.Module,
    data: Any,
    recipe: Recipe | None = None,
    *,
    eval_data: Any = None,
    files: RunFiles | None = None,
    watch: Watcher | None = None,
) -> Distilled:
    """Train a student to answer as its teacher does.

    Args:
        teacher: The original. It is not changed.
        student: The converted network, with the outputs of the original. It is not changed.
        data: Inputs, with labels or without: what `feed.make_feed` takes.
        recipe: How it learns.
        eval_data: Batches on which the student is measured on the way, best with labels; the best state by
            that metric is kept. Without them the last one is.
        files: What the run leaves while it goes on, and whether it goes on from there.
        watch: Told how far it is.

    Raises:
        UsageError: Accelerate is missing, or the checkpoint is of another run.
        FileError: a file cannot be read or written, or the data is empty.
        ModelError: a network fails on the data, or their answers cannot be compared.
        StoppedError: the run was asked to stop; its state is in the checkpoint.

    A loss that is not finite, or far above the first one, skips the step or goes back to the best state, and
    halves the rate; after five times the run ends, and `trouble` says so.
    """
    recipe = recipe or Recipe()
    files = files or RunFiles()
    accelerator = make_accelerator(recipe.device)
    with own_randomness():
        run = Run(teacher, student, make_feed(data, recipe.batch, recipe.seed), recipe, accelerator, watch)
        run.checkpoint = files.checkpoint
        run.record = Record(files.log if accelerator.is_main_process else None)
        if eval_data is not None:
            run.examination = Examination(run.lesson.teacher, eval_data)
        if files.resume and files.checkpoint and files.checkpoint.exists():
            run.load(read_checkpoint(files.checkpoint))
        else:
            run.begin()
        return run.finish(run.train())
