"""A distillation under way: step after step, what is kept of it, and what happens where one goes wrong.

What a step sees is decided by the seed and the step's number alone, so a run can be stopped and resumed
anywhere, and repeated. The student runs in eval mode but for its BatchNorms, which learn the statistics of
the batches: dropout would only take away what little capacity it has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from phnnify.batches import Batch
from phnnify.distilling.checkpoint import write_checkpoint
from phnnify.distilling.course import Course, Moment, Record
from phnnify.distilling.engine import (
    compute_precision,
    learning_copy,
    mean_of_processes,
    set_randomness,
    teaching_copy,
)
from phnnify.distilling.lesson import Lesson
from phnnify.distilling.optimize import Average, balance_, find_rate, load_state_, make_optimizer, state_of
from phnnify.distilling.recipe import Recipe
from phnnify.distilling.signals import StopRequest, stop_requests
from phnnify.errors import FileError, StoppedError, UsageError
from phnnify.evaluate import Examination
from phnnify.feed import Feed
from phnnify.measure import copied
from phnnify.opened import open_modules

_PATIENCE = 5  # bad steps or divergences before a run is given up
_DIVERGED = 3.0  # times the first loss

Watcher = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        model: The student as it was best, or as it was last where nothing was measured; on its own device.
        course: What happened on the way.
        trouble: Why the run was given up before its end; None where it was not.
        main: Whether this is the process, of several, that writes files.
    """

    model: nn.Module
    course: Course
    trouble: str | None = None
    main: bool = True


class Run:
    """A distillation under way. What `_KEPT` names is, with weights and optimizer, its state."""

    _KEPT = ("step", "seconds", "rate", "share", "setbacks", "checks", "best")

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        feed: Feed,
        recipe: Recipe,
        accelerator: Any,
        watch: Watcher | None,
    ) -> None:
        device = accelerator.device
        self.recipe, self.feed, self.accelerator = recipe, feed, accelerator
        self.watch = watch if watch and accelerator.is_main_process else _nobody
        self.processes, self.process = int(accelerator.num_processes), int(accelerator.process_index)
        self.length = recipe.length(feed.steps_in_epoch() / self.processes)
        self.precision = compute_precision(recipe.precision, device)
        teacher = teaching_copy(teacher, device)
        layers = [name for name, _ in student.named_modules()]
        watched = open_modules(teacher, bare=layers) if recipe.hidden else teacher  # layers inside of others
        self.lesson = Lesson(watched.eval(), recipe, self.precision)
        self.given, self.student = student, learning_copy(student, device, feed.batch)
        self.examined = learning_copy(student, device, feed.batch)  # for whatever must leave no trace
        self.examination: Examination | None = None
        self.checkpoint: Path | None = None
        self.record = Record()
        self.step, self.seconds, self.rate, self.share, self.setbacks, self.checks = 0, 0.0, 0.0, 1.0, 0, -1
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def begin(self) -> None:
        """Find the rate, and be ready for the first step."""
        started = time.monotonic()
        balance_(self.student)
        self._try_layout()
        self.watch("looking for the learning rate", 0, 0)
        self.rate = self.recipe.rate or self._mean(find_rate(self.student, self.recipe, self._trials()))
        self._prepare()
        self.record.start()
        self.seconds = time.monotonic() - started

    def load(self, state: Mapping[str, Any]) -> None:
        """Be ready for the step after a checkpoint.

        Raises:
            UsageError: it is of a run with other options.
            FileError: it does not fit the student.
        """
        if (state["recipe"], state["processes"]) != (self.recipe.to_json(), self.processes):
            raise UsageError(
                f"the checkpoint {self.checkpoint} is of a run with other options",
                hint="give the options of that run, or delete it to start anew",
            )
        if _shapes(state["student"]) != _shapes(state_of(self.student)):
            raise FileError(
                f"the checkpoint {self.checkpoint} is of another student", hint="delete it to start anew"
            )
        load_state_(self.student, state["student"])
        self._try_layout()
        for name in self._KEPT:
            setattr(self, name, state[name])
        self._prepare()
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_(state["average"], state["updates"])
        self.record.load(state["record"])

    def save(self) -> None:
        """Write the checkpoint, where there is to be one."""
        if self.checkpoint and self.accelerator.is_main_process:
            state = {name: getattr(self, name) for name in self._KEPT}
            state["recipe"], state["processes"] = self.recipe.to_json(), self.processes
            state["student"], state["optimizer"] = state_of(self.student), self.optimizer.state_dict()
            state["average"], state["updates"] = self.average.state, self.average.updates
            state["record"] = self.record.state()
            write_checkpoint(self.checkpoint, state)

    def train(self) -> str | None:
        """Go on to the end; gives the reason where that is not reached.

        Raises:
            StoppedError: the process was asked to stop.
        """
        started, saved = time.monotonic() - self.seconds, self.seconds
        stream = self.feed.stream(self.step * self.processes + self.process, self.processes)
        trouble = None
        with stop_requests() if self.checkpoint else nullcontext(StopRequest()) as asked:
            self._check(0.0)
            while (done := self.length.done(self.step, self.seconds)) < 1 and self.setbacks < _PATIENCE:
                batch = self._seen(next(stream), self.step)
                loss, trouble = self._learn(batch, done)
                self.step += 1
                now, stop = self._agreed(time.monotonic() - started, asked)
                moment = self._moment(loss, batch, now - self.seconds)
                self.seconds, before, done = now, done, self.length.done(self.step, now)
                self.record.follow(moment, before, done)
                trouble = trouble or self._runaway()
                self._check(done)
                self.watch(self.record.told(), int(1000 * done), 1000)
                if stop and done < 1:
                    self.save()
                    raise StoppedError(
                        f"stopped by {asked.name} after step {self.step:,}",
                        hint=f"--resume goes on from {self.checkpoint}",
                    )
                if self.seconds - saved >= 60 * self.recipe.checkpoint_minutes:
                    self.save()
                    saved = self.seconds
        self.save()
        if self.setbacks < _PATIENCE:
            return None
        return f"the distillation was given up after step {self.step:,}: {trouble}, at ever lower rates"

    def finish(self, trouble: str | None = None) -> Distilled:
        """The student as it is to be kept, and how it came about."""
        _, step, state = self.best or (None, None, self.average.state)
        model = copied(self.given, {})
        load_state_(model, state)
        course = Course(
            steps=self.step,
            seconds=self.seconds,
            rate=self.rate,
            batch=self.feed.batch * self.processes,
            processes=self.processes,
            precision="fp32" if self.precision is None else "bf16",
            setbacks=self.setbacks,
            metric=self.record.metric,
            best_step=step,
            history=tuple(self.record.history),
        )
        return Distilled(model, course, trouble, self.accelerator.is_main_process)

    def _try_layout(self) -> None:
        self.lesson.try_channels_last(self.examined, self._seen(next(self.feed.stream()), 0))

    def _prepare(self) -> None:
        optimizer = make_optimizer(self.student, self.recipe, self.rate)
        self.model, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.average = Average(self.student, self.recipe.average)

    def _trials(self) -> Iterator[Callable[[nn.Module], Tensor]]:
        for place, batch in enumerate(self.feed.stream()):
            yield partial(self.lesson, batch=self._seen(batch, place))

    def _seen(self, batch: Batch, step: int) -> Batch:
        """The batch as this step sees it, on the device; everything random is set for the step."""
        generator = set_randomness(((self.recipe.seed + 1) * 1_000_003 + step) * 1009 + self.process)
        return self.recipe.augment(batch.to(self.accelerator.device), generator)

    def _rate_at(self, done: float) -> float:
        return self.rate * self.share * self.recipe.share_of_rate(done)

    def _learn(self, batch: Batch, done: float) -> tuple[float, str | None]:
        """One step; its loss, the mean of all processes, and why it was skipped, if it was."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate_at(done)
        loss = self.lesson(self.model, batch)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        size = self.accelerator.clip_grad_norm_(self.student.parameters(), self.recipe.clip)
        value = self._mean(loss.item())
        if math.isfinite(value) and math.isfinite(float(size)):
            self.optimizer.step()
            self.average.update(self.student)
            return value, None
        self._set_back()
        return value, "its loss or gradient is not finite"

    def _runaway(self) -> str | None:
        """Where the loss is far above the first one: back to the best state, with half the rate."""
        rise = self.record.rise()
        if rise <= _DIVERGED:
            return None
        load_state_(self.student, self.best[2] if self.best else state_of(self.given))
        self.optimizer.state.clear()
        self.average = Average(self.student, self.recipe.average)
        self.record.smoothed = None
        self._set_back()
        return f"its loss rose to {rise:.1f} times the first one"

    def _set_back(self) -> None:
        """Go on at half the rate, with statistics that are finite."""
        self.setbacks += 1
        self.share /= 2
        for name, buffer in self.student.named_buffers():
            if not buffer.isfinite().all():
                buffer.copy_(self.average.state[name])

    def _agreed(self, seconds: float, asked: StopRequest) -> tuple[float, bool]:
        """The time that all processes go by, and whether any of them was asked to stop."""
        return self._mean(seconds), self._mean(float(bool(asked))) > 0

    def _mean(self, value: float) -> float:
        return mean_of_processes(self.accelerator, value)

    def _check(self, done: float) -> None:
        """Measure the averaged student, as often as the recipe says, and remember the best."""
        due = math.floor(done * self.recipe.checks)
        if self.examination is None or due <= self.checks:
            return
        self.checks = due
        load_state_(self.examined, self.average.state)
        self.record.metric, merit = self.examination(self.examined).merit
        self.record.add(self._moment(self.record.smoothed, None, 0.0, merit))
        if self.best is None or merit >= self.best[0]:
            self.best = (merit, self.step, state_of(self.examined))

    def _moment(
        self, loss: float | None, batch: Batch | None, seconds: float, metric: float | None = None
    ) -> Moment:
        speed = _samples(batch) * self.processes / seconds if batch and seconds else None
        rate = self._rate_at(self.length.done(self.step, self.seconds))
        return Moment(self.step, self.seconds, loss, rate, speed, metric)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _samples(batch: Batch) -> int:
    """How many samples, or tokens where inputs are whole numbers (batch, length)."""
    x = next(iter((*batch.args, *batch.kwargs.values())))
    return x.numel() if x.dim() == 2 and not x.is_floating_point() else len(x)


def _nobody(what: str, done: int, total: int) -> None:
    """Nobody watches."""
