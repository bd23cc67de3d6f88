"""Being asked to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from phnnify.distilling.signals import stop_requests


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_the_first_request_is_noted_and_tears_nothing(number: signal.Signals, name: str) -> None:
    before = signal.getsignal(number)
    with stop_requests() as asked:
        assert not asked
        os.kill(os.getpid(), number)
        assert asked
        assert asked.name == name
    assert signal.getsignal(number) is before


@pytest.fixture
def default_handler() -> Iterator[None]:
    """Python's own, which a process that runs tests beside others may have switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_handler")
def test_the_second_ctrl_c_acts_as_ever() -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), stop_requests():
        twice()


def test_handlers_are_as_before_when_the_work_fails() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="the work"), stop_requests():
        raise ValueError("the work failed")
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_noted() -> None:
    seen = []

    def work() -> None:
        with stop_requests() as asked:
            seen.append(bool(asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
