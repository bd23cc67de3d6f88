"""Who is told how far a long piece of work is."""

from __future__ import annotations

from collections.abc import Callable

Watcher = Callable[[str, int, int], None]
"""Told (what is going on, how much is done, how much there is; 0 where that is unknown)."""
Progress = Callable[[int, int, str], None]
"""Called with (done, all, name of the next): numbers of weight entries, so that time left can be told."""


def nobody(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def saying(watch: Watcher, words: str) -> Progress:
    """Tell a watcher of the progress with weights in these words, in which {} is the weight's name."""
    return lambda done, total, name: watch(words.format(name), done, total)
