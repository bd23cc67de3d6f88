"""A network and factors → a new network."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phnnify.algebra import Factors, Order
from phnnify.algebras import named_algebra
from phnnify.errors import ModelError, PlanError
from phnnify.factorization import factorize, project
from phnnify.layers import PHMConv2d, PHMEmbedding, PHMLayer, PHMLinear
from phnnify.measure import parameter_count
from phnnify.rewrite import dense_weights, rewrite
from tests.graph_networks import Locked, Plain, Tied, Twice


def exact(model: nn.Module, *names: str) -> dict[str, Factors]:
    """Factors with all terms: they reproduce the weights, so only the rewriting can be wrong."""
    factors = {}
    for name, weight in dense_weights(model, names).items():
        closest = Order.closest(weight.shape[0], weight.shape[1], 4)
        factors[name] = factorize(weight, Order(closest.n_out, closest.n_in, closest.n_out * closest.n_in))
    return factors


ALL = ("stem", "grouped", "up", "point", "head")


@pytest.mark.parametrize("training", [True, False])
def test_exact_factors_reproduce_the_network(training: bool) -> None:
    torch.manual_seed(0)
    model = Plain().train(training)
    converted = rewrite(model, exact(model, *ALL))
    assert sum(isinstance(m, PHMLayer) for m in converted.modules()) == 5
    x = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)


class Volumes(nn.Module):
    """One- and three-dimensional convolutions, dilated, and padded in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(4, 8, 3, padding="same", dilation=2, padding_mode="circular")
        self.b = nn.ConvTranspose1d(8, 4, 3, stride=2, output_padding=1, groups=2)
        self.c = nn.Conv3d(4, 8, (1, 1, 3), padding=(0, 0, 1), padding_mode="replicate", bias=False)
        self.d = nn.ConvTranspose3d(8, 4, (1, 1, 2), dilation=(1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(self.b(self.a(x))[:, :, None, None]))
        return out


def test_exact_factors_reproduce_convolutions_in_one_and_three_dimensions() -> None:
    torch.manual_seed(0)
    model = Volumes()
    converted = rewrite(model, exact(model, *"abcd"))
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_original_is_untouched() -> None:
    model = Plain()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    converted = rewrite(model, exact(model, *ALL))
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.add_(1)
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_class_methods_attributes_and_modes_are_the_users() -> None:
    model: Any = Plain()
    model.note = {"any": "thing"}
    model.norm.eval()
    model.head.eval()
    model.norm.weight.requires_grad_(False)
    converted: Any = rewrite(model, exact(model, "head", "stem"))
    assert type(converted) is Plain
    assert converted.note == model.note
    assert converted.note is not model.note
    modes = {name: m.training for name, m in model.named_modules()}
    assert {name: m.training for name, m in converted.named_modules()} == modes
    assert not converted.norm.weight.requires_grad
    assert isinstance(converted.get_submodule("head"), PHMLinear)
    assert isinstance(converted.get_submodule("stem"), PHMConv2d)
    assert type(converted.get_submodule("grouped")) is nn.Conv2d


def test_a_shared_layer_stays_shared_also_where_it_is_not_registered() -> None:
    model = Twice()
    converted: Any = rewrite(model, exact(model, "layer"))
    assert converted.layer is converted.again is converted.steps[0]
    assert isinstance(converted.layer, PHMLayer)


def test_ties_between_other_parameters_stay_ties() -> None:
    model = Tied()
    converted: Any = rewrite(model, exact(model, "body"))
    assert converted.head.weight is converted.table.weight
    assert converted.head.weight is not model.head.weight


def test_layers_that_share_a_weight_share_its_factors() -> None:
    model = Tied()
    converted: Any = rewrite(model, exact(model, "table"))
    assert isinstance(converted.table, PHMEmbedding)
    assert isinstance(converted.head, PHMLinear)
    assert converted.table.S is converted.head.S
    tokens = torch.randint(20, (2, 5))
    torch.testing.assert_close(converted(tokens), model(tokens))


def test_a_tied_bias_stays_tied() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].bias = model[2].bias = model[0].bias
    converted: Any = rewrite(model, exact(model, "0", "2"))
    assert converted[0].bias is converted[1].bias is converted[2].bias
    assert converted[0].bias is not model[0].bias


def test_hooks_go_along() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8))
    seen: list[str] = []
    model[0].register_forward_hook(lambda module, x, y: seen.append(type(module).__name__))
    model[0].register_forward_pre_hook(lambda module, x: seen.append("before"))
    rewrite(model, exact(model, "0"))(torch.zeros(1, 8))
    assert seen == ["before", "PHMLinear"]


def test_buffers_go_along_the_unsaved_ones_too() -> None:
    model: Any = Plain()
    model.register_buffer("steps", torch.arange(3), persistent=False)
    converted: Any = rewrite(model, exact(model, "head"))
    assert torch.equal(converted.steps, model.steps)
    assert converted.steps is not model.steps
    assert "steps" not in converted.state_dict()


def test_a_network_that_is_one_layer_is_replaced_itself() -> None:
    model = nn.Linear(8, 8)
    converted = rewrite(model, exact(model, "weight"))
    assert isinstance(converted, PHMLinear)
    x = torch.randn(2, 8)
    torch.testing.assert_close(converted(x), model(x), rtol=1e-5, atol=1e-5)


def test_names_that_are_no_dense_layer_are_refused() -> None:
    with pytest.raises(PlanError, match="no layer 'tail'"):
        dense_weights(Plain(), ["tail"])
    with pytest.raises(PlanError, match="norm is a BatchNorm2d"):
        dense_weights(Plain(), ["norm"])


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = Locked()
    with pytest.raises(ModelError, match="cannot be copied"):
        rewrite(model, exact(model, "layer"))


def test_layers_share_one_algebra_of_each_order_and_copies_do_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 12), nn.Linear(12, 9))
    orders = {"0": Order(2, 2, 2), "1": Order(2, 2, 2), "2": Order(3, 2, 2)}
    A = torch.randn(2, 2, 2)
    weights = dense_weights(model, orders)
    factors = {name: project(weights[name], A) for name in "01"} | {"2": factorize(weights["2"], orders["2"])}
    converted = rewrite(model, factors, dict.fromkeys(orders, "shared"))
    for network in (
        converted,
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        converted.double(),
    ):
        first, second, third = (module for module in network.modules() if isinstance(module, PHMLayer))
        assert first.A is second.A
        assert third.A is not first.A
        assert isinstance(first.A, nn.Parameter)
    assert parameter_count(converted) == 8 + 32 + 48 + 12 + 36 + 8 + 12 + 9


def test_a_fixed_algebra_becomes_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    A = named_algebra("quaternion").A()
    factors = {name: project(weight, A) for name, weight in dense_weights(model, "01").items()}
    converted = rewrite(model, factors, {"1": "quaternion"})
    assert [layer.has_fixed_algebra for layer in converted.modules() if isinstance(layer, PHMLayer)] == [
        False,
        True,
    ]
