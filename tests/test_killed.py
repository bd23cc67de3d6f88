"""A distillation whose process is killed loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from phnnify.distilling.checkpoint import read_checkpoint
from tests.learner import STEPS, learn
from tests.networks import same_tensors

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)


def test_a_run_killed_at_twenty_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.learner", "accelerate"])
    whole = context.Process(target=learn, args=(str(tmp_path), "whole"))
    whole.start()
    whole.join(120)
    assert whole.exitcode == 0
    pace = json.loads((tmp_path / "whole.jsonl").read_text().splitlines()[-1])["seconds"] / STEPS
    draw = random.Random(0)
    steps, at = [], tmp_path / "killed.checkpoint"
    for _ in range(20):
        run = context.Process(target=learn, args=(str(tmp_path), "killed"))
        run.start()
        before = _written(at)
        while run.is_alive() and _written(at) == before:  # it is past its start
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 8 * pace))
        run.kill()
        run.join(60)
        assert run.exitcode == -9, "it was over before it could be killed"
        steps.append(_step(at))
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1] < STEPS
    last = context.Process(target=learn, args=(str(tmp_path), "killed"))
    last.start()
    last.join(120)
    assert last.exitcode == 0
    results = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed")]
    assert same_tensors(*results)
    logs = [_timeless(tmp_path / f"{name}.jsonl") for name in ("whole", "killed")]
    assert logs[0] == logs[1]


def _step(path: Path) -> int:
    """How far a run came; its file is whole at any time."""
    return int(read_checkpoint(path)["step"]) if path.exists() else -1


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else -1


def _timeless(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("seconds", "speed")} for line in lines]
