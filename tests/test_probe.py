"""What a network costs in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from phnnify.comparing import probe
from phnnify.comparing.probe import measure_footprint
from phnnify.errors import ModelError
from phnnify.inputs import InputSpec

MB = 1 << 20


def test_a_network_of_many_weights_costs_their_bytes_at_least(tmp_path: Path) -> None:
    torch.save(nn.Linear(2048, 8192), tmp_path / "large.pt")
    found = measure_footprint(tmp_path / "large.pt", [InputSpec((1, 2048))])
    assert found.peak_bytes is not None
    assert 64 * MB < found.peak_bytes < 400 * MB


def test_a_small_network_costs_little_and_what_it_prints_does_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        print('{', flush=True)\n"
        "        return super().forward(x)\n"
        "def build():\n"
        "    return Net(4, 4)\n"
    )
    torch.save(nn.Linear(4, 4).state_dict(), tmp_path / "w.pt")
    found = measure_footprint(tmp_path / "w.pt", [InputSpec((1, 4))], arch=f"{tmp_path}/net.py:build")
    assert found.peak_bytes is not None
    assert 0 <= found.peak_bytes < 32 * MB
    assert 0 < found.seconds < 60


def test_a_failure_there_says_why(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 4), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"fails in a process of its own: .*the network fails"):
        measure_footprint(tmp_path / "net.pt", [InputSpec((1, 5))])


def test_a_network_that_takes_forever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nn.Linear(4, 4), tmp_path / "net.pt")
    monkeypatch.setattr(probe, "_LIMIT", 0.2)
    start = time.perf_counter()
    with pytest.raises(ModelError, match=r"takes more than 0\.2 seconds"):
        measure_footprint(tmp_path / "net.pt", [InputSpec((1, 4))])
    assert time.perf_counter() - start < 5


def test_the_height_of_memory_is_this_processes_own() -> None:
    before, _ = probe._memory()
    block = bytearray(os.urandom(1)) * (64 * MB)
    now, highest = probe._memory()
    assert before is not None
    assert now is not None
    assert highest is not None
    assert len(block) * 0.9 < now - before
    assert highest >= now
