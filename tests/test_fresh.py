"""Networks to be trained from scratch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.errors import ModelError
from phnnify.fresh import fresh_network, kept_note
from phnnify.layers import PHMLayer
from phnnify.measure import parameter_count, submodule
from phnnify.opened import open_modules
from phnnify.rewrite import dense_weights


class Net(nn.Module):
    """Every kind of parameter: of layers, of a recurrent layer, of a norm, and one that no module draws."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32)
        self.recurrent = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, 32)
        self.place = nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).mean(2).mT + self.place
        out: Tensor = self.head(self.recurrent(y)[0])
        return out


def trained() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(7).add_(0.5)
        model(torch.randn(4, 2, 8, 8))
    return model


def test_everything_is_drawn_anew_but_what_no_module_draws() -> None:
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh, kept = fresh_network(model, 0)
    assert kept == ["place"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, before[name]) == (name == "place"), name
    assert torch.equal(fresh.get_buffer("norm.running_mean"), torch.zeros(32))
    bound = fresh.get_parameter("recurrent.weight_ih_l0").abs().max()
    assert 0.9 / 8 < bound < 1 / 8  # the hidden size, 64, says how large


def test_factors_compose_weights_as_large_as_fresh_dense_ones() -> None:
    model = trained()
    result = phnnify.convert(model, 4, init="fresh", seed=3)
    opened = open_modules(fresh_network(model, 3)[0])
    names = list(result.plan.conversions)
    assert names == ["conv", "recurrent.ih_l0", "recurrent.hh_l0", "head"]
    for name, weight in dense_weights(opened, names).items():
        layer = submodule(result.model, name)
        assert isinstance(layer, PHMLayer)
        torch.testing.assert_close(layer.weight.square().mean(), weight.square().mean())
        torch.testing.assert_close(layer.A.square().mean(), layer.S.square().mean())


def test_a_fresh_network_is_in_the_papers_form_and_its_report_says_so() -> None:
    result = phnnify.convert(trained(), 2, init="fresh")
    assert [d.order and (d.order.n_out, d.order.n_in, d.order.terms) for d in result.plan.decisions] == [
        (2, 2, 2)
    ] * 4
    assert result.report.notes == (
        "Nothing was fitted: all weights are drawn anew, to be trained from scratch.",
        "Not drawn anew, since no module says how: place.",
    )
    assert all(layer.weight_error is None for layer in result.report.layers)
    assert result.report.params.after == parameter_count(result.model)


def test_the_same_seed_draws_the_same_and_leaves_other_draws_alone() -> None:
    model = trained()
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    one, again, other = (phnnify.convert(model, 4, init="fresh", seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(torch.randn(3), wanted)
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        same = torch.equal(value, other.state_dict()[name])
        assert same == (name.split(".")[0] in ("norm", "place")), name


@pytest.mark.parametrize("more", [{"share_algebra": True}, {"algebra": "quaternion"}])
def test_given_algebras_have_fresh_filters_of_the_right_size(more: dict[str, Any]) -> None:
    result = phnnify.convert(nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8)), 4, init="fresh", **more)
    layers = [module for module in result.model.modules() if isinstance(module, PHMLayer)]
    assert torch.equal(layers[0].A, layers[1].A)
    for layer, width in zip(layers, (64, 32), strict=True):
        assert float(layer.weight.detach().square().mean()) == pytest.approx(1 / (3 * width), rel=0.1)
    A = layers[0].A.detach().clone()
    fresh = phnnify.convert(
        nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8)), 4, init="fresh", seed=1, **more
    )
    changed = not torch.equal(A, fresh.model.get_submodule("0").A)  # type: ignore[arg-type]
    assert changed == ("share_algebra" in more)


def test_a_weight_that_starts_at_zero_does_so_in_factors() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.inner.weight)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out

    layer = phnnify.convert(Gate(), 2, init="fresh").model.inner
    assert isinstance(layer, PHMLayer)
    assert not layer.weight.any()
    assert layer.A.abs().min() > 0


def test_a_modules_own_failure_is_said() -> None:
    class Careless(nn.Module):
        def reset_parameters(self) -> None:
            raise RuntimeError("say how")

    with pytest.raises(ModelError, match=r"Careless.reset_parameters\(\) fails: RuntimeError: say how"):
        fresh_network(nn.Sequential(Careless()), 0)


def test_a_note_names_a_few() -> None:
    assert kept_note([]) == []
    (note,) = kept_note([f"p{i}" for i in range(7)])
    assert note.endswith("p0, p1, p2, p3, p4 and 2 more.")
