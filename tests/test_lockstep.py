"""Runs of networks that wait for each other."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from phnnify.errors import ModelError
from phnnify.inputs import Example
from phnnify.lockstep import Runs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))


def examples(*sizes: int) -> list[Example]:
    return [
        Example((torch.randn(size, 4, generator=torch.Generator().manual_seed(size)),), {}) for size in sizes
    ]


def test_runs_stop_in_front_of_the_named_layers_in_the_order_of_the_forward() -> None:
    model, inputs = network(), examples(3, 5)
    seen = []
    with Runs(model, ["2", "0"], inputs) as runs:
        while stops := runs.advance():
            seen.append((stops[0].name, [tuple(stop.x.shape) for stop in stops]))
        assert runs.advance() is None
    assert seen == [("0", [(3, 4), (5, 4)]), ("2", [(3, 4), (5, 4)])]


def test_what_is_changed_at_a_stop_is_what_runs_on() -> None:
    model: nn.Sequential = network()
    (example,) = examples(3)
    layer = model.get_submodule("0")
    with Runs(model, ["0", "2"], [example]) as runs:
        runs.advance()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        stops = runs.advance()
    assert stops is not None
    assert torch.equal(stops[0].x, torch.zeros(3, 4))


def test_leaving_early_ends_the_threads_and_takes_the_hooks_off() -> None:
    model = network()
    before = threading.active_count()
    with Runs(model, ["0", "2"], examples(3, 5)) as runs:
        runs.advance()
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model(torch.zeros(1, 4)).requires_grad  # and the network runs as ever


def test_no_gradients_are_recorded() -> None:
    with Runs(network(), ["2"], examples(3)) as runs:
        stops = runs.advance()
    assert stops is not None
    assert not stops[0].x.requires_grad


class Fork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) if len(x) > 3 else self.b(x)
        return out


def test_runs_that_take_different_ways_are_refused() -> None:
    with (
        Runs(Fork(), ["a", "b"], examples(3, 5)) as runs,
        pytest.raises(ModelError, match=r"different ways .*a and b"),
    ):
        runs.advance()


def test_an_error_inside_the_network_comes_out_where_it_is_awaited() -> None:
    bad = Example((torch.zeros(2, 9),), {})
    with Runs(network(), ["2"], [bad]) as runs, pytest.raises(ModelError, match="float32 2x9"):
        runs.advance()
