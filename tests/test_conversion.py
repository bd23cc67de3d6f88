"""Converting by a plan, and the better of several."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from phnnify.algebra import Order
from phnnify.batches import Batch
from phnnify.choose import Choice
from phnnify.conversion import convert_by, nearest_of
from phnnify.evaluate import evaluate
from phnnify.plan import Plan, PlanOptions, make_plan, with_orders
from phnnify.trace import trace
from tests.survey_network import Net


def nobody(what: str, done: int, total: int) -> None:
    pass


def papers(model: nn.Module) -> Plan:
    return make_plan(trace(model), PlanOptions(4, min_share=0))


def of_rank(plan: Plan, rank: int) -> Plan:
    return with_orders(plan, dict.fromkeys(plan.conversions, Order.low_rank(rank)))


def test_a_network_converted_by_a_plan_has_its_orders_and_leaves_the_original_alone(
    model: Net, batches: list[Batch]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = of_rank(papers(model), 2)
    done = convert_by(model, Choice(plan), batches, nobody)
    assert {name: fit.factors.order for name, fit in done.fits.items()} == plan.conversions
    assert "Fitted to 96 inputs" in " ".join(done.notes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_inputs_the_fit_is_the_closed_form_and_the_notes_say_what_that_means(model: Net) -> None:
    done = convert_by(model, Choice(papers(model)), [], nobody)
    assert len(done.notes) == 1
    assert all(fit.output_error is None for fit in done.fits.values())


@pytest.mark.parametrize("turned", [False, True])
def test_of_several_plans_that_with_the_nearest_answers_is_taken(
    turned: bool, model: Net, batches: list[Batch]
) -> None:
    choices = [Choice(papers(model)), Choice(of_rank(papers(model), 1)), Choice(of_rank(papers(model), 3))]
    done = nearest_of(model, choices[::-1] if turned else choices, batches, nobody)
    far = [
        evaluate(model, convert_by(model, choice, batches, nobody).model, batches).agreement.kl or 0.0
        for choice in choices
    ]
    assert done.choice is choices[far.index(min(far))]
    assert len(set(far)) == 3


def test_a_single_plan_is_not_compared_with_anything(model: Net, batches: list[Batch]) -> None:
    said: list[Any] = []
    nearest_of(model, [Choice(papers(model))], batches, lambda *told: said.append(told[0]))
    assert "comparing forms" not in said
