"""Networks that give other answers each time they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phnnify.errors import ExportError
from phnnify.inputs import Example
from phnnify.repeatable import refuse_random


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: {"a": (y, None)}])
def test_only_a_network_that_gives_other_answers_each_time_is_random(wrap: Any) -> None:
    class Network(nn.Module):
        def __init__(self, noise: float, constant: float = 1.0) -> None:
            super().__init__()
            self.noise, self.constant = noise, constant

        def forward(self, x: Tensor) -> Any:
            return wrap(x * self.constant + self.noise * torch.randn_like(x))

    example = Example((torch.ones(4, 3),), {})
    for same in (Network(0.0), Network(1e-7), Network(0.0, float("nan")), Network(0.0, float("inf"))):
        refuse_random(same, example)
    with pytest.raises(ExportError, match="gives other answers each time") as caught:
        refuse_random(Network(0.1), example)
    assert "nn.Dropout" in (caught.value.hint or "")
