"""How a student learns: for how long, by which optimizer, from what. Plain values that check themselves."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phnnify.batches import Batch
from phnnify.distilling.augment import Augmentation
from phnnify.errors import UsageError

OPTIMIZERS = ("sgd", "adamw")
LOSSES = ("auto", "kl", "mse")
PRECISIONS = ("auto", "fp32", "bf16")
_DEFAULT_STEPS = 1000
_LEAST = 1e-3  # of the rate, at the end


@dataclass(frozen=True)
class Length:
    """How long a run takes: so many steps, or so many minutes."""

    steps: int | None = None
    minutes: float | None = None

    def done(self, steps: int, seconds: float) -> float:
        """The part of it that is over, from 0 to 1."""
        if self.minutes is not None:
            return min(1.0, seconds / (60 * self.minutes))
        return min(1.0, steps / (self.steps or 1))


@dataclass(frozen=True)
class Recipe:
    """How a student learns. The defaults did well on ResNet-20; recipe_table.py varies them.

    Attributes:
        steps, epochs, minutes: How long; one of them, or none for 1000 steps. Only runs by steps or epochs
            can be repeated exactly.
        batch: Samples in a batch, for each process.
        optimizer: 'adamw', or 'sgd' (momentum 0.9, Nesterov).
        rate: The highest learning rate; None finds it in a short test.
        warmup: The part of the run in which the rate rises; it falls along a cosine after that.
        clip: The largest norm of the gradient.
        loss: 'kl' (soft targets), 'mse' (relative squared error), or 'auto': what the answer calls for.
        temperature: Of the soft targets.
        labels: The weight of true labels, where there are any, from 0 to 1; the teacher has the rest.
        hidden: The weight of the relative squared errors at the outputs of the converted layers.
        average: The decay of the moving average of the weights, which is what is kept; 0 keeps the last ones.
        augment: What is done to images.
        precision: 'fp32', 'bf16' (weights stay fp32), or 'auto': bf16 where the device computes in it.
        device: 'cpu', 'cuda', 'cuda:1'; None lets Accelerate choose.
        checks: How often the student is measured on the way.
        checkpoint_minutes: How often the state of the run is saved.
        seed: For the order of the data, and everything random.

    Raises:
        UsageError: a value that cannot mean anything, or two lengths.
    """

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch: int = 128
    optimizer: str = "adamw"
    rate: float | None = None
    warmup: float = 0.05
    clip: float = 1.0
    loss: str = "auto"
    temperature: float = 4.0
    labels: float = 0.0
    hidden: float = 0.0
    average: float = 0.99
    augment: Augmentation = field(default_factory=Augmentation)
    precision: str = "auto"
    device: str | None = None
    checks: int = 10
    checkpoint_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        given = [f"--{n}" for n in ("steps", "epochs", "minutes") if getattr(self, n) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other")
        for name in ("steps", "epochs", "minutes", "batch", "rate", "clip", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name} is {value}; it must be above 0")
        for name in ("labels", "average", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be from 0 to 1")
        for name in ("hidden", "checks", "checkpoint_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must not be negative"
                )
        for name, known in (("optimizer", OPTIMIZERS), ("loss", LOSSES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name} is {getattr(self, name)!r}", hint=f"one of {', '.join(known)}")

    def check_labels(self, batch: Batch) -> None:
        """Refuse data without the labels that are to be learned, before any work is done.

        Args:
            batch: The first of the data.

        Raises:
            UsageError: it has no labels.
        """
        if self.labels and batch.targets is None:
            raise UsageError(
                f"--labels {self.labels:g} needs data with labels; the data has inputs only",
                hint="give the labels as y beside x (a loader: (inputs, labels)), or leave --labels out",
            )

    def length(self, steps_in_epoch: float) -> Length:
        """How long the run takes, given how many steps one look at all data takes."""
        if self.minutes is not None:
            return Length(minutes=self.minutes)
        if self.epochs is not None:
            return Length(steps=max(1, round(self.epochs * steps_in_epoch)))
        return Length(steps=self.steps or _DEFAULT_STEPS)

    def share_of_rate(self, done: float) -> float:
        """The learning rate as a part of the highest one: a line up, then a cosine down."""
        if done < self.warmup:
            return max(done / self.warmup, _LEAST)
        fall = (done - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return _LEAST + (1 - _LEAST) * (1 + math.cos(math.pi * fall)) / 2

    def to_json(self) -> str:
        """All that decides the result, to be compared with that of a resumed run."""
        values: dict[str, Any] = asdict(self)
        del values["checkpoint_minutes"], values["device"]
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True)
class RunFiles:
    """What a run leaves while it goes on.

    Attributes:
        checkpoint: Its state, saved every few minutes and when it is stopped by Ctrl-C or SIGTERM; it stays
            when the run is over.
        resume: Go on from that state, if it is there.
        log: A line of JSON about every 1/200 of the run.
    """

    checkpoint: Path | None = None
    resume: bool = False
    log: Path | None = None
