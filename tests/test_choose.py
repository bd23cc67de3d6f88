"""Plans chosen with data, the curves behind them, and the survey that measures these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify import choose, curves
from phnnify.algebra import Factors, Order, compose
from phnnify.batches import Batch
from phnnify.choose import Budgeting, best_forms
from phnnify.curves import contents_key, measure_curves, read_curves, write_curves
from phnnify.errors import ModelError, PlanError
from phnnify.evaluate import output_change
from phnnify.inputs import Example
from phnnify.measure import parameter_count
from phnnify.plan import WORTH_ITS_SIZE, Plan, PlanOptions, make_plan
from phnnify.search import Form, Search
from phnnify.sensitivity import damages
from phnnify.survey import absorbed_means, survey
from phnnify.trace import trace
from tests.graph_networks import Twice


class Net(nn.Module):
    """Convolutions, one transposed and one grouped, and dense layers; input (batch, 4, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 8, 2)
        self.mix = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.hidden = nn.Linear(200, 32)
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.up(self.norm(self.conv(x)).relu()))
        out: Tensor = self.head(self.hidden(x.flatten(1)).relu())
        return out


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 4, 3, 3, generator=generator)
    x = nn.functional.interpolate(x, (6, 6), mode="bilinear")
    return [Batch((part,)) for part in torch.split(x, 32)]


NAMES = ["conv", "up", "mix", "hidden", "head"]


def everything(model: nn.Module) -> Plan:
    return make_plan(trace(model), PlanOptions(4, min_share=0))


def test_a_survey_sees_every_layer_once_in_the_order_of_execution(model: Net, batches: list[Batch]) -> None:
    told: list[tuple[int, int, str]] = []
    seen: list[str] = []

    def look(name: str, search: Search) -> Sequence[Form]:
        seen.append(name)
        return ()

    found = survey(model, reversed(NAMES), batches, look, lambda *what: told.append(what))
    assert seen == NAMES
    assert found == dict.fromkeys(NAMES, ())
    assert told[-1][0] == told[-1][1]


def test_a_layer_that_runs_three_times_is_surveyed_after_the_last(batches: list[Batch]) -> None:
    model = Twice().eval()
    x = torch.randn(50, 16)
    _, calls = absorbed_means(model, ["layer"], Example((x,), {}))
    assert calls["layer"] == 3
    energies: list[float] = []

    def look(name: str, search: Search) -> Sequence[Form]:
        energies.append(search._problem.energy)
        return ()

    survey(model, ["layer"], [Batch((x,))], look)
    with torch.no_grad():
        first = model.layer(x)
        ys = [first, model.layer(first), model.layer(model.layer(first))]
    y = torch.cat(ys) - model.layer.bias.detach()
    wanted = float((y - y.mean(0)).square().sum(1).mean())
    assert energies[0] == pytest.approx(wanted, rel=0.2)  # the ridge is in it


def test_a_survey_without_inputs_is_refused(model: Net) -> None:
    with pytest.raises(ModelError, match="no calibration inputs"):
        survey(model, NAMES, [], lambda name, search: ())


def test_damage_is_the_change_of_the_answer(model: Net, batches: list[Batch]) -> None:
    weight = model.head.weight.detach()
    factors = phnnify.factorize(weight, Order.low_rank(2))
    other = Net()
    other.load_state_dict(model.state_dict())
    other.eval().head.weight.data.copy_(compose(*factors))
    x = torch.cat([batch.args[0] for batch in batches])
    with torch.no_grad():
        y, y_hat = model(x), other(x)
        shift = torch.cat(
            [(b - a - (b - a).mean(0)) for a, b in zip(y.split(32), y_hat.split(32), strict=True)]
        )
    found = damages(model, {"head": [factors, exact(weight)]}, batches)["head"]
    assert found[0] == pytest.approx(output_change(y, y + shift), rel=1e-4)
    assert found[1] == pytest.approx(0, abs=1e-6)


def exact(weight: Tensor) -> Factors:
    return phnnify.factorize(weight, Order.low_rank(min(weight.shape[0], weight[0].numel())))


def test_exact_forms_of_every_kind_of_layer_do_no_damage(model: Net, batches: list[Batch]) -> None:
    forms = {}
    for name in NAMES:
        weight = model.get_submodule(name).get_parameter("weight").detach()
        forms[name] = [exact(weight.transpose(0, 1) if name == "up" else weight)]
    assert all(abs(found[0]) < 1e-6 for found in damages(model, forms, batches).values())


def test_best_forms_fit_better_than_the_papers_at_the_same_size(model: Net, batches: list[Batch]) -> None:
    plan = everything(model)
    choice = best_forms(model, plan, batches)
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


def test_curves_survive_their_file(model: Net, batches: list[Batch], tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    found = measure_curves(model, {"head": 256, "hidden": 6400}, batches)
    write_curves(path, "key", found)
    assert read_curves(path, "key") == found
    assert read_curves(path, "other") is None
    assert read_curves(tmp_path / "none.json", "key") is None
    for text in (
        "",
        "{}",
        "[]",
        json.dumps({"version": curves._VERSION, "key": "key", "curves": {"a": [[1]]}}),
    ):
        path.write_text(text)
        assert read_curves(path, "key") is None


def test_the_key_changes_with_everything_that_matters(model: Net, batches: list[Batch]) -> None:
    keys = {contents_key(model, batches, {"head": 256}), contents_key(model, batches[:2], {"head": 256})}
    keys.add(contents_key(model, batches, {"head": 256, "up": 4}))
    model.norm.get_buffer("running_mean").add_(1)
    keys.add(contents_key(model, batches, {"head": 256}))
    assert len(keys) == 4
