"""Decisions: convert, or keep with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from phnnify.algebra import Order
from phnnify.algebras import named_algebra
from phnnify.errors import PlanError, UsageError
from phnnify.plan import (
    WORTH_ITS_SIZE,
    Decision,
    Plan,
    PlanOptions,
    check_plan,
    make_plan,
    require_conversions,
    with_orders,
)
from phnnify.trace import Trace, trace
from tests.graph_networks import Outside, Plain, Tied


def planned(model: nn.Module, **options: object) -> dict[str, Decision]:
    plan = make_plan(trace(model), PlanOptions(**{"min_share": 0.0, **options}))  # type: ignore[arg-type]
    return {decision.name: decision for decision in plan.decisions}


def reason(model: nn.Module, name: str, **options: object) -> str:
    decision = planned(model, **options)[name]
    assert decision.order is None
    assert decision.reason
    return decision.reason


def test_every_weight_that_can_be_converted_is() -> None:
    decisions = planned(Plain(), n=4)
    orders = {name: d.order for name, d in decisions.items()}
    assert orders.pop("point") == Order(2, 2, 1)  # so small that its algebra would outweigh its filters
    assert orders == dict.fromkeys(["stem", "grouped", "up", "head"], Order(4, 4, 4))


@pytest.mark.parametrize("low_rank", [None, 0.5, 1.0])
def test_sides_that_nothing_divides_get_low_rank_where_that_is_wanted(low_rank: float | None) -> None:
    model = nn.Sequential(nn.Linear(101, 97))
    decisions = planned(model, n=4, low_rank=low_rank)
    assert decisions["0"].order == Order.low_rank(101 * 97 // (4 * (101 + 97)))
    assert "order does not fit" in reason(model, "0", n=4, low_rank=0.0)
    reasons = reason(nn.Sequential(nn.Linear(3, 1)), "0", n=2, low_rank=low_rank)
    assert reasons == "no saving: 4 numbers in place of 3"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("low_rank", [None, 0.0, 0.5])
def test_weights_without_numbers_stay(low_rank: float | None) -> None:
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 5), nn.Linear(0, 0), nn.Linear(5, 8))
    orders = {name: decision.order for name, decision in planned(model, n=4, low_rank=low_rank).items()}
    assert [name for name, order in orders.items() if order] == ["3"]


def test_a_larger_n_leaves_less_of_small_weights_too() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(200, 200))
    sizes = []
    for n in (2, 4, 8, 16, 32):
        plan = make_plan(trace(model), PlanOptions(n, min_share=0))
        assert len(plan.conversions) == 3
        sizes.append(sum(plan.sizes({"0": (16, 16, 3, 3), "1": (32, 16, 3, 3), "3": (200, 200)}).values()))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 2 * (2304 + 4608 + 40000) / 32


@pytest.mark.parametrize(
    ("model", "name", "options", "words"),
    [
        (nn.Sequential(nn.Linear(7, 11)), "0", {"n": 4}, "order does not fit: no number up to 4 divides"),
        (
            nn.Sequential(nn.Linear(16, 16)), "0", {"n": 16, "fresh": True},
            "no saving: 4112 numbers in place of 256",
        ),
        (nn.Sequential(nn.Linear(2, 2)), "0", {"n": 2}, "no saving: 10 numbers in place of 4"),
        (
            nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 1000)), "0", {"n": 2, "min_share": 0.01},
            "small: 0.71% of the parameters, below 1.00%",
        ),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), "0", {}, "depthwise"),
        (Tied(), "table", {}, "an embedding table, tied to head: --embeddings converts it"),
        (Outside(), "read", {}, "used outside its module"),
        (nn.Sequential(nn.Embedding(8, 8)), "0", {}, "an embedding table: --embeddings"),
        (Plain(), "stem", {"exclude": ("st*", "up")}, "excluded by the user"),
        (Plain(), "stem", {"include": ("head",)}, "not included by the user"),
        (Tied(), "table", {"exclude": ("tab*",)}, "excluded by the user"),
    ],
)  # fmt: skip
def test_a_weight_that_stays_has_a_reason(
    model: nn.Module, name: str, options: dict[str, object], words: str
) -> None:
    assert reason(model, name, **options).startswith(words)


def test_small_weights_stay_by_default_and_convert_when_asked_for_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4000))
    assert "small" in (make_plan(trace(model), PlanOptions(2)).decisions[0].reason or "")
    assert planned(model, n=2, min_share=0.005, include=("0",))["0"].order == Order(2, 2, 2)
    assert planned(model, n=2)["0"].order == Order(2, 2, 2)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    for option in ("include", "exclude"):
        with pytest.raises(PlanError, match=f"--{option} 'nothing\\*' matches no weight") as caught:
            planned(Plain(), **{option: ("nothing*",)})
        assert "stem" in (caught.value.hint or "")


@pytest.mark.parametrize("options", [{"n": 1}, {"n": 0}, {"min_share": -0.1}, {"min_share": 1.1}])
def test_options_check_themselves(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        PlanOptions(**options)  # type: ignore[arg-type]


@pytest.fixture
def traced() -> Trace:
    torch.manual_seed(0)
    return trace(Plain())


def head(**changes: object) -> Plan:
    decision = Decision("head", "Linear", (12, 64), Order(4, 4, 4))
    return Plan(4, (replace(decision, **changes),))  # type: ignore[arg-type]


def test_weights_that_a_plan_does_not_name_stay(traced: Trace) -> None:
    checked = check_plan(head(), traced)
    assert [d.name for d in checked.decisions] == ["stem", "grouped", "up", "point", "head"]
    assert checked.conversions == {"head": Order(4, 4, 4)}
    assert checked.decisions[0].reason == "not in the plan"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "tail"}, "names tail, which the network does not have"),
        ({"shape": (12, 65)}, r"has head as \(12, 65\); the network's is \(12, 64\)"),
        ({"order": Order(5, 4, 4)}, "does not fit head"),
    ],
)
def test_a_plan_for_another_network_is_refused(traced: Trace, changes: dict[str, object], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        check_plan(head(**changes), traced)


def test_a_plan_cannot_convert_what_must_stay() -> None:
    plan = Plan(2, (Decision("read", "Linear", (16, 16), Order(2, 2, 2)),))
    with pytest.raises(PlanError, match="must stay: used outside"):
        check_plan(plan, trace(Outside()))


def test_tables_are_converted_where_that_is_asked_for() -> None:
    plan = make_plan(trace(Tied()), PlanOptions(4, embeddings=True, min_share=0))
    assert plan.conversions["table"] == Order(4, 4, 4)


def test_a_rank_that_is_too_large_is_refused(traced: Trace) -> None:
    with pytest.raises(PlanError, match="rank 13 does not fit head"):
        check_plan(head(order=Order.low_rank(13)), traced)


def test_orders_are_replaced_and_weights_kept_as_worth_their_size() -> None:
    plan = with_orders(head(), {"head": Order.low_rank(2), "other": None})
    assert plan.conversions == {"head": Order.low_rank(2)}
    assert with_orders(plan, {"head": None}).decisions[0].reason == WORTH_ITS_SIZE
    kept = Plan(4, (Decision("head", "Linear", (12, 64), reason="excluded by the user"),))
    assert with_orders(kept, {"head": Order.low_rank(2)}) == kept


def test_a_plan_that_converts_nothing_is_refused_with_its_first_reasons() -> None:
    require_conversions(head())
    kept = [Decision(name, "Linear", (8, 8), reason="too small") for name in "abcd"]
    with pytest.raises(PlanError, match=r"a: too small; b: too small; c: too small; \.\.\.") as caught:
        require_conversions(Plan(4, tuple(kept)))
    assert "inspect" in (caught.value.hint or "")
    with pytest.raises(PlanError, match="the network has none") as caught:
        require_conversions(Plan(4, ()))
    assert caught.value.hint is None


def algebra_plan(**algebras: str) -> Plan:
    two = Order(2, 2, 2)
    return Plan(2, tuple(Decision(name, "Linear", (8, 8), two, algebra=a) for name, a in algebras.items()))


def test_a_fixed_algebra_counts_nowhere_and_a_shared_one_once() -> None:
    plan = algebra_plan(own="learned", first="shared", second="shared", fixed="complex")
    found = plan.sizes(dict.fromkeys(plan.conversions, (8, 8)))
    assert found == {"own": 8 + 32, "first": 8 + 32, "second": 32, "fixed": 32}


def test_a_plan_whose_algebra_does_not_fit_is_refused() -> None:
    with pytest.raises(
        PlanError, match="the plan's algebra for a: the quaternion algebra has dimension 4, not 2"
    ):
        algebra_plan(a="quaternion")
    with pytest.raises(PlanError, match="no algebra 'mine'"):
        algebra_plan(a="mine")
    uneven = Decision("a", "Linear", (9, 8), Order(3, 2, 2), algebra="complex")
    with pytest.raises(
        PlanError, match=r"needs order \(2, 2\) with 2 terms, and order \(3, 2\) with 2 terms"
    ):
        Plan(2, (uneven,))


def outcomes(model: nn.Module, **options: object) -> list[tuple[str, str | None]]:
    return [(d.algebra if d.order else "kept", d.reason) for d in planned(model, **options).values()]


def test_a_fixed_algebra_needs_both_sides_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3))
    reason = "the quaternion algebra needs sides that 4 divides, not 16 and 3"
    found = outcomes(model, n=4, algebra=named_algebra("quaternion"))
    assert found == [("kept", reason), ("quaternion", None)]


def test_the_real_algebra_converts_everything_and_saves_nothing() -> None:
    assert outcomes(nn.Linear(3, 5), n=1, algebra=named_algebra("real")) == [("real", None)]


def test_a_fixed_algebra_pays_where_a_learned_one_does_not() -> None:
    (kept,) = outcomes(nn.Linear(4, 4), n=4, share_algebra=True)
    assert kept == ("kept", "no saving: 68 numbers in place of 16")
    fixed = outcomes(nn.Linear(4, 4), n=4, algebra=named_algebra("quaternion"))
    assert fixed == [("quaternion", None)]


def test_the_dimension_of_a_fixed_algebra_is_n() -> None:
    with pytest.raises(UsageError, match="n is 2; the quaternion algebra has dimension 4"):
        PlanOptions(n=2, algebra=named_algebra("quaternion"))
