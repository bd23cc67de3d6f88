"""What flows into a layer, as covariances."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnnify import calibrate
from phnnify.calibrate import Statistics, gather, measured_error, refusal

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (3, 5, 6)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), (2, 3, 11)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), padding=(2, 1), stride=(1, 2)), (2, 3, 7, 6)),
    "conv2d, same": (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), (2, 3, 7, 6)),
    "conv2d, circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular", bias=False), (2, 3, 7, 6)),
    "conv2d, unbatched": (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "conv3d": (nn.Conv3d(2, 4, 2, dilation=(1, 2, 1)), (2, 2, 3, 5, 4)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def inputs(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def rows_of(layer: Any, x: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Patches found by probing: the layer with one weight entry set to 1 shows that column."""
    probe = torch.nn.utils.skip_init(type(layer), **arguments(layer), dtype=torch.float64)  # type: ignore[no-untyped-call]
    columns = []
    for column in range(layer.weight[0].numel()):
        weight = torch.zeros_like(layer.weight, dtype=torch.float64)
        weight[0].view(-1)[column] = 1
        probe.weight.data.copy_(weight)
        y = probe(x.double())
        axis = -1 if isinstance(layer, nn.Linear) else (0 if x.dim() < layer.weight.dim() else 1)
        columns.append(y.select(axis, 0).detach().numpy().ravel())
    return np.stack(columns, 1)


def arguments(layer: Any) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": False}
    names = "in_channels out_channels kernel_size stride padding dilation padding_mode"
    return {**{name: getattr(layer, name) for name in names.split()}, "bias": False}


@every_layer
def test_patches_are_what_meets_the_weight(name: str) -> None:
    layer, shape = LAYERS[name]
    cut = calibrate._Cut(layer)
    (part,) = cut.parts(inputs(shape, 0))
    np.testing.assert_allclose(cut.patches(part, 1)[0].numpy(), rows_of(layer, inputs(shape, 0)), atol=1e-6)


@every_layer
@pytest.mark.parametrize("centered", [True, False])
def test_statistics_are_numpys(name: str, centered: bool) -> None:
    layer, shape = LAYERS[name]
    x, x_hat = inputs(shape, 0), inputs(shape, 1)
    found = gather(layer, [(x, x_hat)], centered=centered)
    rows = rows_of(layer, x_hat)
    y = rows_of(layer, x) @ layer.weight.detach().flatten(1).double().numpy().T
    np.testing.assert_allclose(found.mean_hat[0].numpy(), rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.mean_y[0].numpy(), y.mean(0), atol=1e-6)
    if centered:
        rows, y = rows - rows.mean(0), y - y.mean(0)
    assert found.D is not None
    np.testing.assert_allclose(found.C[0].numpy(), rows.T @ rows / len(rows), atol=1e-5)
    np.testing.assert_allclose(found.D[0].numpy(), rows.T @ y / len(rows), atol=1e-5)
    assert found.energy == pytest.approx((y**2).sum() / len(y), rel=1e-5)


@pytest.mark.parametrize("centered", [True, False])
def test_inputs_far_from_zero_lose_no_digits(centered: bool) -> None:
    layer, x = nn.Linear(6, 4), inputs((200, 6), 0) + 1000
    found = gather(layer, [(x[:50], x[:50]), (x[50:], x[50:])], centered=centered)
    rows = x.double() - x.double().mean(0) if centered else x.double()
    wanted = (rows.t() @ rows / len(rows)).numpy()
    np.testing.assert_allclose(found.C[0].numpy(), wanted, rtol=1e-7, atol=1e-5)
    np.testing.assert_allclose(found.mean_hat[0].numpy(), x.double().mean(0).numpy(), rtol=1e-7)


@every_layer
def test_several_batches_and_small_pieces_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = LAYERS[name]
    pairs = [(inputs(shape, i), inputs(shape, i + 10)) for i in range(3)]
    whole = gather(layer, pairs, centered=True)
    monkeypatch.setattr(calibrate, "_ENTRIES", 50)
    assert_same(gather(layer, pairs, centered=True), whole)


def assert_same(found: Statistics, wanted: Statistics) -> None:
    assert found.D is not None
    assert wanted.D is not None
    torch.testing.assert_close(found.C, wanted.C, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.D, wanted.D, rtol=1e-5, atol=1e-6)
    assert found.energy == pytest.approx(wanted.energy, rel=1e-5)


GROUPED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, padding=1, stride=2), (2, 6, 7, 6)),
    "grouped 1d": (nn.Conv1d(6, 9, 2, groups=3, bias=False), (2, 6, 8)),
    "transposed 1d": (nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 6)),
    "transposed": (nn.ConvTranspose2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2)), (2, 3, 5, 4)),
    "transposed, cropped": (nn.ConvTranspose2d(3, 4, 2, padding=2), (2, 3, 5, 6)),
    "transposed, grouped": (nn.ConvTranspose2d(6, 4, 3, groups=2, stride=2, padding=1), (2, 6, 5, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 1)), (2, 2, 3, 4, 3)),
    "everyday": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)),
    "linear": (nn.Linear(6, 4), (9, 6)),
}


def oriented(layer: Any, weight: Tensor) -> Tensor:
    return (weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight).flatten(1)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_the_error_of_another_weight_is_that_of_the_layers_outputs(
    name: str, centered: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, shape = GROUPED[name]
    x, x_hat = inputs(shape, 0), inputs(shape, 0) + 0.1 * inputs(shape, 1)
    torch.manual_seed(1)
    other = copy.deepcopy(layer)
    other.weight.data += 0.1 * torch.randn_like(other.weight)
    W = oriented(layer, other.weight.detach()).double()
    y, y_hat = (each(z).detach() for each, z in ((layer, x), (other, x_hat)))
    if layer.bias is not None:
        shape_of_bias = (-1,) if isinstance(layer, nn.Linear) else (1, -1, *[1] * (x.dim() - 2))
        y, y_hat = (z - layer.bias.detach().view(shape_of_bias) for z in (y, y_hat))
    axis = -1 if isinstance(layer, nn.Linear) else 1
    rest = (y - y_hat).double().movedim(axis, -1).flatten(0, -2)
    rows = y.double().movedim(axis, -1).flatten(0, -2)
    shift = rest.mean(0)
    if centered:
        rest, rows = rest - shift, rows - rows.mean(0)
    wanted = float(rest.norm() / rows.norm())
    if wide:
        monkeypatch.setattr(calibrate, "LIMIT", 2)
    statistics = gather(layer, [(x, x_hat)], centered=centered)
    found = statistics.error(W)
    if wide:
        assert found is None
        found = measured_error(layer, [(x, x_hat)], W, centered=centered)
    assert found == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(statistics.shift(W), shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GROUPED)
def test_too_wide_layers_keep_the_diagonal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = GROUPED[name]
    whole = gather(layer, [(inputs(shape, 0), inputs(shape, 1))], centered=True)
    monkeypatch.setattr(calibrate, "LIMIT", 2)
    wide = gather(layer, [(inputs(shape, 0), inputs(shape, 1))], centered=True)
    torch.testing.assert_close(wide.C, whole.C.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-6)
    assert wide.energy == pytest.approx(whole.energy, rel=1e-5)


def test_large_maps_are_thinned_and_say_nearly_the_same() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3, padding=1)
    x = nn.functional.avg_pool2d(torch.randn(8, 2, 64, 64), 3, stride=1)
    cut = calibrate._Cut(layer)
    assert cut.step([x]) == 3
    assert cut.step([x[:1, :, :20, :20]]) == 1
    thinned = gather(layer, [(x, x)], centered=True)
    assert thinned.rows < 4000
    every = torch.cat([cut.patches(part, 1)[0] for part in cut.parts(x)]).double()
    C = (every - every.mean(0)).t() @ (every - every.mean(0)) / len(every)
    assert float((thinned.C[0] - C).norm() / C.norm()) < 0.1


def test_layers_that_cannot_be_gathered_say_why() -> None:
    assert refusal(nn.Linear(8, 8)) is None
    assert refusal(nn.ConvTranspose2d(8, 8, 3, groups=2)) is None
    assert refusal(nn.LSTM(8, 8)) == "a LSTM"
