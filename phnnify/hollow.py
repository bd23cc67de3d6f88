"""Networks whose parameters hold no data yet: built and rewritten without the memory of the original."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn


@contextmanager
def hollow() -> Iterator[None]:
    """While it lasts, the parameters of new modules are on the meta device.

    Buffers, which may be computed, are not. A parameter that is used in several places stays one.
    """
    register = nn.Module.register_parameter

    def registering(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    with patch.object(nn.Module, "register_parameter", registering):
        yield


def fill_(model: nn.Module) -> None:
    """Give every parameter and buffer on the meta device room in memory, in place; ties stay ties."""
    real: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and tensor.is_meta:
                    if id(tensor) not in real:
                        room = torch.empty_like(tensor, device="cpu")
                        learned = isinstance(tensor, nn.Parameter)
                        real[id(tensor)] = (
                            nn.Parameter(room, requires_grad=tensor.requires_grad) if learned else room
                        )
                    own[name] = real[id(tensor)]  # type: ignore[assignment]
