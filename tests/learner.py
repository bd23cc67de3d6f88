"""A short distillation for tests that start it in a process of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import phnnify
from phnnify.batches import Batch
from phnnify.distilling.distillation import train_student
from phnnify.distilling.recipe import Recipe, RunFiles

STEPS = 300


class Plain(nn.Module):
    """Without BatchNorm, whose statistics would depend on how samples are spread over processes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden(x).relu())
        return out


def pair() -> tuple[nn.Module, nn.Module]:
    """A teacher and its student."""
    torch.manual_seed(0)
    teacher = Plain().eval()
    return teacher, phnnify.convert(teacher, 4, min_share=0).model


def inputs(count: int = 256) -> Tensor:
    """What they learn on."""
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(1))


def learn(folder: str, name: str) -> None:
    """Distill to `folder/name.pt`, with a checkpoint after each step, going on where the last one stopped."""
    torch.set_num_threads(1)
    teacher, student = pair()
    recipe = Recipe(steps=STEPS, batch=32, rate=3e-3, hidden=0.1, checkpoint_minutes=0)
    files = RunFiles(Path(folder, f"{name}.checkpoint"), True, Path(folder, f"{name}.jsonl"))
    done = train_student(teacher, student, inputs(), recipe, eval_data=[Batch((inputs(64),))], files=files)
    torch.save(done.model.state_dict(), Path(folder, f"{name}.pt"))
