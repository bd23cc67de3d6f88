"""Fixed and shared algebras: what a plan gives to weights, and what layers show of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phnnify.algebra import Order, compose, relative_error
from phnnify.algebras import SHARED, Algebra, named_algebra
from phnnify.errors import ModelError, PlanError
from phnnify.factorization import project
from phnnify.given import given_algebras, sharing, shown_algebras
from phnnify.layers import PHMLayer, PHMLinear
from phnnify.plan import Decision, Plan


def plan(**forms: tuple[Order, str]) -> Plan:
    return Plan(
        2, tuple(Decision(name, "Linear", (8, 8), *form[:1], algebra=form[1]) for name, form in forms.items())
    )


def weights(*names: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(8, 8, generator=draw, dtype=torch.float64) for name in names}


def test_each_weight_is_given_what_its_plan_says() -> None:
    two = Order(2, 2, 2)
    wanted = plan(
        own=(two, "learned"),
        fixed=(two, "complex"),
        a=(two, SHARED),
        b=(two, SHARED),
        c=(Order(4, 4, 2), SHARED),
    )
    found = given_algebras(wanted, weights("own", "fixed", "a", "b", "c"))
    assert list(found) == ["fixed", "a", "b", "c"]
    assert torch.equal(found["fixed"], named_algebra("complex").A())
    assert found["a"] is found["b"]
    assert found["c"].shape == (2, 4, 4)
    assert sharing(wanted) == {two: ["a", "b"], Order(4, 4, 2): ["c"]}


def test_a_shared_algebra_is_better_for_both_than_either_ones_own() -> None:
    two = Order(2, 2, 2)
    both = weights("a", "b")
    shared = given_algebras(plan(a=(two, SHARED), b=(two, SHARED)), both)["a"]

    def lost(A: torch.Tensor) -> float:
        return sum(relative_error(W, compose(*project(W, A))) ** 2 for W in both.values())

    for name in both:
        own = given_algebras(plan(**{name: (two, SHARED)}), both)[name]
        assert lost(shared) < lost(own)


def test_a_low_rank_term_beside_a_given_algebra_is_refused() -> None:
    with pytest.raises(PlanError, match="gives a a low-rank term and the shared algebra"):
        given_algebras(plan(a=(Order(2, 2, 2, 1), SHARED)), weights("a"))


def test_a_damaged_weight_is_named() -> None:
    broken = {"a": torch.full((8, 8), torch.nan)}
    with pytest.raises(ModelError, match=r"one of a cannot be fitted: .*not finite"):
        given_algebras(plan(a=(Order(2, 2, 2), SHARED)), broken)


def layers() -> dict[str, PHMLayer]:
    return {name: PHMLinear(8, 8, n=2) for name in "abc"}


def test_layers_show_what_they_are() -> None:
    shown = layers()
    shown["a"].A = shown["b"].A
    shown["c"].fix_algebra(named_algebra("complex").A())
    assert shown_algebras(shown) == ({"a": "shared", "b": "shared", "c": "complex"}, ())


def test_fixed_algebras_without_a_name_get_one_each() -> None:
    shown, dual = layers(), torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]])
    for name, scale in zip("abc", (1, 2, 1), strict=True):
        shown[name].fix_algebra(scale * dual)
    found, own = shown_algebras(shown)
    assert found == {"a": "own-1", "b": "own-2", "c": "own-1"}
    assert own == (Algebra.of("own-1", dual), Algebra.of("own-2", 2 * dual))


def test_what_a_plan_cannot_say_is_refused() -> None:
    shown = {**layers(), "d": PHMLinear(8, 8, n=2)}
    shown["a"].A, shown["c"].A = shown["b"].A, shown["d"].A
    with pytest.raises(PlanError, match="share several algebras"):
        shown_algebras(shown)
    uneven = PHMLinear(9, 8, n=Order(2, 3, 2))
    uneven.fix_algebra()
    with pytest.raises(PlanError, match="the fixed algebra of x"):
        shown_algebras({"x": uneven})
    assert isinstance(uneven.A, torch.Tensor)
    assert not isinstance(uneven.A, nn.Parameter)
