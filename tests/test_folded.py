"""Weight norm and spectral norm, folded into the weight that they compute."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import phnnify
from phnnify.algebra import Order
from phnnify.layers import PHMConv1d, PHMLayer
from phnnify.opened import open_modules
from phnnify.opened.folded import foldable, norm_of
from phnnify.pipeline import convert, inspect
from phnnify.plan import with_orders

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
NORMS: dict[str, Callable[[Any], Any]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm over all": lambda module: parametrizations.weight_norm(module, dim=None),  # type: ignore[arg-type]
    "weight norm, older": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, older": nn.utils.spectral_norm,
}
every_norm = pytest.mark.parametrize("norm", NORMS)
INPUT = "2x8x12"


def normed(norm: str) -> nn.Sequential:
    """Two layers with a norm, and one without between them."""
    torch.manual_seed(0)
    layers = NORMS[norm](nn.Conv1d(8, 16, 3)), nn.Conv1d(16, 16, 3), NORMS[norm](nn.Conv1d(16, 8, 3))
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    for _ in range(3):
        model(torch.randn(2, 8, 12))  # spectral norm finds its vectors
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def exact(model: nn.Module, **more: Any) -> nn.Module:
    plan, _ = inspect(model, 2, inputs=INPUT, min_share=0)
    orders = plan.conversions.items()
    plan = with_orders(plan, {k: Order(o.n_out, o.n_in, o.n_out * o.n_in) for k, o in orders})
    return convert(model, plan=plan, inputs=INPUT, **more).model


@every_norm
@pytest.mark.parametrize("training", [False, True])
def test_a_folded_network_is_a_plain_one_that_computes_the_same(norm: str, training: bool) -> None:
    model, x = normed(norm), torch.randn(3, 8, 12)
    wanted = model(x)
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    opened: Any = open_modules(model)
    assert [type(layer) for layer in opened[::2]] == [nn.Conv1d] * 3
    assert all(not layer._forward_pre_hooks and not layer._load_state_dict_pre_hooks for layer in opened)
    assert isinstance(opened[0].weight, nn.Parameter)
    assert opened[0].bias is model[0].bias
    torch.testing.assert_close(opened.eval()(x), wanted)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (norm_of(opened[0]) or "none")[0] == norm.partition(",")[0].replace(" over all", "")


@every_norm
def test_with_all_terms_the_converted_network_is_the_original(norm: str) -> None:
    model, x = normed(norm), torch.randn(3, 8, 12)
    small = exact(model)
    assert sum(isinstance(layer, PHMConv1d) for layer in small) == 3  # type: ignore[attr-defined]
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-5)


@every_norm
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_it_comes_back_also_where_one_keeps_its_norm(norm: str, ending: str, tmp_path: Path) -> None:
    new_style_pickle = ending == ".pt" and not norm.endswith("older")
    include = ["*"] if new_style_pickle else ["0", "2"]  # torch does not pickle parametrizations
    small, x = convert(normed(norm), 2, inputs=INPUT, include=include).model.eval(), torch.randn(3, 8, 12)
    phnnify.save(small, tmp_path / f"net{ending}")
    torch.manual_seed(1)
    again: Any = phnnify.load(
        tmp_path / f"net{ending}", normed(norm) if ending == ".safetensors" else None, trust=ending == ".pt"
    )
    assert torch.equal(again(x), small(x))
    assert [isinstance(layer, PHMLayer) for layer in again[::2]] == [True, True, new_style_pickle]


@every_norm
def test_it_is_fitted_to_data_and_exported(norm: str, tmp_path: Path) -> None:
    model, x = normed(norm), torch.randn(64, 8, 12)
    result = convert(model, 2, data=x, min_share=0)
    assert all(layer.output_error is not None for layer in result.report.layers)
    assert phnnify.export_onnx(result.model, tmp_path / "net.onnx", INPUT).max_rel_diff < 1e-4


def test_the_report_says_what_was_folded_and_counts_the_originals_parameters() -> None:
    model = normed("weight norm")
    result = convert(model, 2, inputs=INPUT, min_share=0, exclude=["4"])
    assert "Weight norm folded into the weights of 0: converted, they have none." in result.report.notes
    counts = [sum(p.numel() for p in network.parameters()) for network in (model, result.model)]
    assert [result.report.params.before, result.report.params.after] == counts
    _, report = inspect(model, 2, inputs=INPUT, min_share=0)
    assert any("folded into the weights of 0, 4:" in note for note in report.notes)


def test_a_fresh_network_draws_what_the_norm_computed() -> None:
    result = convert(normed("weight norm"), 2, inputs=INPUT, min_share=0, init="fresh")
    assert not any("Not drawn anew" in note for note in result.report.notes)


def test_a_network_that_is_one_layer_with_a_norm_is_converted(tmp_path: Path) -> None:
    model = parametrizations.weight_norm(nn.Linear(16, 16)).eval()
    small = convert(model, 2, inputs="1x16").model
    assert type(small).__name__ == "PHMLinear"
    phnnify.save(small, tmp_path / "net.safetensors")
    again = phnnify.load(tmp_path / "net.safetensors", parametrizations.weight_norm(nn.Linear(16, 16)))
    x = torch.randn(3, 16)
    assert torch.equal(again(x), small(x))


class Doubled(nn.Module):
    """A parametrization of the user's."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def own() -> nn.Module:
    layer = nn.Linear(16, 16)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return nn.Sequential(layer, nn.Linear(16, 16))


def on_top() -> nn.Module:
    model: Any = nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 16))
    parametrize.register_parametrization(model[0], "weight", Doubled())
    return model  # type: ignore[no-any-return]


def tied() -> nn.Module:
    layers: Any = [parametrizations.weight_norm(nn.Linear(16, 16)) for _ in range(2)]
    layers[1].parametrizations.weight.original1 = layers[0].parametrizations.weight.original1
    return nn.Sequential(*layers, nn.Linear(16, 16))


def shared() -> nn.Module:
    layers: Any = [parametrizations.weight_norm(nn.Linear(16, 16)) for _ in range(2)]
    layers[1].parametrizations["weight"] = layers[0].parametrizations["weight"]
    return nn.Sequential(*layers, nn.Linear(16, 16))


@pytest.mark.parametrize("build", [own, on_top, tied, shared])
def test_what_cannot_be_folded_stays_with_the_reason(build: Callable[[], nn.Module]) -> None:
    model = build().eval()
    assert not list(foldable(model))
    plan, _ = inspect(model, 2, inputs="1x16", min_share=0)
    assert list(plan.conversions) == [f"{len(model) - 1}"]  # type: ignore[arg-type]
    reasons = {d.reason for d in plan.decisions if "original" in d.name}
    assert "its weight is computed by a parametrization that cannot be folded" in str(reasons)
    assert all(str(reason).startswith(("its weight is computed", "tied:")) for reason in reasons)
