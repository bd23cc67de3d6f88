"""In which form each converted layer runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from phnnify.algebra import Order
from phnnify.errors import ModelError
from phnnify.forms import set_form_, with_dense_layers_
from phnnify.layers import PHMConv2d, PHMConvTranspose2d, PHMEmbedding, PHMLayer, PHMLinear
from tests.layer_cases import CASES


def forms(model: nn.Module) -> list[str]:
    return [module.form for module in model.modules() if isinstance(module, PHMLayer)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["factored", "folded", "auto"])
@pytest.mark.parametrize("order", [4, Order(2, 4, 3, 1), Order(4, 2, 1), Order.low_rank(2)], ids=str)
def test_every_form_computes_the_same(name: str, form: Any, order: int | Order) -> None:
    case = CASES[name]
    if isinstance(order, Order) and not order.fits(case.make().matrix):
        pytest.skip("does not divide")
    layer = case.make(order, dtype=torch.float64).eval()
    x = case.input(torch.float64)
    wanted = case.dense(layer)(x)
    torch.testing.assert_close(set_form_(layer, form)(x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
        torch.testing.assert_close(layer(x), wanted)


def test_a_layer_decides_by_its_input_unless_it_is_told() -> None:
    layer = PHMLinear(2048, 2048, n=4).eval()
    with torch.no_grad():
        layer(torch.randn(1, 2048))
        assert layer._cached is None
        layer(torch.randn(2048, 2048))
        assert layer._cached is not None
    small = PHMLinear(16, 16, n=4).eval()
    small(torch.randn(1, 16))
    assert small._cached is not None
    set_form_(small.train().eval(), "factored")(torch.randn(1, 16))
    assert small._cached is None


def test_with_an_example_each_layer_gets_the_form_for_what_comes_to_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        PHMConv2d(64, 64, 3, padding=1, n=Order(4, 4, 1)),
        PHMConv2d(64, 64, 3, padding=1, n=4),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        PHMLinear(1024, 2048, n=4),
        PHMLinear(2048, 8, n=4),
    )
    set_form_(model, "auto", "1x64x32x32", target="onnx")
    assert forms(model) == ["factored", "folded", "factored", "folded"]
    set_form_(model, "auto", "1x64x32x32", batch=512, target="onnx")
    assert forms(model) == ["factored", "folded", "folded", "folded"]
    assert forms(set_form_(model, "auto")) == ["auto"] * 4


def test_layers_that_an_example_does_not_reach_decide_when_they_run() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = PHMLinear(8, 8, n=2), PHMLinear(8, 8, n=2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.used(x)

    model = set_form_(Half(), "auto", "1x8")
    assert forms(model) == ["folded", "auto"]


def test_an_example_that_the_network_does_not_take_is_an_error() -> None:
    with pytest.raises(ModelError, match="fails on an example"):
        set_form_(nn.Sequential(PHMLinear(8, 8, n=2)), "auto", "1x5")


def test_dense_layers_take_the_place_of_converted_ones_and_compute_the_same() -> None:
    shared = PHMLinear(16, 16, n=4)
    model = nn.Sequential(PHMEmbedding(20, 16, n=4), shared, nn.Sequential(shared, PHMLinear(16, 8, n=2)))
    tokens = torch.tensor([[3, 19]])
    wanted = model(tokens)
    dense: Any = with_dense_layers_(model)
    torch.testing.assert_close(dense(tokens), wanted)
    assert not any(isinstance(module, PHMLayer) for module in dense.modules())
    assert dense[1] is dense[2][0]
    assert type(with_dense_layers_(PHMConvTranspose2d(4, 4, 2, n=2))) is nn.ConvTranspose2d


@pytest.mark.parametrize("form", ["auto", "factored", "folded"])
@pytest.mark.parametrize("order", [4, Order(2, 4, 2, 3)], ids=str)
def test_compiled_networks_have_no_graph_breaks(form: Any, order: int | Order) -> None:
    model = nn.Sequential(
        PHMConv2d(8, 8, 3, n=order), PHMConv2d(8, 8, 1, n=order), nn.Flatten(), PHMLinear(32, 8, n=order)
    )
    set_form_(model.eval(), form)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for batch in (1, 3):
        x = torch.randn(batch, 8, 4, 4)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
