"""Plans chosen with data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import phnnify
from phnnify import choose, curves
from phnnify.batches import Batch
from phnnify.choose import Budgeting, best_forms
from phnnify.errors import PlanError
from phnnify.measure import parameter_count
from phnnify.plan import WORTH_ITS_SIZE, Plan, PlanOptions, make_plan
from phnnify.trace import trace
from tests.survey_network import Net


def everything(model: nn.Module) -> Plan:
    return make_plan(trace(model), PlanOptions(4, min_share=0))


def test_best_forms_fit_better_than_the_papers_at_the_same_size(model: Net, batches: list[Batch]) -> None:
    plan = everything(model)
    choice = best_forms(model, plan, batches)[0]
    assert list(choice.plan.conversions) == list(plan.conversions)
    assert set(choice.errors) == set(plan.conversions)
    for decision, papers in zip(choice.plan.decisions, plan.decisions, strict=True):
        if decision.order and papers.order:
            matrix = decision.shape if decision.name != "up" else (8, 16, 2, 2)
            assert decision.order.parameters(matrix) <= papers.order.parameters(matrix)
    errors = [
        phnnify.convert(model, plan=each, data=batches, eval_data=batches).report.evaluation
        for each in (plan, choice.plan)
    ]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1].agreement.relative_error < errors[0].agreement.relative_error


@pytest.mark.parametrize("near", [0.0, float("inf")])
def test_low_rank_everywhere_comes_second_where_it_loses_hardly_more(
    near: float, model: Net, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_NEAR", near)
    plan = everything(model)
    chosen, *others = best_forms(model, plan, batches)
    assert len(others) == (near > 0)
    for other in others:
        assert all(order.terms == 0 for order in other.plan.conversions.values())
        assert any(order.terms for order in chosen.plan.conversions.values())
        assert all(other.errors[name] >= 0.97 * error for name, error in chosen.errors.items())


def test_a_budget_is_kept_and_larger_budgets_do_less_damage(model: Net, batches: list[Batch]) -> None:
    traced = trace(model)
    budgeting = Budgeting(model, traced, everything(model), batches)
    last = float("inf")
    for share in (0.1, 0.2, 0.4, 0.8):
        choice = budgeting.choose(int(share * traced.parameters))
        converted = phnnify.convert(model, plan=choice.plan, data=batches).model
        assert parameter_count(converted) <= share * traced.parameters
        assert choice.damage is not None
        assert choice.damage <= last
        last = choice.damage
    kept = [d for d in choice.plan.decisions if d.order is None]
    assert kept
    assert {d.reason for d in kept} == {WORTH_ITS_SIZE}
    levels = budgeting.levels()
    assert [level.share for level in levels] == sorted((level.share for level in levels), reverse=True)
    with pytest.raises(PlanError, match="cannot be made that small"):
        budgeting.choose(10)


def test_curves_are_kept_for_the_same_contents_only(
    model: Net, batches: list[Batch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, traced, path = everything(model), trace(model), tmp_path / "plan.curves.json"
    first = Budgeting(model, traced, plan, batches, kept_in=path).choose(2000)
    calls: list[None] = []
    measure = curves.measure_curves

    def counted(*args: Any) -> curves.Curves:
        calls.append(None)
        return measure(*args)

    monkeypatch.setattr(choose, "measure_curves", counted)
    assert Budgeting(model, traced, plan, batches, kept_in=path).choose(2000) == first
    assert not calls
    with torch.no_grad():
        model.head.weight[0, 0] += 1
    Budgeting(model, traced, plan, batches, kept_in=path)
    assert len(calls) == 1
    Budgeting(model, traced, plan, batches[:1], kept_in=path)
    assert len(calls) == 2
