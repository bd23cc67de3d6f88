"""Networks without data."""

from __future__ import annotations

import torch
from torch import nn

from phnnify.hollow import fill_, hollow


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("table", torch.arange(5.0), persistent=False)
        self.register_parameter("nothing", None)


def test_parameters_hold_no_data_and_buffers_do() -> None:
    with hollow():
        model = Tied()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model.get_buffer("table"), torch.arange(5.0))
    assert model.one.weight is model.two.weight
    assert not model.scale.requires_grad
    assert not Tied().scale.is_meta


def test_room_is_given_once_to_what_is_tied() -> None:
    with hollow():
        model = Tied()
    model.register_buffer("more", torch.empty(2, device="meta"))
    fill_(model)
    assert model.one.weight is model.two.weight
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert not model.scale.requires_grad
    model.load_state_dict(Tied().state_dict() | {"more": torch.ones(2)})
    assert torch.equal(model.scale, torch.ones(3))
