"""Hypernetworks: what they compute, how they start, learn, nest, freeze and are exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.errors import ModelError, UsageError
from phnnify.hyper.network import HyperNetwork, hypernetize
from tests.networks import Small, Tied, same_tensors, small

BOTH = pytest.mark.parametrize("formulation", ["mip", "default"])


def images() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(5, 3, 8, 8)


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    model(torch.randn(16, 3, 8, 8) * 2 + 1)
    return model.eval()


def spread_out(model: nn.Module, **options: Any) -> HyperNetwork:
    """A hypernetwork that depends on its inputs from the start."""
    if options.get("formulation") != "default":
        options = {"spread": 0.5, **options}
    return hypernetize(model, **{"inputs": {"lam": 1}, **options})


def predicted_by_hand(hyper: HyperNetwork, gamma: float) -> dict[str, np.ndarray]:
    """θ in NumPy, in double precision, by the formulas of the paper."""
    state = {name: t.double().numpy() for name, t in hyper.state_dict().items()}
    mip = hyper.options.formulation == "mip"
    z = np.array([np.cos(np.pi * gamma / 2), np.sin(np.pi * gamma / 2)]) if mip else np.array([gamma])
    for layer in ("predictor.0", "predictor.2"):
        z = state[f"{layer}.weight"] @ z + state[f"{layer}.bias"]
        z = np.where(z > 0, z, 0.01 * z)
    flat = state["predictor.4.weight"] @ z + state.get("predictor.4.bias", 0)
    tensors, start = {}, 0
    for name, shape in ((name, p.shape) for name, p in convolutional().named_parameters()):
        part = flat[start : (start := start + shape.numel())].reshape(shape)
        tensors[name] = part + (state[f"network.{name}"] if mip else 0)
    assert start == len(flat)
    return tensors


@BOTH
@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
def test_the_tensors_are_those_of_the_papers_formulas(formulation: str, gamma: float) -> None:
    hyper = spread_out(convolutional(), formulation=formulation)
    wanted = predicted_by_hand(hyper, gamma)
    got = hyper.parameters_at(lam=gamma)
    assert got.keys() == wanted.keys()
    for name, tensor in got.items():
        np.testing.assert_allclose(tensor.detach().numpy(), wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_it_starts_as_the_network_to_the_bit(gamma: float) -> None:
    model = convolutional()
    hyper = hypernetize(model, {"lam": 1, "scale": 2})
    assert torch.equal(hyper(images(), lam=gamma, scale=[gamma, 0.5]), model(images()))
    assert torch.equal(
        hyper(images(), lam=torch.rand(5), scale=[gamma, 0.5]).round(decimals=4),
        model(images()).round(decimals=4),
    )


def test_a_spread_is_the_size_of_the_first_predictions_beside_each_tensor_for_every_input() -> None:
    model = convolutional()
    shares: dict[str, list[float]] = {name: [] for name, _ in model.named_parameters()}
    for seed in range(20):
        hyper = hypernetize(model, {"lam": 1}, spread=0.1, hidden=(64, 128), seed=seed)
        for gamma in (0.0, 0.6, 1.0):
            for name, tensor in hyper.parameters_at(lam=gamma).items():
                own = model.get_parameter(name)
                share = (tensor - own).square().mean() / own.square().mean()
                shares[name].append(float(share.detach()))
    for name in ("0.weight", "1.weight", "4.weight"):
        assert np.sqrt(np.mean(shares[name])) == pytest.approx(0.1, rel=0.15)
    assert np.isnan(shares["1.bias"]).all()  # zero in the network, and zero in its predictions


def test_the_default_formulation_starts_with_the_networks_variances_at_the_largest_input() -> None:
    model = convolutional()
    squares, wanted = [], float(model.get_parameter("4.weight").detach().square().mean())
    for seed in range(20):
        hyper = hypernetize(model, {"lam": 1}, formulation="default", hidden=(64, 128), seed=seed)
        squares.append(float(hyper.parameters_at(lam=1.0)["4.weight"].detach().square().mean()))
    assert np.mean(squares) == pytest.approx(wanted, rel=0.15)


def test_only_the_default_formulation_is_proportional_to_its_input() -> None:
    def sizes(**options: Any) -> list[float]:
        hyper = spread_out(convolutional(), activation="ReLU", **options)
        own: dict[str, Any] = {} if options else dict(convolutional().named_parameters())
        at = [hyper.parameters_at(lam=gamma)["4.weight"] for gamma in (0.25, 0.5, 1.0)]
        return [float((tensor - own.get("4.weight", 0)).detach().norm()) for tensor in at]

    quarter, half, whole = sizes(formulation="default")
    assert half / quarter == pytest.approx(2, rel=0.01)
    assert whole / half == pytest.approx(2, rel=0.01)
    quarter, half, whole = sizes()
    assert 0.7 < half / quarter < 1.4
    assert 0.7 < whole / half < 1.4


@BOTH
def test_a_row_per_sample_is_what_a_call_for_each_sample_computes(formulation: str) -> None:
    hyper, x, lam = spread_out(convolutional(), formulation=formulation), images(), torch.rand(5, 1)
    wanted = torch.cat([hyper(x[i : i + 1], lam=lam[i]) for i in range(5)])
    torch.testing.assert_close(hyper(x, lam=lam), wanted)
    torch.testing.assert_close(hyper(x, lam=lam[:, 0]), wanted)
    torch.testing.assert_close(hyper.bind(lam=lam)(x), wanted)


@BOTH
def test_a_frozen_network_is_an_ordinary_one_that_converts_and_exports(
    formulation: str, tmp_path: Path
) -> None:
    hyper, x = spread_out(small(), formulation=formulation), torch.randn(5, 16)
    frozen = hyper.at(lam=0.3)
    assert type(frozen) is Small
    assert same_tensors(frozen.state_dict(), {**small().state_dict(), **hyper.parameters_at(lam=0.3)})
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in frozen.parameters())
    torch.testing.assert_close(frozen(x), hyper(x, lam=0.3))
    converted = phnnify.convert(frozen, n=2, min_share=0).model
    phnnify.save(converted, tmp_path / "small.safetensors")
    assert phnnify.load(tmp_path / "small.safetensors", model=Small())(x).shape == (5, 8)


def test_the_original_and_the_hypernetwork_are_not_changed_by_what_is_made_of_them() -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    hyper = spread_out(model)
    whole = copy.deepcopy(hyper.state_dict())
    with torch.no_grad():
        for parameter in hyper.at(lam=0.5).parameters():
            parameter.add_(1)
    assert same_tensors(hyper.state_dict(), whole)
    with torch.no_grad():
        for parameter in hyper.parameters():
            parameter.add_(1)
    assert same_tensors(model.state_dict(), before)


def test_everything_learns_and_gradients_reach_the_input() -> None:
    hyper, x = spread_out(small().double()), torch.randn(5, 16, dtype=torch.float64)
    lam = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    hyper(x, lam=lam).square().sum().backward()
    learnt = {name for name, p in hyper.named_parameters() if p.grad is not None and p.grad.any()}
    assert learnt == {name for name, _ in hyper.named_parameters()}
    assert torch.autograd.gradcheck(lambda lam: hyper(x, lam=lam).sum(), (lam,))


def test_after_one_step_from_the_exact_start_all_of_h_learns() -> None:
    hyper, x = hypernetize(small(), {"lam": 1}), torch.randn(5, 16)
    optimizer = torch.optim.SGD(hyper.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        hyper(x, lam=0.3).square().sum().backward()
        optimizer.step()
    weights = [p for name, p in hyper.named_parameters() if name.startswith("predictor") and p.dim() == 2]
    assert all(p.grad is not None and p.grad.any() for p in weights)


def test_predicting_factors_takes_a_hypernetwork_of_a_fraction() -> None:
    dense = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 64, bias=False))
    factored = phnnify.convert(dense, n=4).model
    large, little = (spread_out(model) for model in (dense, factored))
    assert little.predictor.output.out_features / large.predictor.output.out_features < 0.27
    x = torch.randn(3, 64)
    lam = torch.rand(3)
    wanted = torch.cat([little.at(lam=lam[i])(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(little(x, lam=lam), wanted)


def test_in_eval_mode_a_cached_weight_of_a_phm_layer_is_never_another_conditionings() -> None:
    model = phnnify.convert(convolutional(), n=2, min_share=0).model.eval()
    hyper, x = spread_out(model), images()
    hyper.network(x)  # caches the composed weights of θ₀
    for gamma in (0.1, 0.9, 0.1):
        torch.testing.assert_close(hyper(x, lam=gamma), hyper.at(lam=gamma)(x))


def test_film_predicts_scale_and_shift_alone() -> None:
    hyper = spread_out(small(), layers=["norm"])
    assert hyper.options.layers == ("norm.weight", "norm.bias")
    x = torch.randn(5, 16)
    theta = hyper.parameters_at(lam=0.7)
    model = small()
    state = model.state_dict()
    normal = (model.hidden(x) - state["norm.running_mean"]) / (state["norm.running_var"] + 1e-5).sqrt()
    wanted = model.head((normal * theta["norm.weight"] + theta["norm.bias"]).relu())
    torch.testing.assert_close(hyper(x, lam=0.7), wanted)


@BOTH
def test_tied_tensors_stay_tied(formulation: str) -> None:
    hyper, tokens = spread_out(Tied(), formulation=formulation), torch.randint(0, 12, (3, 4))
    theta = hyper.parameters_at(lam=0.2)
    assert torch.equal(theta["table.weight"], theta["head.weight"])
    frozen = hyper.at(lam=0.2)
    assert isinstance(frozen, Tied)
    assert frozen.head.weight is frozen.table.weight
    torch.testing.assert_close(hyper(tokens, lam=0.2), frozen(tokens))


def test_it_can_be_applied_by_functional_call() -> None:
    hyper, x = spread_out(small(), formulation="default"), torch.randn(5, 16)
    got = torch.func.functional_call(hyper.network, hyper.parameters_at(lam=0.4), (x,))
    assert torch.equal(got, hyper(x, lam=0.4))


@BOTH
def test_a_hypernetwork_of_a_hypernetwork(formulation: str) -> None:
    inner, x = spread_out(convolutional(), formulation=formulation), images()
    outer = spread_out(inner, inputs={"mu": 2}, layers=["predictor.*"])
    lam, mu = torch.rand(5), torch.rand(5, 2)
    frozen = [outer.at(mu=mu[i]) for i in range(5)]
    assert isinstance(frozen[0], HyperNetwork)
    wanted = torch.cat([net(x[i : i + 1], lam=lam[i]) for i, net in enumerate(frozen)])
    torch.testing.assert_close(outer(x, lam=lam, mu=mu), wanted)
    with pytest.raises(ValueError, match=r"lam is 1\.5"):
        outer(x, lam=lam + 1.5 - lam, mu=mu)


def test_a_state_dict_goes_round() -> None:
    hyper, other = (spread_out(small(), formulation="default", seed=seed) for seed in (0, 1))
    x = torch.randn(5, 16)
    assert not torch.equal(hyper(x, lam=0.4), other(x, lam=0.4))
    other.load_state_dict(hyper.state_dict())
    assert torch.equal(hyper(x, lam=0.4), other(x, lam=0.4))


def test_the_same_seed_draws_the_same_hypernetwork() -> None:
    one, other = (spread_out(small(), seed=3) for _ in range(2))
    assert same_tensors(one.state_dict(), other.state_dict())


def test_it_keeps_mode_and_precision() -> None:
    assert not hypernetize(small(), {"lam": 1}).training
    assert hypernetize(Small(), {"lam": 1}).training
    half = hypernetize(small().bfloat16(), {"lam": 1})
    assert half(torch.randn(2, 16).bfloat16(), lam=0.5).dtype == torch.bfloat16
    assert half.predictor.output.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"formulation": "mine"}, "the formulation is 'mine'"),
        ({"spread": -1.0}, "the spread is -1.0"),
        ({"spread": 0.1, "formulation": "default"}, "no meaning in the default"),
        ({"inputs": {"x": 1}}, "already has an input called x"),
        ({"inputs": {}}, "needs a conditioning input"),
        ({"layers": ["tail"]}, "'tail' matches no parameter"),
        ({"activation": "Linear"}, "the activation is 'Linear'"),
        ({"hidden": ()}, "the hidden widths are"),
    ],
)
def test_options_that_cannot_mean_anything_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hypernetize(small(), **{"inputs": {"lam": 1}, **options})


def test_the_input_of_a_nested_hypernetwork_keeps_its_name() -> None:
    with pytest.raises(UsageError, match="already has an input called lam"):
        hypernetize(hypernetize(small(), {"lam": 1}), {"lam": 1})


def test_what_needs_several_samples_is_refused_with_one() -> None:
    hyper = hypernetize(small(), {"lam": 1}, norm="BatchNorm1d").train()
    hyper.network.eval()
    with pytest.raises(ModelError, match="BatchNorm1d in h"):
        hyper(torch.randn(3, 16), lam=0.5)
    assert hyper(torch.randn(3, 16), lam=torch.rand(3)).shape == (3, 8)
    with pytest.raises(UsageError, match="rows for 3 samples"):
        hyper.at(lam=torch.rand(3))


@BOTH
def test_its_onnx_file_has_the_conditioning_as_an_input(formulation: str, tmp_path: Path) -> None:
    model = phnnify.convert(convolutional(), n=2, min_share=0).model
    hyper = spread_out(model, inputs={"lam": 1, "scale": 2}, formulation=formulation)
    done = phnnify.export_onnx(hyper, tmp_path / "hyper.onnx", ["1x3x8x8", "lam=1x1"])
    assert done.batches == (2, 3)
    session = onnxruntime.InferenceSession(tmp_path / "hyper.onnx")
    assert [node.name for node in session.get_inputs()] == ["input", "lam", "scale"]
    x = images()
    for gamma in (0.0, 0.5, 1.0):
        feed = {
            "input": x.numpy(),
            "lam": np.array([gamma], np.float32),
            "scale": np.array([0.25, gamma], np.float32),
        }
        wanted = hyper(x, lam=gamma, scale=[0.25, gamma]).detach().numpy()
        np.testing.assert_allclose(session.run(None, feed)[0], wanted, rtol=1e-4, atol=1e-5)
