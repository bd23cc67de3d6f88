"""The papers' families: classic networks as PHNNs, with the shapes and share of parameters that belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.layers import PHMLayer
from phnnify.measure import parameter_count, submodule


class Block(nn.Module):
    """Two convolutions around a residual connection (He et al. 2015)."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.shortcut = nn.Conv2d(before, channels, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        out: Tensor = (self.norms[1](self.second(y)) + self.shortcut(x)).relu()
        return out


def resnet(width: int, channels: int = 3) -> nn.Module:
    """Of one block in each of three stages."""
    stages = [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)]
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def vgg(width: int, channels: int = 3) -> nn.Module:
    """Pairs of convolutions, and a classifier of three layers (Simonyan & Zisserman 2014)."""
    layers: list[nn.Module] = []
    for before, after in [(channels, width), (width, 2 * width), (2 * width, 4 * width)]:
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    hidden = [nn.Linear(4 * width * 16, 8 * width), nn.ReLU(), nn.Linear(8 * width, 8 * width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(8 * width, 10))


class SoundEvents(nn.Module):
    """Detects and places sounds in several channels (SELDnet, Adavanne et al. 2018, arXiv 1807.00129).

    x (batch, channels, time, frequency) → which events (batch, time, 48), and where (batch, time, 144).
    """

    def __init__(self, channels: int, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (channels, width, width):
            norm = nn.BatchNorm2d(width)
            layers += [nn.Conv2d(before, width, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d((1, 4))]
        self.features = nn.Sequential(*layers)
        self.recurrent = nn.GRU(width, width, 2, batch_first=True, bidirectional=True)
        self.events = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 48))
        self.places = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, 144))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.recurrent(self.features(x).mean(3).mT)
        return self.events(y).sigmoid(), self.places(y).tanh()


def weights(model: nn.Module) -> int:
    """The numbers in weights, which n divides; biases and norms are as they were."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("make", [resnet, vgg])
def test_images_enter_in_their_natural_domain_and_one_nth_is_kept(make: object, n: int) -> None:
    assert callable(make)
    model = make(24)
    result = phnnify.convert(model, n, init="fresh", inputs="2x3x32x32")
    assert result.model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert all(decision.order for decision in result.plan.decisions)
    assert weights(result.model) == pytest.approx(weights(model) / n, rel=0.05)
    first, *hidden, _ = (m for m in result.model.modules() if isinstance(m, PHMLayer))
    natural = {2: (1, (2, 1)), 3: (3, (3, 3)), 4: (3, (4, 3))}[n]  # terms, (n_out, n_in); no empty channels
    assert first.A.shape == (natural[0], *natural[1])
    assert first.S.shape == (natural[0], 24 // natural[1][0], 3 // natural[1][1], 3, 3)
    for layer in hidden:
        out, columns, *kernel = layer.dense_shape
        assert layer.A.shape == (n, n, n)
        assert layer.S.shape == (n, out // n, columns // n, *kernel)


@pytest.mark.parametrize("make", [resnet, vgg])
def test_three_is_possible_with_channels_that_it_does_not_divide(make: object) -> None:
    assert callable(make)
    model = make(32)
    result = phnnify.convert(model, 3, init="fresh", inputs="1x3x32x32")
    assert weights(result.model) == pytest.approx(weights(model) / 3, rel=0.1)
    first = next(m for m in result.model.modules() if isinstance(m, PHMLayer))
    assert (first.order.n_out, first.order.n_in, first.order.terms) == (2, 3, 2)


@pytest.mark.parametrize(("channels", "n"), [(2, 2), (3, 3), (4, 4), (8, 8), (16, 16)])
def test_microphones_enter_as_one_number_of_their_dimension(channels: int, n: int) -> None:
    torch.manual_seed(0)
    model = SoundEvents(channels)
    result = phnnify.convert(model, n, init="fresh", inputs=f"2x{channels}x10x64")
    names = ["recurrent.ih_l0", "recurrent.hh_l0", "recurrent.ih_l1_reverse", "recurrent.hh_l1_reverse"]
    for name in ["features.0", "features.4", *names, "events.0", "places.0"]:
        layer = submodule(result.model, name)
        assert isinstance(layer, PHMLayer)
        assert layer.A.shape == (n, n, n)
        assert layer.S.shape == (n, layer.matrix[0] // n, layer.matrix[1] // n, *layer.matrix[2:])
    rules = n**3 * len(result.plan.conversions)
    assert weights(result.model) == weights(model) / n + rules
    x = torch.randn(2, channels, 10, 64)
    events, places = result.model.train()(x)
    assert (events.shape, places.shape) == ((2, 10, 48), (2, 10, 144))
    (events.mean() + places.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in result.model.parameters())


def test_a_shared_algebra_is_one_for_the_whole_sound_event_network() -> None:
    model = SoundEvents(4)
    own, shared = (phnnify.convert(model, 4, init="fresh", share_algebra=share) for share in (False, True))
    layers = [m for m in shared.model.modules() if isinstance(m, PHMLayer)]
    assert len(layers) == 15
    assert len({id(layer.A) for layer in layers}) == 1
    assert parameter_count(own.model) - parameter_count(shared.model) == 14 * 4**3
    assert shared.report.params.after == parameter_count(shared.model)


def test_a_quaternion_sound_event_network_has_a_quarter_of_the_weights() -> None:
    model = SoundEvents(4)
    result = phnnify.convert(model, algebra="quaternion", init="fresh")
    assert all(decision.algebra == "quaternion" for decision in result.plan.decisions)
    assert weights(result.model) * 4 == weights(model)
    assert result.model(torch.randn(1, 4, 6, 64))[0].isfinite().all()


@pytest.mark.parametrize("how", [{"algebra": "quaternion"}, {"share_algebra": True}], ids=str)
def test_given_algebras_go_into_onnx_as_factors(how: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 8)
    )
    result = phnnify.convert(model, 4, init="fresh", inputs="1x4x5x5", **how)
    checked = phnnify.export_onnx(result.model, tmp_path / "net.onnx", result.inputs)
    assert checked.max_rel_diff < 1e-5
    assert checked.tensor_bytes < 1.05 * 4 * parameter_count(result.model)


def test_a_quaternion_recurrent_layer_has_one_product_for_each_gate(tmp_path: Path) -> None:
    """Parcollet et al. 2019 (arXiv 1806.04418), for a GRU: the gates' filters apart, components by name."""
    torch.manual_seed(0)
    model = nn.GRU(8, 12, batch_first=True)
    result = phnnify.convert(model, algebra="quaternion", init="fresh")
    assert [(d.name, d.order) for d in result.plan.decisions] == [
        ("ih_l0", Order(12, 4, 12)), ("hh_l0", Order(12, 4, 12))
    ]  # fmt: skip
    phnnify.save(result.model, tmp_path / "net.safetensors")
    network: Any = phnnify.load(tmp_path / "net.safetensors", model=nn.GRU(8, 12, batch_first=True))
    assert parameter_count(network) == 3 * 12 * (8 + 12) // 4 + 2 * 36

    def gates(layer: Any, x: Tensor) -> list[Tensor]:
        """Reset, update and new: each of 12 numbers, four components of three."""
        found = []
        for (r, i, j, k), bias in zip(layer.S.view(3, 4, 3, -1), layer.bias.view(3, 12), strict=True):
            W = torch.cat([
                torch.cat([r, -i, -j, -k], 1), torch.cat([i, r, -k, j], 1),
                torch.cat([j, k, r, -i], 1), torch.cat([k, -j, i, r], 1),
            ])  # fmt: skip
            found.append(x @ W.t() + bias)
        return found

    x, h = torch.randn(2, 5, 8), torch.zeros(2, 12)
    for t in range(5):
        (xr, xz, xn), (hr, hz, hn) = gates(network.ih_l0, x[:, t]), gates(network.hh_l0, h)
        z = (xz + hz).sigmoid()
        h = (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * h
    torch.testing.assert_close(network(x)[0][:, -1], h)


def test_attention_has_one_product_for_query_key_and_value() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    result = phnnify.convert(model, algebra="quaternion", init="fresh", inputs="2x3x8")
    orders = {decision.name: decision.order for decision in result.plan.decisions}
    assert orders["self_attn.in_proj"] == Order(12, 4, 12)
    assert orders["self_attn.out_proj"] == Order(4, 4, 4)
    assert weights(result.model) * 4 == weights(model)
