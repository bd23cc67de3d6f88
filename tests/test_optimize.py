"""What moves a student's weights."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.distilling.optimize import Average, balance_, find_rate, load_state_, make_optimizer, state_of
from phnnify.distilling.recipe import Recipe
from phnnify.layers import PHMLayer, PHMLinear
from tests.networks import Tied, same_tensors, small


def layer() -> PHMLayer:
    torch.manual_seed(0)
    dense = nn.Linear(16, 24)
    found = phnnify.PHMLinear.from_dense(dense, Order(4, 4, 3, rank=2))
    with torch.no_grad():
        gain = torch.tensor([100.0, 1.0, 1e-3])
        found.A.mul_(gain.view(3, 1, 1))
        found.S.div_(gain.view(3, *[1] * (found.S.dim() - 1)))
    return found


def test_balanced_factors_have_equal_norms_and_the_same_product() -> None:
    unbalanced = layer()
    before = unbalanced.weight.detach().clone()
    balance_(nn.Sequential(unbalanced))
    torch.testing.assert_close(unbalanced.weight, before)
    torch.testing.assert_close(unbalanced.A.flatten(1).norm(dim=1), unbalanced.S.flatten(1).norm(dim=1))
    assert unbalanced.U is not None
    assert unbalanced.V is not None
    torch.testing.assert_close(unbalanced.U.norm(dim=0), unbalanced.V.flatten(1).norm(dim=1))


def test_a_term_of_zeros_stays_finite() -> None:
    unbalanced = layer()
    with torch.no_grad():
        unbalanced.S[1] = 0
    balance_(unbalanced)
    assert all(p.isfinite().all() for p in unbalanced.parameters())


@given(st.floats(0, 1), st.integers(1, 30))
def test_the_average_is_that_of_its_formula(decay: float, updates: int) -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, decay)
    wanted = model.weight.item()
    for k in range(updates):
        with torch.no_grad():
            model.weight.fill_(float(k % 7))
        average.update(model)
        share = min(decay, (1 + k) / (10 + k))
        wanted = share * wanted + (1 - share) * (k % 7)
    assert average.state["weight"].item() == pytest.approx(wanted, abs=1e-4)


def test_an_average_goes_on_from_its_state_to_the_same_bits() -> None:
    model = small()
    one = Average(model, 0.9)
    with torch.no_grad():
        model.head.weight += 1
    one.update(model)
    other = Average(small(), 0.9)
    other.load_(one.state, one.updates)
    with torch.no_grad():
        model.head.weight *= 2
    one.update(model)
    other.update(model)
    assert same_tensors(one.state, other.state)


def test_a_state_goes_back_by_names_and_tied_weights_appear_once() -> None:
    model = Tied()
    state = state_of(model)
    assert "head.weight" not in state
    with torch.no_grad():
        model.table.weight.zero_()
    load_state_(model, state)
    assert torch.equal(model.head.weight, state["table.weight"])
    state["table.weight"].zero_()
    assert model.head.weight.abs().sum() > 0


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_no_weight_decays(name: str, kind: type) -> None:
    optimizer = make_optimizer(small(), Recipe(optimizer=name), 0.1)
    assert isinstance(optimizer, kind)
    assert all(group["weight_decay"] == 0 and group["lr"] == 0.1 for group in optimizer.param_groups)


def quadratic(curvature: float) -> Iterator[Callable[[nn.Module], Tensor]]:
    """Losses around places that differ from batch to batch; descent is stable at rates below 2/curvature."""
    for seed in itertools.count():
        place = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed)) / 4
        yield lambda model: curvature * (model.get_parameter("weight") - place).square().sum() / 2  # noqa: B023


@pytest.mark.parametrize("curvature", [1.0, 10.0, 100.0])
def test_the_rate_for_sgd_follows_the_curvature(curvature: float) -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    rate = find_rate(model, Recipe(optimizer="sgd", clip=1e9), quadratic(curvature))
    assert 0.05 / curvature < rate < 1.3 / curvature


@pytest.mark.parametrize("loss", [0.0, math.nan, math.inf])
def test_a_rate_is_found_where_losses_are_extreme(loss: float) -> None:
    def extreme(model: nn.Module) -> Tensor:
        return model.get_parameter("weight").sum() * 0 + loss

    rate = find_rate(nn.Linear(4, 1, bias=False), Recipe(), itertools.repeat(extreme))
    assert 0 < rate <= 0.1


def test_finding_a_rate_changes_nothing() -> None:
    model = nn.Linear(4, 1, bias=False)
    before = copy.deepcopy(model.state_dict())
    find_rate(model, Recipe(), quadratic(1.0))
    assert same_tensors(model.state_dict(), before)
    assert model.weight.grad is None


def test_balancing_leaves_algebras_that_are_fixed_or_shared() -> None:
    fixed, one, other = PHMLinear(8, 8, n=4, algebra="quaternion"), PHMLinear(8, 8, n=2), PHMLinear(8, 8, n=2)
    other.A = one.A
    tied = PHMLinear(8, 8, n=2)
    tied.A, tied.S = PHMLinear(8, 8, n=2).A, nn.Parameter(torch.randn(2, 4, 4) * 9)
    twin = PHMLinear(8, 8, n=2)
    twin.A, twin.S = tied.A, tied.S
    model = nn.ModuleList([fixed, one, other, tied, twin])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = tied.weight.detach()
    balance_(model)
    after = model.state_dict()
    for name in ("0.A", "0.S", "1.A", "1.S", "2.S"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["3.S"], before["3.S"])
    torch.testing.assert_close(twin.weight.detach(), wanted)
