"""What tests of refused calls share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from phnnify.errors import PhnnifyError


def refused(call: Callable[[], Any], kind: type[PhnnifyError]) -> PhnnifyError:
    """The error of a call, which is of this very kind."""
    with pytest.raises(PhnnifyError) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value
