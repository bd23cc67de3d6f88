"""Small networks that several test files share, and the command line run inside the test's own process."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn

from phnnify.cli import main

ARCH = "tests.networks:Small"


class Small(nn.Module):
    """Two layers to convert, with a BatchNorm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.head = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.hidden(x)).relu())
        return out


class Tied(nn.Module):
    """Reads tokens and writes them with the same table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(12, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden(self.table(tokens)))
        return out


class Branches(nn.Module):
    """Cannot be exported: what it does depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if y.sum() > 0 else -y


def small() -> Small:
    """The same network each time, as after some training: its BatchNorm has seen data."""
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model(torch.randn(32, 16) * 2 + 1)
    return model.eval()


def sequence() -> nn.Sequential:
    """A network made of torch's own classes only."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)).eval()


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same names, dtypes and values."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Outcome:
    """Run `phnnify ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, code = ["phnnify", *map(str, arguments)], None
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as exited:
            code = exited.code
    return Outcome(int(code or 0), out.getvalue(), err.getvalue())
