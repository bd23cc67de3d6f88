"""Plans read off layers."""

from __future__ import annotations

from torch import nn

from phnnify.algebra import Order
from phnnify.algebras import named_algebra
from phnnify.layers import PHMLinear
from phnnify.pipeline import convert
from phnnify.plan_shown import plan_beside, plan_of
from phnnify.trace import trace
from tests.networks import small

TWO = Order(2, 2, 2)


def test_a_converted_network_shows_the_plan_that_it_was_converted_by() -> None:
    result = convert(small(), 2)
    assert plan_of(result.model).conversions == result.plan.conversions == {"hidden": TWO, "head": TWO}


def test_a_network_that_is_one_layer_shows_its_weight() -> None:
    assert plan_of(PHMLinear(8, 8, n=2)).conversions == {"weight": TWO}


def test_layers_that_share_factors_are_one_weight() -> None:
    layer, other = PHMLinear(8, 8, n=2), PHMLinear(8, 8, n=2)
    other.A, other.S = layer.A, layer.S
    assert plan_of(nn.Sequential(layer, other)).conversions == {"0": TWO}


def test_a_network_without_converted_layers_shows_an_empty_plan() -> None:
    shown = plan_of(small())
    assert not shown.decisions
    assert shown.n == 1


def test_beside_its_original_a_network_shows_what_became_of_each_weight() -> None:
    layer = PHMLinear(8, 8, n=2)
    layer.fix_algebra(named_algebra("complex").A())
    student = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 8))
    shown = plan_beside(trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))), student)
    assert [(d.name, d.order, d.reason) for d in shown.decisions] == [
        ("0", TWO, None),
        ("2", None, "it is not converted in the student"),
    ]
    assert shown.algebras == {"0": "complex"}
    assert shown.n == 2


def test_a_weight_that_the_network_does_not_have_is_not_converted_in_it() -> None:
    traced = trace(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    assert plan_beside(traced, nn.Sequential(PHMLinear(8, 8, n=2))).conversions == {"0": TWO}
