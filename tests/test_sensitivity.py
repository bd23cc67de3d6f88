"""What a form of one weight does to the answer of the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import phnnify
from phnnify.algebra import Factors, Order, compose
from phnnify.batches import Batch
from phnnify.evaluate import output_change
from phnnify.sensitivity import damages
from tests.survey_network import NAMES, Net, inputs, network


@pytest.fixture
def model() -> Net:
    return network()


@pytest.fixture
def batches() -> list[Batch]:
    return inputs()


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
