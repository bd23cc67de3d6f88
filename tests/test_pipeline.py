"""The public verbs, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import phnnify
from phnnify.algebra import Order, relative_error
from phnnify.change import Change
from phnnify.distilling.recipe import Recipe, RunFiles
from phnnify.errors import FileError, ModelError, PlanError, UsageError
from phnnify.inputs import random_example, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import parameter_count
from phnnify.notes import ADVICE, NEEDS_DISTILLATION
from phnnify.plan import Decision, Plan
from phnnify.references import build_network
from phnnify.weights import load_weights
from tests.graph_networks import Branching, Careless, Outside, Plain, Tied, Twice

SPEC = "1x4x8x8"


def test_a_converted_network_runs_and_its_report_counts_what_it_holds() -> None:
    torch.manual_seed(0)
    model = Plain()
    result = phnnify.convert(model, 4, inputs=SPEC, min_share=0)
    assert type(result.model) is Plain
    assert result.report.params.before == parameter_count(model)
    assert result.report.params.after == parameter_count(result.model)
    phm = [m for m in result.model.modules() if isinstance(m, PHMLayer)]
    assert result.report.converted.after == sum(m.A.numel() + m.S.numel() for m in phm)
    assert [layer.status for layer in result.report.layers] == ["converted"] * 5
    assert result.model(torch.randn(2, 4, 8, 8)).shape == (2, 12)


def test_the_reported_errors_are_those_of_the_weights_in_the_network() -> None:
    model = Plain()
    result = phnnify.convert(model, 4, min_share=0)
    for layer in result.report.layers:
        dense = model.get_submodule(layer.name).get_parameter("weight")
        phm = result.model.get_submodule(layer.name)
        assert isinstance(phm, PHMLayer)
        assert layer.weight_error == pytest.approx(relative_error(dense, phm.weight), rel=1e-5)


widths = st.integers(1, 24)


@settings(deadline=None, max_examples=40)
@given(widths, widths, widths, st.integers(2, 9))
def test_counts_are_right_for_any_width_and_n(a: int, b: int, c: int, n: int) -> None:
    model = nn.Sequential(nn.Linear(a, b), nn.Linear(b, c))
    plan, inspected = phnnify.inspect(model, n, min_share=0)
    if not plan.conversions:
        with pytest.raises(PlanError, match="no weight can be converted"):
            phnnify.convert(model, n, min_share=0)
        return
    result = phnnify.convert(model, n, min_share=0)
    assert result.plan == plan
    assert inspected.params == result.report.params
    assert result.report.params.after == parameter_count(result.model) < parameter_count(model)


def test_inspecting_fits_nothing() -> None:
    plan, report = phnnify.inspect(Plain(), 2, inputs=SPEC, exclude=["up"])
    assert [d.order is None for d in plan.decisions].count(True) == 1
    assert all(layer.weight_error is None for layer in report.layers)
    assert NEEDS_DISTILLATION not in report.notes


@pytest.mark.parametrize("network", [Twice, Tied, Outside, Branching, Careless])
def test_difficult_networks_convert_and_stay_what_they_are(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network()
    spec = read_inputs("int64:4x5" if network is Tied else "4x16")
    result = phnnify.convert(model, 2, inputs=spec, min_share=0)
    example = random_example(spec, model, seed=0)
    assert type(result.model) is network
    assert result.model(*example.args).shape == model(*example.args).shape
    assert result.report.params.after == parameter_count(result.model)


def test_a_failed_symbolic_trace_is_in_the_report() -> None:
    notes = phnnify.convert(Branching(), 2).report.notes
    assert any("torch.fx cannot trace Branching" in note for note in notes)


def test_without_data_the_report_says_that_the_network_needs_distillation() -> None:
    assert NEEDS_DISTILLATION in phnnify.convert(Plain(), 4).report.notes


def test_converting_twice_gives_the_same_bytes() -> None:
    model = Plain()
    first, again = (phnnify.convert(model, 4, inputs=SPEC).model.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_a_plan_is_followed() -> None:
    plan = Plan(4, (Decision("head", "Linear", (12, 64), Order(2, 8, 3)),))
    result = phnnify.convert(Plain(), 8, plan=plan)
    assert result.plan.conversions == {"head": Order(2, 8, 3)}
    assert result.report.n == 4
    head = result.model.get_submodule("head")
    assert isinstance(head, PHMLayer)
    assert head.order == Order(2, 8, 3)


def test_nothing_to_convert_is_an_error_with_the_reasons() -> None:
    with pytest.raises(PlanError, match=r"no weight can be converted \(0: order does not fit") as caught:
        phnnify.convert(nn.Sequential(nn.Linear(7, 11)), 4)
    assert "inspect" in (caught.value.hint or "")
    with pytest.raises(PlanError, match="the network has none"):
        phnnify.convert(nn.Sequential(nn.ReLU()), 4)


def test_an_n_that_saves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="n is 1"):
        phnnify.convert(Plain(), 1)


def test_a_watcher_is_told_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    phnnify.convert(Plain(), 4, min_share=0, watch=lambda *what: told.append(what))
    assert told[0] == ("looking at the network", 0, 0)
    assert [what for what, _, _ in told[1:6]] == [
        f"fitting {n}" for n in ("stem", "grouped", "up", "point", "head")
    ]
    done = [(done, total) for _, done, total in told[1:]]
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1] > 0


def smooth(count: int, seed: int) -> torch.Tensor:
    x = torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(x, (8, 8), mode="bilinear")


def test_data_makes_the_network_agree_more_on_new_inputs() -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    held_out = [smooth(200, 1)]
    closed, fitted = (
        phnnify.convert(model, 2, min_share=0, data=data, eval_data=held_out)
        for data in (None, [smooth(300, 0)])
    )
    assert closed.report.evaluation is not None
    assert fitted.report.evaluation is not None
    before, after = (r.report.evaluation.agreement for r in (closed, fitted) if r.report.evaluation)
    assert after.relative_error < 0.7 * before.relative_error
    assert "Fitted to 300 inputs" in fitted.report.notes[0]
    assert NEEDS_DISTILLATION not in fitted.report.notes
    assert fitted.report.notes[-1] == ADVICE
    assert any(layer.output_error is not None for layer in fitted.report.layers)


def test_data_shows_what_the_network_takes() -> None:
    result = phnnify.convert(Plain(), 2, data=smooth(20, 0), samples=10)
    assert [str(spec) for spec in result.inputs] == ["1x4x8x8"]
    assert "Fitted to 10 inputs" in result.report.notes[0]
    assert all(layer.flops for layer in result.report.layers if layer.status == "converted")


def test_labels_give_an_accuracy() -> None:
    data = [(smooth(50, 0), torch.arange(50) % 12)]
    evaluation = phnnify.convert(Plain(), 2, data=data, eval_data=data).report.evaluation
    assert evaluation is not None
    assert evaluation.accuracy is not None
    assert 0 <= evaluation.accuracy.student <= 1


def test_data_to_evaluate_on_that_does_not_fit_is_refused_before_the_fit() -> None:
    told: list[str] = []
    for labels, words in ((torch.full((50,), 12), "a label 12"), (torch.zeros(49).long(), "49 labels")):
        with pytest.raises(FileError, match=words):
            phnnify.convert(
                Plain(), 4, eval_data=[(smooth(50, 0), labels)], watch=lambda what, *_: told.append(what)
            )
    with pytest.raises(ModelError, match="fails on an example input"):
        phnnify.convert(Plain(), 4, eval_data=[torch.zeros(2, 3)], watch=lambda what, *_: told.append(what))
    assert {*told} == {"looking at the network"}


def test_a_network_that_cannot_be_compared_with_the_original_is_kept() -> None:
    kept: list[phnnify.Result] = []
    batches = [(smooth(50, 0), torch.full((50,), label)) for label in (11, 12)]
    with pytest.raises(FileError, match="a label 12"):
        phnnify.convert(Plain(), 4, min_share=0, eval_data=batches, keep=kept.append)
    [result] = kept
    assert parameter_count(result.model) == result.report.params.after
    assert result.report.evaluation is None


def test_fitting_to_data_twice_gives_the_same_bytes() -> None:
    torch.manual_seed(0)
    model = Plain()
    first, again = (phnnify.convert(model, 4, data=smooth(64, 0)).model.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_data_for_another_network_and_no_samples_are_refused() -> None:
    with pytest.raises(ModelError, match="fails on an example input of float32 1x5"):
        phnnify.convert(Plain(), 4, data=torch.zeros(3, 5))
    with pytest.raises(UsageError, match="number of samples is 0"):
        phnnify.convert(Plain(), 4, data=smooth(4, 0), samples=0)
    with pytest.raises(FileError, match="there is no file nothing"):
        phnnify.convert(Plain(), 4, data="nothing.npz")


RECIPE = Recipe(steps=40, batch=32, rate=2e-3)


def test_a_conversion_with_distillation_is_both_after_one_another() -> None:
    torch.manual_seed(0)
    model, data, held_out = Plain().eval(), smooth(200, 0), [smooth(100, 1)]
    plain = phnnify.convert(model, 4, min_share=0, data=data, eval_data=held_out)
    seen: list[phnnify.Result] = []
    both = phnnify.convert(
        model, 4, min_share=0, data=data, eval_data=held_out, distill=RECIPE, keep=seen.append
    )
    [before] = seen
    assert all(torch.equal(t, plain.model.state_dict()[k]) for k, t in before.model.state_dict().items())
    after = phnnify.distill(model, plain.model, data, RECIPE, eval_data=held_out)
    assert all(torch.equal(t, after.model.state_dict()[k]) for k, t in both.model.state_dict().items())
    errors = [r.report.evaluation.agreement.kl or 9 for r in (plain, both) if r.report.evaluation]
    assert errors[1] < errors[0]
    assert both.report.distillation is not None
    assert both.report.distillation.steps == 40
    assert both.trouble is None


def test_a_distillation_reports_the_plan_that_the_student_shows() -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    student = phnnify.convert(model, 4, min_share=0, data=smooth(50, 0))
    labels = torch.arange(100) % 12
    result = phnnify.distill(
        model, student.model, smooth(200, 0), RECIPE, eval_data=[(smooth(100, 1), labels)]
    )
    orders = {d.name: d.order for d in result.plan.decisions}
    assert orders == {d.name: d.order for d in student.plan.decisions}
    assert result.report.params == student.report.params
    assert result.report.params.after == parameter_count(result.model)
    assert result.report.evaluation is not None
    accuracy = result.report.evaluation.accuracy
    assert accuracy is not None
    assert accuracy.student_before is not None
    assert isinstance(result.model, type(student.model))
    assert not result.model.training


def test_any_student_with_the_inputs_and_outputs_of_the_original_learns_and_is_counted_itself() -> None:
    model, student = Plain().eval(), nn.Sequential(nn.Flatten(), nn.Linear(256, 40), nn.Linear(40, 12))
    report = phnnify.distill(model, student, smooth(64, 0), RECIPE).report
    assert report.params == Change(parameter_count(model), 256 * 40 + 40 + 40 * 12 + 12)


def test_a_distillation_learns_from_batches_of_any_iterable() -> None:
    torch.manual_seed(0)
    model = Plain().eval()
    student = phnnify.convert(model, 4, min_share=0).model
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(smooth(64, 0)), batch_size=16)
    result = phnnify.distill(model, student, loader, Recipe(epochs=2, rate=1e-3))
    assert result.report.distillation is not None
    assert result.report.distillation.steps == 8


def test_distillation_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="--distill needs --data"):
        phnnify.convert(Plain(), 4, distill=RECIPE)


def test_a_distillation_leaves_its_state_and_its_log(tmp_path: Path) -> None:
    files = RunFiles(tmp_path / "run.checkpoint", log=tmp_path / "run.jsonl")
    model = Plain().eval()
    phnnify.convert(model, 4, min_share=0, data=smooth(50, 0), distill=RECIPE, files=files)
    assert {path.name for path in tmp_path.iterdir()} == {"run.checkpoint", "run.jsonl"}


@pytest.mark.assets
@pytest.mark.slow
def test_the_digits_of_mnist_survive_a_fit_to_data(assets: Path) -> None:
    model = trained("mnist_mlp_6_200", assets)
    result = phnnify.convert(
        model, 4, data=str(assets / "mnist-train.npz"), eval_data=str(assets / "mnist-test.npz")
    )
    assert result.report.evaluation is not None
    accuracy = result.report.evaluation.accuracy
    assert accuracy is not None
    assert accuracy.teacher == pytest.approx(0.956, abs=1e-3)
    assert accuracy.student > 0.75  # 0.10 without data


NETWORKS = {
    "resnet20": ("resnet20-cifar10", "1x3x32x32"),
    "resnet56": ("resnet56-cifar10", "1x3x32x32"),
    "mnist_mlp_6_200": ("mnist_mlp_6_200", "1x1x28x28"),
    "charlm": ("charlm-shakespeare", "int64:1x?128"),
}


def trained(name: str, assets: Path) -> nn.Module:
    model = build_network(f"{assets / 'nets.py'}:{name}")
    load_weights(model, safetensors.torch.load_file(assets / f"{NETWORKS[name][0]}.safetensors"), name)
    return model


@pytest.mark.assets
@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_trained_networks_convert_save_and_load(name: str, n: int, assets: Path, tmp_path: Path) -> None:
    model, spec = trained(name, assets), read_inputs(NETWORKS[name][1])
    result = phnnify.convert(model, n, inputs=spec)
    phnnify.save(result.model, tmp_path / "small.safetensors", result.plan)
    loaded = phnnify.load(tmp_path / "small.safetensors", model=build_network(f"{assets / 'nets.py'}:{name}"))
    example = random_example(spec, model, seed=0, batch=2)
    with torch.no_grad():
        outputs = [m.eval()(*example.args) for m in (model, result.model, loaded)]
    assert outputs[0].shape == outputs[1].shape
    assert outputs[1].isfinite().all()
    torch.testing.assert_close(outputs[2], outputs[1], rtol=0, atol=1e-6)
    assert result.report.converted.kept == pytest.approx(1 / n, rel=0.35)


@pytest.mark.assets
def test_resnet20_at_n_4_keeps_at_most_27_5_percent_in_a_third_of_the_onnx_file(
    assets: Path, tmp_path: Path
) -> None:
    model = trained("resnet20", assets)
    result = phnnify.convert(model, 4, inputs="1x3x32x32")
    assert (result.report.params.kept or 1) <= 0.275
    dense = phnnify.export_onnx(model, tmp_path / "dense.onnx", "1x3x32x32")
    small = phnnify.export_onnx(result.model, tmp_path / "small.onnx", "1x3x32x32")
    assert small.bytes <= dense.bytes / 3
    assert small.max_rel_diff <= 1e-4


@pytest.mark.assets
def test_what_stays_of_the_character_model_has_its_reason(assets: Path) -> None:
    layers = phnnify.convert(trained("charlm", assets), 4, inputs="int64:1x128").report.layers
    kept = {layer.name: layer.reason or "" for layer in layers if layer.status == "kept"}
    converted = {layer.name for layer in layers if layer.status == "converted"}
    assert kept["token"].startswith("an embedding table, tied to head")
    assert kept["position"] == "used outside its module"
    assert len(kept) == 2
    assert {name.rpartition("layers.0.")[2] for name in converted if ".layers.0." in name} == {
        "self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2",
    }  # fmt: skip
    assert len(converted) == 4 * 4


def images(count: int) -> torch.Tensor:
    x = torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(x, (8, 8), mode="bilinear")


def test_the_best_forms_are_the_default_with_data_and_the_papers_form_is_one_option_away() -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), images(100)
    papers = phnnify.convert(model, 4, data=x, low_rank="off", min_share=0, eval_data=x)
    auto = phnnify.convert(model, 4, data=x, min_share=0, eval_data=x)
    assert papers.plan == phnnify.convert(model, 4, min_share=0).plan
    assert auto.plan != papers.plan
    assert auto.plan == phnnify.inspect(model, 4, data=x, min_share=0)[0]
    assert (auto.report.params.after or 0) <= (papers.report.params.after or 0)
    assert auto.report.evaluation is not None
    assert papers.report.evaluation is not None
    error = auto.report.evaluation.agreement.relative_error
    assert error < papers.report.evaluation.agreement.relative_error
    for layer in auto.report.layers:
        assert layer.predicted_error is not None
        assert layer.output_error is not None


@pytest.mark.parametrize("share", [0.5, "0.5", 1])
def test_a_share_goes_to_a_low_rank_term(share: str | float) -> None:
    torch.manual_seed(0)
    result = phnnify.convert(Plain(), 2, low_rank=share, min_share=0)
    orders = list(result.plan.conversions.values())
    assert all(order.rank for order in orders)
    assert all((order.terms == 0) == (share == 1) for order in orders)
    papers = phnnify.convert(Plain(), 2, min_share=0).report.params.after or 0
    assert (result.report.params.after or 0) <= papers
    assert [layer.rank for layer in result.report.layers] == [order.rank for order in orders]


def test_a_budget_holds_for_the_whole_network() -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), images(100)
    total = parameter_count(model)
    for budget, limit in (("30%", 0.3 * total), (f"{2 * total}B", total / 2)):
        result = phnnify.convert(model, budget=budget, data=x, min_share=0)
        assert parameter_count(result.model) <= limit
        assert result.report.predicted_damage is not None
        assert parameter_count(result.model) == result.report.params.after
    plan, report = phnnify.inspect(model, budget="30%", data=x, min_share=0)
    assert len(report.levels) > 2
    assert plan == phnnify.convert(model, budget="30%", data=x, min_share=0).plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "25%"}, "--budget needs --data"),
        ({"max_drop": "1%"}, "--max-drop needs --data"),
        ({"low_rank": "auto"}, "--low-rank auto needs --data"),
        ({"low_rank": "much"}, "not auto, off or a number"),
        ({"low_rank": 2.0}, "must be within 0 to 1"),
        ({"budget": "25%", "max_drop": "1%"}, "exclude each other"),
        ({"budget": "25%", "low_rank": "off"}, "has no meaning with --budget"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        phnnify.convert(Plain(), **options)


@pytest.mark.parametrize("drop", ["x", "0%", "100%", "-1"])
def test_a_drop_that_is_no_percentage_is_refused(drop: str) -> None:
    with pytest.raises(UsageError, match="is no percentage"):
        phnnify.convert(Plain(), max_drop=drop, data=images(4))


def test_converted_networks_with_low_rank_terms_survive_their_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), images(60)
    result = phnnify.convert(model, 4, data=x, low_rank=0.5, min_share=0)
    phnnify.save(result.model, tmp_path / "small.safetensors", result.plan)
    again = phnnify.load(tmp_path / "small.safetensors", Plain())
    torch.testing.assert_close(again(x), result.model(x))
    checked = phnnify.export_onnx(result.model, tmp_path / "small.onnx", result.inputs)
    assert checked.bytes < 0.6 * 4 * parameter_count(model) + 20_000


@pytest.mark.parametrize("options", [{}, {"low_rank": "off"}, {"budget": "40%"}], ids=str)
def test_a_network_that_is_one_layer_is_fitted_to_data_too(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 16), torch.randn(100, 16)
    result = phnnify.convert(layer, 4, data=x, **options)
    assert isinstance(result.model, PHMLayer)
    (told,) = result.report.layers
    assert told.output_error is not None
    with torch.no_grad():
        y, y_hat = layer(x), result.model(x)
    assert told.output_error == pytest.approx(float((y_hat - y).norm() / (y - y.mean(0)).norm()), rel=1e-3)


def test_sides_that_nothing_divides_are_fitted_by_low_rank() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(101, 97), nn.Tanh(), nn.Linear(97, 89))
    data = [torch.randn(64, 5) @ torch.randn(5, 101)]
    result = phnnify.convert(model, 4, data=data)
    assert {str(order) for order in result.plan.conversions.values()} == {"rank 12", "rank 11"}
    assert (result.report.params.kept or 1) < 0.27
    blind = phnnify.convert(model, 4, low_rank=1.0)
    errors = [(each.model(data[0]) - model(data[0])).norm() for each in (result, blind)]
    assert errors[0] < 0.3 * errors[1]
    with pytest.raises(PlanError, match="no number up to 4 divides"):
        phnnify.convert(model, 4, data=data, low_rank="off")
    assert phnnify.convert(model, budget="20%", data=data).report.params.kept < 0.2  # type: ignore[operator]
