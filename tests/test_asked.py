"""What was asked for, checked before any work."""

from __future__ import annotations

from typing import Any

import pytest

from phnnify.algebras import named_algebra
from phnnify.asked import Form, Sizing
from phnnify.errors import UsageError


def form(n: int | None = None, algebra: str | None = None, share: bool = False, init: str = "fit") -> Form:
    return Form.read(n, algebra, share, init)


def sizing(form: Form, low_rank: str | None = None, **options: Any) -> Sizing:
    options = {"budget": None, "max_drop": None, "has_data": False} | options
    return Sizing.read(low_rank, **options, form=form)


def test_n_is_four_or_the_algebras_dimension() -> None:
    assert form().n == 4
    assert form(3).n == 3
    assert (form(algebra="octonion").n, form(algebra="octonion").algebra) == (8, named_algebra("octonion"))
    assert form(3, "cyclic").algebra == named_algebra("cyclic", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, None, False, "cold"), "--init 'cold' is neither fit nor fresh"),
        ((2, "quaternion", False, "fit"), "quaternion algebra has dimension 4, not 2"),
        ((None, "quaternion", True, "fit"), "--share-algebra has no meaning with --algebra"),
    ],
)
def test_a_form_that_makes_no_sense_is_wrong_usage(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        form(*arguments)


@pytest.mark.parametrize("option", ["data", "eval_data"])
def test_a_fresh_network_has_no_use_for_data(option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option[:4]} has no meaning with --init fresh") as caught:
        Form.read(4, None, False, "fresh", **{option: "x.npz"})
    assert caught.value.hint
    assert "phnnify distill" in caught.value.hint
    assert not Form.read(4, None, False, "fit", **{option: "x.npz"}).fresh


def test_small_weights_of_a_fresh_network_are_converted_unless_asked_otherwise() -> None:
    for init, share, wanted in [
        ("fit", None, 0.005),
        ("fresh", None, 0.0),
        ("fresh", 0.1, 0.1),
        ("fit", 0.0, 0.0),
    ]:
        assert form(init=init).plan_options((), (), share, 0.0, False).min_share == wanted


PAPERS = [form(algebra="complex"), form(share=True), form(init="fresh")]


@pytest.mark.parametrize("papers", PAPERS, ids=["fixed", "shared", "fresh"])
def test_the_papers_form_leaves_no_choice_of_forms(papers: Form) -> None:
    assert sizing(papers, has_data=True) == sizing(papers, "off") == Sizing()
    for asked in ({"low_rank": "auto"}, {"low_rank": "0.5"}, {"budget": "25%"}, {"max_drop": "1%"}):
        with pytest.raises(UsageError, match="a given algebra or a fresh network"):
            sizing(papers, **asked, has_data=True)


def test_with_data_each_weight_gets_its_best_form() -> None:
    assert sizing(form(), has_data=True).auto
    assert not sizing(form()).auto
    assert sizing(form(), "0.25").share == 0.25
