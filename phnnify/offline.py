"""Libraries that would fetch files read only what is on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch


@contextmanager
def offline() -> Iterator[None]:
    """While it lasts, huggingface_hub and torch.hub give files from their caches, or raise an OSError."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.hub, "urlopen", _refuse))
        if importlib.util.find_spec("huggingface_hub"):
            from huggingface_hub import constants, utils

            stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
            # Sessions that versions before 1 made while offline would stay so.
            forget = getattr(utils, "reset_sessions", lambda: None)
            forget()
            stack.callback(forget)
        yield


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise OSError("it is not in the cache on this machine")
