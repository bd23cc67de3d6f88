"""What one batch teaches: teacher and student see it, and the student is told how far off it is.

    loss = (1 − labels)·answer + labels·truth + hidden·way

`answer` compares the outputs (`losses.answer_loss`), `truth` the student's with the labels, and `way` the
outputs of the layers that were converted, which have the same names and shapes in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from phnnify.batches import Batch
from phnnify.distilling.recipe import Recipe
from phnnify.errors import ModelError
from phnnify.layers import PHMLayer
from phnnify.losses import answer_loss, answers_of, class_axis, hidden_loss, label_loss
from phnnify.measure import first_line


class Lesson:
    """The loss of a student on a batch.

    Args:
        teacher: In eval mode, on the device of the batches.
        recipe: Says what counts how much.
        precision: In which both networks compute; None for that of their weights.
    """

    def __init__(self, teacher: nn.Module, recipe: Recipe, precision: torch.dtype | None = None) -> None:
        self.teacher, self._recipe, self._precision = teacher, recipe, precision
        self._layout = torch.contiguous_format

    def try_channels_last(self, student: nn.Module, batch: Batch) -> None:
        """Lay images out as (batch, height, width, channels) in memory, which is faster, if both permit it.

        They don't where a network reads its memory in order (`view`).
        """
        if not any(x.dim() == 4 for x in (*batch.args, *batch.kwargs.values())):
            return
        self._layout = torch.channels_last
        try:
            with torch.no_grad():
                self(student, batch)
        except (RuntimeError, ModelError):
            self._layout = torch.contiguous_format

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        """The loss, with gradients.

        Args:
            student: Runs in the mode it is in; may be wrapped for several processes.
            batch: On the device of both.

        Raises:
            ModelError: a network fails on the batch, or the answers or labels cannot be compared.
        """
        inner = student.module if isinstance(student, DistributedDataParallel) else student
        names = (
            [name for name, m in inner.named_modules() if name and isinstance(m, PHMLayer)]
            if self._recipe.hidden
            else []
        )
        device = next(inner.parameters()).device.type
        enabled = self._precision is not None
        with torch.autocast(device, self._precision or torch.bfloat16, enabled=enabled):
            with torch.no_grad(), _recorded(self.teacher, names) as wanted:
                theirs = answers_of(self._run(self.teacher, batch))
            with _recorded(inner, names) as got:
                ours = answers_of(self._run(student, batch))
        try:
            return self._total(ours, theirs, got, wanted, batch.targets)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(
                f"the student's answer cannot be compared: {first_line(error)}",
                hint="labels must be whole numbers below the number of classes, one for each answer",
            ) from None

    def _total(
        self,
        ours: list[Tensor],
        theirs: list[Tensor],
        got: dict[str, Tensor],
        wanted: dict[str, Tensor],
        targets: Tensor | None,
    ) -> Tensor:
        recipe = self._recipe
        axes = [self._axis(answer, targets) for answer in theirs]
        each = [
            answer_loss(o, t, axis, recipe.temperature) for o, t, axis in zip(ours, theirs, axes, strict=True)
        ]
        loss = sum(each[1:], each[0]) / len(each)
        if recipe.labels and targets is not None:
            loss = (1 - recipe.labels) * loss + recipe.labels * label_loss(ours[0], targets, axes[0])
        if shared := {name: got[name] for name in got if name in wanted}:
            loss = loss + recipe.hidden * hidden_loss(shared, wanted)
        return loss

    def _axis(self, answer: Tensor, targets: Tensor | None) -> int | None:
        if self._recipe.loss == "auto":
            return class_axis(answer, targets)
        return None if self._recipe.loss == "mse" else (class_axis(answer, targets) or answer.dim() - 1)

    def _copied(self, x: Tensor) -> Tensor:
        """For one network alone: it may write into its inputs."""
        return x.clone(memory_format=self._layout if x.dim() == 4 else torch.preserve_format)

    def _run(self, model: nn.Module, batch: Batch) -> Any:
        laid = batch.map(self._copied)
        try:
            return model(*laid.args, **laid.kwargs)
        except Exception as error:  # whatever the user's own forward may raise
            shapes = ", ".join("x".join(map(str, x.shape)) for x in (*batch.args, *batch.kwargs.values()))
            raise ModelError(
                f"the network fails on a batch of {shapes}: {first_line(error)}",
                hint="--batch sets how many samples are in one",
            ) from None


@contextmanager
def _recorded(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """While it lasts, the outputs of the named layers are kept (the last call of each)."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs[name] = output

        return hook

    with ExitStack() as handles:
        for name in names:
            handles.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
        yield outputs
