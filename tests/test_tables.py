"""What tables and shared weights are fitted to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order, compose
from phnnify.batches import Batch
from phnnify.factorization import factorize
from phnnify.fit import fit_to_problem
from phnnify.tables import shared_names, shared_problems
from tests.graph_networks import Plain, Tied


class TwoHeads(nn.Module):
    """Two dense layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.between, self.second = (nn.Linear(16, 16) for _ in range(3))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.between(self.first(x)).relu())
        return out


def tokens() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch((torch.randint(20, (64, 5), generator=generator),))]


def test_tables_and_shared_weights_are_told_from_others() -> None:
    assert shared_names(Tied(), ["table", "body"]) == ["table"]
    assert shared_names(TwoHeads(), ["first", "between"]) == ["first"]
    assert shared_names(Plain(), ["stem", "head"]) == []


def test_a_table_alone_is_to_be_near_to_itself() -> None:
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 4))
    weight, problem = shared_problems(model, ["0"], tokens())["0"]
    other = torch.randn(20, 16, dtype=torch.float64)
    assert problem.loss(other) == pytest.approx(float((weight - other).square().sum()))


def test_a_tied_table_is_to_serve_both_uses_alike() -> None:
    torch.manual_seed(0)
    model = Tied()
    batches = tokens()
    weight, problem = shared_problems(model, ["table"], batches)["table"]
    x = model.body(model.table(batches[0].args[0])).detach().double().flatten(0, 1)
    C = x.t() @ x / len(x)
    for _ in range(3):
        change = torch.randn(20, 16, dtype=torch.float64)
        wanted = ((change @ C) * change).sum() + C.diagonal().mean() * change.square().sum()
        assert problem.loss(weight.double() + change) == pytest.approx(float(wanted), rel=1e-4)


def test_all_layers_that_share_a_weight_count() -> None:
    torch.manual_seed(0)
    model = TwoHeads()
    x = torch.randn(256, 16)
    weight, problem = shared_problems(model, ["first"], [Batch((x,))])["first"]
    second = model.between(model.first(x)).relu().detach()
    seen = torch.cat([x, second]).double()
    change = torch.randn(16, 16, dtype=torch.float64)
    wanted = float((seen @ change.t()).square().sum() / len(seen))
    assert problem.loss(weight.double() + change) == pytest.approx(wanted, rel=0.15)  # there is a ridge


def test_the_fit_to_a_problem_is_never_worse_than_its_start_and_exact_where_that_is_possible() -> None:
    torch.manual_seed(0)
    weight, problem = shared_problems(Tied(), ["table"], tokens())["table"]
    for order in (Order(4, 4, 1), Order(2, 4, 3), Order(4, 4, 16)):
        fit = fit_to_problem(weight, factorize(weight, order), problem)
        assert fit.output_error is not None
        assert fit.closed_form_error is not None
        assert fit.output_error <= fit.closed_form_error
    torch.testing.assert_close(compose(*fit.factors), weight)


@pytest.mark.parametrize("network", [Tied, TwoHeads])
def test_networks_with_shared_weights_are_fitted_learn_and_stay_tied(network: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = network().eval()
    data = tokens()[0].args[0] if network is Tied else torch.randn(256, 16)
    name = "table" if network is Tied else "first"
    other = "head" if network is Tied else "second"
    options: Any = {"embeddings": True, "min_share": 0}
    blind = phnnify.convert(model, 4, inputs=[data[:1]], **options).model.eval()
    done = phnnify.convert(model, 4, data=[data], **options)
    assert name in done.plan.conversions
    student: Any = done.model.eval()
    assert student.get_submodule(name).S is student.get_submodule(other).S
    errors = [(m(data) - model(data)).norm().item() for m in (blind, student)]
    assert errors[1] < errors[0]
    assert done.report.params.after == sum(p.numel() for p in student.parameters())
    recipe = phnnify.Recipe(steps=30, batch=32, device="cpu")
    better: Any = phnnify.distill(model, student, data, recipe).model
    assert better.get_submodule(name).S is better.get_submodule(other).S
    for tied in (student, better):
        phnnify.save(tied, tmp_path / "a.safetensors")
        again = phnnify.load(tmp_path / "a.safetensors", network())
        assert torch.equal(again(data), tied.eval()(data))


def test_a_budget_counts_what_a_table_leaves() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16)).eval()
    options: Any = {"embeddings": True, "min_share": 0}
    done = phnnify.convert(model, budget="60%", data=[tokens()[0].args[0]], **options)
    assert 0.5 < (done.report.params.kept or 0) <= 0.6
