"""Small networks with the difficulties that real ones have."""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """Convolutions of several kinds, then dense layers; input (batch, 4, 8, 8), output (batch, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 12)  # registered first, runs last
        self.stem = nn.Conv2d(4, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=2, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.point = nn.Conv2d(16, 8, 1, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.point(self.up(self.grouped(x)))
        out: Tensor = self.head(F.pad(x.flatten(1), (0, 32)))
        return out


class Twice(nn.Module):
    """One layer under two names, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.again = self.layer
        self.steps = [self.layer]  # not registered

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.again(self.layer(self.steps[0](x)))
        return out


class Overwriting(nn.Module):
    """Writes into its inputs; without parameters."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x -= 3
        scale *= 2
        return x * scale


class Tied(nn.Module):
    """A head that shares the embedding's weight; input (batch, time) int64."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.body = nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.table(tokens)))
        return out


class Outside(nn.Module):
    """Uses one weight without its module, one bare parameter, and one layer never."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(16, 16)
        self.read = nn.Linear(16, 16)
        self.never = nn.Linear(16, 16)
        self.bare = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.used(x), self.read.weight) @ self.bare


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        if out.sum() > 0:
            return out
        return -out


class Careless(nn.Module):
    """Keeps what it sees, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.seen: Any = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.calls = x, self.calls + 1
        out: Tensor = self.norm(self.layer(x))
        return out


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.lock = nn.Linear(16, 16), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Operators(nn.Module):
    """Every operator that becomes a layer, with unusual arguments; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.same = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.head = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.a(x)).relu()
        z = self.same(self.up(self.b(y).relu()) + y)
        return self.head(self.head(z.mean((2, 3)))), z
