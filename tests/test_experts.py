"""Mixtures of experts, whose weights are several matrices in one parameter: each is a weight of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.distilling.recipe import Recipe
from phnnify.layers import PHMLayer
from phnnify.pipeline import convert, inspect
from phnnify.plan import with_orders

EXPERTS = 3
INPUT = "6x16"


class Looped(nn.Module):
    """Gives each row to the expert that a router chooses, one expert after another."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, 32, 16) / 4)
        self.down = nn.Parameter(torch.randn(EXPERTS, 32, 8) / 4)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 16) → (rows, 8)."""
        chosen, y = self.router(x).argmax(-1), x.new_zeros(len(x), 8)
        for i in range(EXPERTS):
            rows = (chosen == i).nonzero().squeeze(1)
            z = F.linear(x[rows], self.up[i]).relu() @ self.down[i]
            y = y.index_add(0, rows, z.to(y.dtype))
        return y


class Grouped(Looped):
    """The same with the rows in order of their experts."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 16) → (rows, 8)."""
        chosen, order = self.router(x).argmax(-1).sort()
        ends = (chosen <= torch.arange(EXPERTS)[:, None]).sum(1).to(torch.int32)
        hidden = F.grouped_mm(x[order], self.up.transpose(-2, -1), offs=ends).relu()
        return F.grouped_mm(hidden, self.down, offs=ends)[order.argsort()]


KINDS: dict[str, type[Looped]] = {"looped": Looped, "grouped": Grouped}
NAMES = [f"{name}.{i}" for name in ("up_linears", "down_matmuls") for i in range(EXPERTS)]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Looped:
    if request.param == "grouped" and not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    torch.manual_seed(0)
    return KINDS[request.param]().eval()


def test_each_expert_is_a_weight_that_runs_once(model: Looped) -> None:
    plan, report = inspect(model, 2, inputs=INPUT, min_share=0)
    layers = {layer.name: layer for layer in report.layers}
    assert set(layers) == {"router", *NAMES}
    assert [name for name in plan.conversions if name in NAMES]
    assert [layers[name].calls for name in NAMES] == [1] * len(NAMES)
    assert {layers[name].shape for name in NAMES} == {(32, 16), (8, 32)}


def test_whether_experts_are_small_is_asked_of_all_together(model: Looped) -> None:
    plan, _ = inspect(model, 2, inputs=INPUT, min_share=0.5)
    assert set(plan.conversions) == {name for name in NAMES if name.startswith("up")}
    (reason,) = {d.reason for d in plan.decisions if d.name.startswith("down")}
    assert str(reason).startswith("small: 32")


def test_with_all_terms_it_computes_what_the_original_does(model: Looped) -> None:
    before, x = copy.deepcopy(model.state_dict()), torch.randn(9, 16)
    plan, _ = inspect(model, 2, inputs=INPUT, min_share=0)
    orders = plan.conversions.items()
    plan = with_orders(plan, {k: Order(o.n_out, o.n_in, o.n_out * o.n_in) for k, o in orders})
    small = convert(model, plan=plan, inputs=INPUT).model
    assert sum(isinstance(layer, PHMLayer) for layer in small.modules()) >= len(NAMES)
    for rows in (x, x[:1], x[:0]):
        with torch.no_grad():
            torch.testing.assert_close(small(rows), model(rows), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_it_comes_back_also_where_some_experts_stay_dense(model: Looped, ending: str, tmp_path: Path) -> None:
    small = convert(model, 2, inputs=INPUT, include=["up_linears.1", "down_matmuls.*"]).model
    x = torch.randn(9, 16)
    phnnify.save(small, tmp_path / f"net{ending}")
    fresh = type(model)() if ending == ".safetensors" else None
    again = phnnify.load(tmp_path / f"net{ending}", fresh, trust=ending == ".pt")
    assert torch.equal(again(x), small(x))
    kinds = [isinstance(again.get_submodule(name), PHMLayer) for name in NAMES]
    assert kinds == [False, True, False, True, True, True]


def test_data_makes_it_better_though_the_converted_router_chooses_otherwise(model: Looped) -> None:
    x = torch.randn(300, 16) @ torch.randn(16, 16)
    result = convert(model, 2, data=x, min_share=0, samples=300)
    blind = convert(model, 2, inputs=INPUT, min_share=0).model
    with torch.no_grad():
        chosen = [network.get_submodule("router")(x).argmax(-1) for network in (model, result.model)]
        errors = [float((network(x) - model(x)).norm()) for network in (result.model, blind)]
    assert not torch.equal(chosen[0], chosen[1])
    assert errors[0] < 0.8 * errors[1]


def test_all_experts_learn(model: Looped) -> None:
    x = torch.randn(300, 16)
    small = convert(model, 2, inputs=INPUT, min_share=0).model
    learned = phnnify.distill(model, small, x, Recipe(steps=3, batch=100)).model
    for name in NAMES:
        assert not torch.equal(*(network.get_parameter(f"{name}.S") for network in (small, learned)))


def test_an_expert_that_no_calibration_input_meets_keeps_its_closed_form(model: Looped) -> None:
    with torch.no_grad():
        model.router.bias.copy_(torch.tensor([0.0, 0.0, -1e4]))
    result = convert(model, 2, data=torch.randn(64, 16), min_share=0)
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    unmet = [name for name in NAMES if name.endswith(".2")]
    blind = convert(model, plan=result.plan, inputs=INPUT).model
    for name in unmet:
        assert torch.equal(result.model.get_submodule(name).weight, blind.get_submodule(name).weight)  # type: ignore[arg-type]


def test_a_budget_is_shared_out_among_experts(model: Looped) -> None:
    x = torch.randn(200, 16)
    result = convert(model, budget="50%", data=x, min_share=0)
    assert result.report.params.kept is not None
    assert result.report.params.kept <= 0.5


def test_grouped_experts_become_onnx_files_and_programs_of_any_number_of_rows(tmp_path: Path) -> None:
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")
    torch.manual_seed(0)
    small = convert(Grouped().eval(), 2, inputs=INPUT, min_share=0).model
    file = phnnify.export_onnx(small, tmp_path / "net.onnx", INPUT)
    assert file.note is None
    assert phnnify.save(small, tmp_path / "net.pt2", inputs=INPUT) is None
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    program: Any = torch.export.load(str(tmp_path / "net.pt2")).module()
    for rows in (2, 11):
        x = torch.randn(rows, 16)
        wanted = small(x).detach().numpy()
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(program(x).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_rows_behind_the_last_group_come_out_as_zeros(tmp_path: Path) -> None:
    if not hasattr(F, "grouped_mm"):
        pytest.skip("this torch has no grouped_mm")

    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 16, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.grouped_mm(x, self.w, offs=torch.tensor([2, 3], dtype=torch.int32))

    small = convert(Tail(), 2, inputs=INPUT, min_share=0).model
    y = small(torch.randn(6, 16))
    assert y[:3].abs().min() > 0
    assert not y[3:].any()


def test_mixtral_goes_out_as_a_folder_and_comes_back(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    config = library.MixtralConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=32, num_local_experts=3, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids = library.MixtralForCausalLM(config).eval(), torch.randint(40, (4, 8))
    data = [{"input_ids": torch.randint(40, (8, 8))} for _ in range(4)]
    result = convert(model, 2, data=data, min_share=0)
    converted = [layer.name for layer in result.report.layers if layer.status == "converted"]
    experts = [name for name in converted if "experts.gate_up_proj_linears." in name]
    assert len(experts) == 3
    with torch.no_grad():
        wanted, first = model(ids).logits, result.model(ids).logits
    assert float((first - wanted).norm()) < float(wanted.norm())
    phnnify.save(result.model, tmp_path / "small", result.plan)
    again = phnnify.from_pretrained(tmp_path / "small")
    assert torch.equal(again(ids).logits, first)
