"""What a form of one weight does to the answer of the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Factors, Order, compose
from phnnify.batches import Batch
from phnnify.evaluate import output_change
from phnnify.sensitivity import damages
from tests.survey_network import NAMES, Net


def test_damage_is_the_change_of_the_answer(model: Net, batches: list[Batch]) -> None:
    weight = model.head.weight.detach()
    factors = phnnify.factorize(weight, Order.low_rank(2))
    other = Net()
    other.load_state_dict(model.state_dict())
    other.eval().head.weight.data.copy_(compose(*factors))
    x = torch.cat([batch.args[0] for batch in batches])
    with torch.no_grad():
        y, y_hat = model(x), other(x)
        shift = torch.cat(
            [(b - a - (b - a).mean(0)) for a, b in zip(y.split(32), y_hat.split(32), strict=True)]
        )
    found = damages(model, {"head": [factors, exact(weight)]}, batches)["head"]
    assert found[0] == pytest.approx(output_change(y, y + shift), rel=1e-4)
    assert found[1] == pytest.approx(0, abs=1e-6)


def exact(weight: Tensor) -> Factors:
    return phnnify.factorize(weight, Order.low_rank(min(weight.shape[0], weight[0].numel())))


def test_exact_forms_of_every_kind_of_layer_do_no_damage(model: Net, batches: list[Batch]) -> None:
    forms = {}
    for name in NAMES:
        weight = model.get_submodule(name).get_parameter("weight").detach()
        forms[name] = [exact(weight.transpose(0, 1) if name == "up" else weight)]
    assert all(abs(found[0]) < 1e-6 for found in damages(model, forms, batches).values())


class ByKeyword(nn.Module):
    """Calls its layer with a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(input=x))


def test_a_layer_that_is_called_with_keywords_is_replaced_too() -> None:
    torch.manual_seed(0)
    model, x = ByKeyword(), torch.randn(20, 8)
    zero = Factors(torch.zeros(0, 1, 1), torch.zeros(0, 8, 8), torch.zeros(8, 1), torch.zeros(1, 8))
    (damage,) = damages(model, {"layer": [zero]}, [Batch((x,))])["layer"]
    with torch.no_grad():
        mean = torch.relu(model.layer(x).mean(0)).expand(20, 8)
        assert damage == pytest.approx(output_change(model(x), mean), rel=1e-5)
