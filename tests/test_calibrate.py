"""What flows into a layer, as covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phnnify import calibrate
from phnnify.calibrate import gather, patches, refusal

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
    (part,) = calibrate._parts(layer, inputs(shape, 0))
    np.testing.assert_allclose(patches(layer, part).numpy(), rows_of(layer, inputs(shape, 0)), atol=1e-6)


@every_layer
@pytest.mark.parametrize("centered", [True, False])
def test_statistics_are_numpys(name: str, centered: bool) -> None:
    layer, shape = LAYERS[name]
    x, x_hat = inputs(shape, 0), inputs(shape, 1)
    found = gather(layer, [(x, x_hat)], centered=centered)
    rows = rows_of(layer, x_hat)
    y = rows_of(layer, x) @ layer.weight.detach().flatten(1).double().numpy().T
    np.testing.assert_allclose(found.mean_hat.numpy(), rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.mean_y.numpy(), y.mean(0), atol=1e-6)
    if centered:
        rows, y = rows - rows.mean(0), y - y.mean(0)
    np.testing.assert_allclose(found.C.numpy(), rows.T @ rows / len(rows), atol=1e-5)
    np.testing.assert_allclose(found.D.numpy(), rows.T @ y / len(rows), atol=1e-5)
    assert found.energy == pytest.approx((y**2).sum() / len(y), rel=1e-5)


@every_layer
def test_several_batches_and_small_pieces_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = LAYERS[name]
    pairs = [(inputs(shape, i), inputs(shape, i + 10)) for i in range(3)]
    whole = gather(layer, pairs, centered=True)
    monkeypatch.setattr(calibrate, "_ROWS", 7)
    pieces = gather(layer, pairs, centered=True)
    torch.testing.assert_close(pieces.C, whole.C, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pieces.D, whole.D, rtol=1e-5, atol=1e-6)


def test_layers_that_cannot_be_gathered_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(nn.Linear(8, 8)) is None
    assert refusal(nn.Conv2d(8, 8, 3)) is None
    assert refusal(nn.Conv2d(8, 8, 3, groups=2)) == "a grouped convolution"
    assert refusal(nn.ConvTranspose2d(8, 8, 3)) == "a transposed convolution"
    assert refusal(nn.LSTM(8, 8)) == "a LSTM"
    monkeypatch.setattr(calibrate, "LIMIT", 71)
    assert refusal(nn.Conv2d(8, 8, 3)) == "72 inputs wide, more than 71"
