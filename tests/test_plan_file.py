"""Plans as text and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phnnify.algebra import Order
from phnnify.algebras import Algebra
from phnnify.errors import PlanError
from phnnify.plan import Decision, Plan
from phnnify.plan_file import parse_plan, plan_json, plan_toml

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
decisions = st.builds(
    Decision,
    name=names,
    kind=st.sampled_from(["Linear", "Conv2d"]),
    shape=st.lists(st.integers(1, 4096), min_size=2, max_size=4).map(tuple),
    order=st.builds(Order, st.integers(1, 8), st.integers(1, 8), st.just(1)),
    algebra=st.sampled_from(["learned", "shared"]),
) | st.builds(
    Decision,
    name=names,
    kind=st.just("Linear"),
    shape=st.just((8, 8)),
    order=st.just(Order(2, 2, 2)),
    algebra=st.sampled_from(["complex", "cyclic", "mine"]),
) | st.builds(
    Decision, name=names, kind=st.just("Embedding"), shape=st.just((2, 3)), reason=names
)  # fmt: skip
plans = st.builds(
    Plan,
    st.integers(2, 16),
    st.lists(decisions, max_size=5, unique_by=lambda d: d.name).map(tuple),
    st.just((Algebra.of("mine", [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]]),)),
)


@settings(deadline=None)
@given(plans)
def test_a_plan_is_read_as_it_was_written(plan: Plan) -> None:
    assert parse_plan(plan_toml(plan)) == plan
    assert parse_plan(plan_json(plan)) == plan


def test_a_hand_edited_plan_is_read() -> None:
    text = """
    version = 1
    n = 4
    [[layers]]
    name = "head"
    kind = "Linear"
    shape = [12, 64]
    order = [2, 8]
    terms = 3
    """
    assert parse_plan(text).conversions == {"head": Order(2, 8, 3)}


ENTRY = {"name": "a", "kind": "Linear", "shape": [8, 8], "order": [2, 2], "terms": 2}


def document(**changes: object) -> str:
    return json.dumps({"version": 1, "n": 4, "layers": [{**ENTRY, **changes}]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "neither TOML nor JSON"),
        ("= 3", "neither TOML nor JSON"),
        ("[" * 20_000, "neither TOML nor JSON"),
        ("", "not a plan of version 1"),
        ("n = 4", "not a plan of version 1"),
        ("version = 2", "not a plan of version 1"),
        ("version = 1", "needs a whole number `n`"),
        ('version = 1\nn = "4"\nlayers = []', "needs a whole number `n`"),
        ("version = 1\nn = true\nlayers = []", "needs a whole number `n`"),
        ("version = 1\nn = 4\nlayers = 5", "a list `layers`"),
        ("version = 1\nn = 4\nlayers = [5]", "layer 1 of the plan cannot be read"),
        (json.dumps({"version": 1, "n": 4, "layers": [{"name": "a"}]}), "layer 1 of the plan has no 'shape'"),
        (json.dumps({"version": 1, "n": 4, "layers": [ENTRY, ENTRY]}), "names a twice"),
        (document(shape=[8, True]), "whole numbers"),
        (document(shape="8x8"), "whole numbers"),
        (document(order=[2]), "layer 1"),
        (document(order=[2, 0]), "whole numbers"),
        (document(terms=5), "more terms than blocks"),
        (document(terms="2"), "whole numbers"),
        (document(name=3), "must be text"),
        (document(term=3, range=2), "layer 1 of the plan has 'term', 'range', which means nothing there"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_read_says_where(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        parse_plan(text)


@pytest.mark.parametrize("order", [Order(4, 4, 2, 3), Order.low_rank(5)], ids=str)
def test_ranks_survive_both_forms(order: Order) -> None:
    plan = Plan(4, (Decision("head", "Linear", (12, 64), order),))
    assert parse_plan(plan_json(plan)) == plan
    assert parse_plan(plan_toml(plan)) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algebra": 4}, "algebra must be text"),
        ({"algebra": "octonion"}, "octonion algebra has dimension 8, not 2"),
        ({"algebra": "cyclic", "order": [10**6] * 2, "terms": 10**6}, "1000000 is too large"),
    ],
)
def test_an_entry_with_no_such_algebra_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(document(**change))


@pytest.mark.parametrize("constants", [[1], {"mine": [[[1.0], [2.0]]]}, {"real": [[[1.0]]]}, {"a": "text"}])
def test_constants_that_are_no_algebras_are_refused(constants: object) -> None:
    with pytest.raises(PlanError, match="constants"):
        parse_plan(json.dumps({"version": 1, "n": 2, "layers": [], "constants": constants}))
