"""Being asked to stop (Ctrl-C, SIGTERM) without being torn out of the middle of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether, and how, the process was asked to stop."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        """Whether it was."""
        return self.name is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While it lasts, the first SIGINT or SIGTERM is noted and the second acts as ever (main thread only)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        request.name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
