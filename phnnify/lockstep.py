"""Several runs of networks that wait for each other at chosen layers.

A sequential fit needs, at each layer, the inputs of the original and those of the network whose earlier
layers are converted already. Running both from the start for every layer would cost the square of the depth.
Here each run is a thread that stops in front of each chosen layer and is moved on from outside, one at a
time, like a coroutine: every layer runs once in each network, and only live activations are held. It needs no
graph, so it works with whatever Python the network's forward is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phnnify.errors import ModelError
from phnnify.inputs import Example
from phnnify.measure import forward, submodule


class Stop(NamedTuple):
    """Where a run waits: in front of the layer `name`, which would be given `x`."""

    name: str
    x: Tensor


class _Abandoned(BaseException):
    """Ends the thread of a run that nobody will move on."""


_current = threading.local()


class Runs:
    """Runs of one network on several examples, stopping in front of the named layers. A context manager.

    Args:
        model: Runs as it is, without gradients.
        names: The layers to stop at.
        examples: One run for each.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], examples: Iterable[Example]) -> None:
        self._handles = ExitStack()
        for name in names:
            handle = submodule(model, name).register_forward_pre_hook(_stopping(name), with_kwargs=True)
            self._handles.callback(handle.remove)
        self._runs = [_Run(model, example) for example in examples]

    def __enter__(self) -> Runs:
        """Nothing runs until `advance` is called."""
        return self

    def advance(self) -> list[Stop] | None:
        """Move every run to its next stop; None when all have ended.

        Raises:
            ModelError: the network failed, or the runs do not take the same way.
        """
        stops = [run.advance() for run in self._runs]
        names = {stop.name if stop else None for stop in stops}
        if len(names) > 1:
            shown = " and ".join(sorted(str(name) for name in names))
            raise ModelError(
                f"the network takes different ways for different inputs ({shown})",
                hint="leave --data out, or give inputs that take one way",
            )
        return [stop for stop in stops if stop] or None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all runs and take the hooks off."""
        for run in self._runs:
            run.abandon()
        self._handles.close()


def _stopping(name: str) -> Any:
    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        run: _Run | None = getattr(_current, "run", None)
        if run is not None:
            run.wait(Stop(name, next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))))

    return stop


class _Run:
    """One run of a network in a thread of its own that only moves while `advance` waits for it."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        self._model, self._example = model, example
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def advance(self) -> Stop | None:
        if self._thread.ident is None:
            self._thread.start()
        elif not self._thread.is_alive():
            return None
        self._stop = None
        self._go.release()
        self._stopped.acquire()
        if self._error:
            raise self._error
        return self._stop

    def wait(self, stop: Stop) -> None:
        """Called in the thread: hand over the stop, and wait to be moved on."""
        self._stop = stop
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        if self._thread.is_alive():
            self._abandoned = True
            self._go.release()
            self._thread.join()

    def _work(self) -> None:
        self._go.acquire()
        _current.run = self
        torch.set_num_threads(self._threads)
        try:
            if not self._abandoned:
                forward(self._model, self._example)
        except _Abandoned:
            pass
        except BaseException as error:  # carried to the thread that waits
            self._error = error
        self._stop = None
        self._stopped.release()
