"""A network with every kind of layer that is fitted to data, and inputs for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phnnify.batches import Batch

NAMES = ["conv", "up", "mix", "hidden", "head"]


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


def network() -> Net:
    """Always the same one."""
    torch.manual_seed(0)
    return Net().eval()


def inputs() -> list[Batch]:
    """Three batches of smooth images."""
    x = torch.randn(96, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    x = nn.functional.interpolate(x, (6, 6), mode="bilinear")
    return [Batch((part,)) for part in torch.split(x, 32)]
