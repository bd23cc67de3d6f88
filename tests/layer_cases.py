"""Every kind of layer with every constructor field, and a dense oracle that knows nothing of ours."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phnnify.algebra import Order
from phnnify.layers import (
    PHMConv1d,
    PHMConv2d,
    PHMConv3d,
    PHMConvTranspose1d,
    PHMConvTranspose2d,
    PHMConvTranspose3d,
    PHMLayer,
    PHMLinear,
)


class Case(NamedTuple):
    layer: type[PHMLayer]
    arguments: dict[str, Any]
    shape: tuple[int, ...]  # of an input

    def make(self, n: int | Order = 4, **more: Any) -> PHMLayer:
        torch.manual_seed(0)
        make: Any = self.layer
        layer: PHMLayer = make(**self.arguments, **more, n=n)
        return layer

    def dense(self, layer: PHMLayer) -> nn.Module:
        """torch's own layer with the same arguments and the weight composed by torch.kron."""
        twin: nn.Module = self.layer.twin(**self.arguments, dtype=layer.S.dtype)
        weight = kron_weight(layer)
        state = {"weight": weight.transpose(0, 1) if self.layer.transposed_weight else weight}
        if layer.bias is not None:
            state["bias"] = layer.bias.detach()
        twin.load_state_dict(state)
        return twin

    def input(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def kron_weight(layer: PHMLayer) -> Tensor:
    """The weight (out, in, *kernel) by torch.kron, one kernel position at a time, and the low-rank term."""
    A, S, U, V = layer.factors.detach()
    flat = S.flatten(3) if S.dim() > 3 else S.unsqueeze(3)
    zero = torch.zeros(layer.matrix[:2], dtype=S.dtype)
    positions = [
        sum((torch.kron(a, s) for a, s in zip(A, flat[..., k], strict=True)), zero)
        for k in range(flat.shape[3])
    ]
    weight = torch.stack(positions, -1).reshape(*zero.shape, *S.shape[3:])
    return weight if U is None or V is None else weight + torch.einsum("or,r...->o...", U, V)


def conv(sides: tuple[int, int], kernel: Any, **more: Any) -> dict[str, Any]:
    return {"in_channels": sides[0], "out_channels": sides[1], "kernel_size": kernel, **more}


CASES: dict[str, Case] = {
    "linear": Case(PHMLinear, {"in_features": 12, "out_features": 20}, (3, 12)),
    "linear, no bias": Case(PHMLinear, {"in_features": 8, "out_features": 8, "bias": False}, (2, 5, 8)),
    "linear, uneven sides": Case(PHMLinear, {"in_features": 6, "out_features": 9}, (40, 6)),
    "conv1d": Case(PHMConv1d, conv((8, 12), 3), (2, 8, 9)),
    "conv1d, same": Case(PHMConv1d, conv((8, 4), 4, padding="same", dilation=2, bias=False), (2, 8, 9)),
    "conv1d, circular": Case(PHMConv1d, conv((8, 4), 3, padding=2, padding_mode="circular"), (2, 8, 9)),
    "conv1d, pointwise": Case(PHMConv1d, conv((8, 4), 1, stride=2), (2, 8, 9)),
    "conv2d": Case(PHMConv2d, conv((8, 16), 3, padding=1), (2, 8, 6, 7)),
    "conv2d, valid": Case(PHMConv2d, conv((8, 16), (2, 3), padding="valid", stride=(1, 2)), (2, 8, 6, 7)),
    "conv2d, same reflect": Case(
        PHMConv2d, conv((8, 16), (3, 2), padding="same", padding_mode="reflect"), (2, 8, 6, 7)
    ),
    "conv2d, grouped": Case(
        PHMConv2d, conv((8, 16), 3, groups=2, stride=2, padding=(2, 1), dilation=(1, 2)), (2, 8, 9, 7)
    ),
    "conv2d, replicate": Case(
        PHMConv2d, conv((8, 16), 3, padding=(1, 2), padding_mode="replicate", bias=False), (2, 8, 6, 7)
    ),
    "conv2d, unbatched": Case(PHMConv2d, conv((8, 16), 3), (8, 6, 7)),
    "conv2d, pointwise": Case(PHMConv2d, conv((8, 16), 1), (2, 8, 6, 7)),
    "conv2d, pointwise, padded": Case(
        PHMConv2d, conv((8, 16), 1, stride=(2, 3), padding=(1, 2), bias=False), (2, 8, 6, 7)
    ),
    "conv2d, pointwise, reflect": Case(
        PHMConv2d, conv((8, 16), 1, padding=1, padding_mode="reflect"), (2, 8, 6, 7)
    ),
    "conv2d, pointwise, unbatched": Case(PHMConv2d, conv((8, 16), 1, padding="same"), (8, 6, 7)),
    "conv2d, pointwise, grouped": Case(PHMConv2d, conv((8, 16), 1, groups=2), (2, 8, 6, 7)),
    "conv3d": Case(PHMConv3d, conv((4, 8), (1, 2, 3), padding=(0, 1, 1), stride=(1, 2, 1)), (2, 4, 3, 5, 4)),
    "conv3d, pointwise": Case(PHMConv3d, conv((4, 8), 1, stride=2), (2, 4, 3, 5, 4)),
    "transposed 1d": Case(PHMConvTranspose1d, conv((8, 12), 3, stride=2, output_padding=1), (2, 8, 5)),
    "transposed 2d": Case(PHMConvTranspose2d, conv((8, 12), 3, padding=1, bias=False), (2, 8, 5, 4)),
    "transposed 2d, grouped": Case(
        PHMConvTranspose2d,
        conv((8, 12), (3, 2), groups=2, stride=(2, 3), dilation=(1, 2), output_padding=(1, 0)),
        (2, 8, 5, 4),
    ),
    "transposed 2d, pointwise": Case(PHMConvTranspose2d, conv((8, 12), 1), (2, 8, 5, 4)),
    "transposed 3d": Case(PHMConvTranspose3d, conv((4, 8), 2, stride=2), (2, 4, 2, 3, 2)),
}
FACTORED = [name for name in CASES if "linear" in name or ("pointwise" in name and "conv" in name)]
FACTORED = [name for name in FACTORED if "grouped" not in name and "transposed" not in name]
COMPOSED = [name for name in CASES if name not in FACTORED]
