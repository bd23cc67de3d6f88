"""The course of a distillation: what happened when, as values, and as lines of JSON while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from phnnify.errors import FileError
from phnnify.strict import json_text

_MOMENTS = 200  # that are kept, about
_SMOOTHING = 0.05


@dataclass(frozen=True)
class Moment:
    """One line of the log.

    Attributes:
        step: How many steps were done.
        seconds: How long the run had taken, pauses between resumed parts left out.
        loss: Smoothed; None before the first step.
        rate: The learning rate.
        speed: Samples (tokens, where inputs are whole numbers) per second, all processes together; None where
            no step was taken.
        metric: The merit of the student on the evaluation data, where it was measured.
    """

    step: int
    seconds: float
    loss: float | None
    rate: float
    speed: float | None
    metric: float | None = None


@dataclass(frozen=True)
class Course:
    """What a distillation did.

    Attributes:
        steps, seconds: Its length.
        rate: The highest learning rate, as given or found.
        batch: Samples in a batch, all processes together.
        processes: How many there were.
        precision: In which the networks computed: 'fp32' or 'bf16'.
        setbacks: How often the rate was halved because the loss was not finite or rose.
        metric: The name of the merit; None where there was no evaluation data.
        best_step: Of the state that was kept; None where the last one was.
        history: The log.
    """

    steps: int
    seconds: float
    rate: float
    batch: int
    processes: int
    precision: str
    setbacks: int
    metric: str | None
    best_step: int | None
    history: tuple[Moment, ...]


class Record:
    """Follows a distillation: smooths its loss, keeps a moment of each 1/200, and writes them to a log.

    Args:
        path: For one JSON object per line; without it nothing is written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.history: list[Moment] = []
        self.metric: str | None = None
        self.first: float | None = None
        self.smoothed: float | None = None
        self._speed: float | None = None

    def start(self) -> None:
        """A new log.

        Raises:
            FileError: it cannot be written.
        """
        self._write("w", self.history)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        history = [asdict(moment) for moment in self.history]
        return {"history": history, "metric": self.metric, "first": self.first, "smoothed": self.smoothed}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the log is written anew up to there."""
        self.history = [Moment(**moment) for moment in state["history"]]
        self.metric, self.first, self.smoothed = state["metric"], state["first"], state["smoothed"]
        self.start()

    def follow(self, moment: Moment, before: float, done: float) -> None:
        """Take in a step, which led from one part of the run to another; some of them are kept."""
        if moment.loss is not None and math.isfinite(moment.loss):
            self.first = moment.loss if self.first is None else self.first
            last = moment.loss if self.smoothed is None else self.smoothed
            self.smoothed = last + _SMOOTHING * (moment.loss - last)
        if moment.speed is not None:
            self._speed = moment.speed if self._speed is None else 0.9 * self._speed + 0.1 * moment.speed
        if math.floor(done * _MOMENTS) > math.floor(before * _MOMENTS) or not self.history:
            self.add(replace(moment, loss=self.smoothed, speed=self._speed))

    def add(self, moment: Moment) -> None:
        """Keep a moment."""
        self.history.append(moment)
        self._write("a", [moment])

    def rise(self) -> float:
        """How many times the first loss the smoothed one is."""
        return self.smoothed / self.first if self.smoothed is not None and self.first else 1.0

    def told(self) -> str:
        """How it goes, in a few words."""
        merits = [moment.metric for moment in self.history if moment.metric is not None]
        parts = [
            "distilling" if self.smoothed is None else f"loss {self.smoothed:.3g}",
            f"rate {self.history[-1].rate:.1e}" if self.history else "",
            f"{self._speed:,.0f}/s" if self._speed else "",
            f"{self.metric} {abs(merits[-1]):.1%}" if merits else "",
        ]
        return ", ".join(filter(None, parts))

    def _write(self, mode: str, moments: Iterable[Moment]) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode, encoding="utf-8") as file:
                file.writelines(json_text(asdict(moment)) + "\n" for moment in moments)
        except OSError as error:
            raise FileError(f"cannot write the log {self._path}: {error.strerror or error}") from None
