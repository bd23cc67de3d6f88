"""What a training loop runs on."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from torch import nn

import phnnify
from phnnify.distilling.engine import (
    compute_precision,
    learning_copy,
    make_accelerator,
    mean_of_processes,
    own_randomness,
    set_randomness,
    teaching_copy,
)
from phnnify.errors import UsageError
from phnnify.layers import PHMLayer
from tests.networks import small

CPU = torch.device("cpu")


def test_without_accelerate_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match="Accelerate, which is not installed") as refused:
        make_accelerator(None)
    assert refused.value.hint == "pip install 'phnnify[distill]'"


def test_one_process_on_the_cpu() -> None:
    accelerator = make_accelerator("cpu")
    assert accelerator.device == CPU
    assert (accelerator.num_processes, accelerator.is_main_process) == (1, True)


class Two:
    """Two processes, of which the other one has nothing."""

    num_processes, device = 2, CPU

    def reduce(self, mine: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "mean"
        return mine / 2


def test_a_mean_is_that_of_all_processes() -> None:
    assert mean_of_processes(make_accelerator("cpu"), 3.0) == 3
    assert mean_of_processes(Two(), 3.0) == 1.5


def test_a_teacher_that_is_where_it_should_be_shares_its_tensors() -> None:
    teacher = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    there = teaching_copy(teacher, CPU)
    assert not there.training
    assert there[0].weight is teacher[0].weight  # type: ignore[index]
    assert {p.device.type for p in teaching_copy(teacher, torch.device("meta")).parameters()} == {"meta"}
    assert teacher.training


def test_precision_is_what_was_asked_for() -> None:
    assert compute_precision("fp32", CPU) is None
    assert compute_precision("bf16", CPU) is torch.bfloat16
    assert compute_precision("auto", CPU) in (None, torch.bfloat16)
    assert compute_precision("auto", torch.device("meta")) is None


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.cell = nn.BatchNorm1d(4), nn.Dropout(), nn.LSTM(4, 4)
        self.layer = phnnify.PHMLinear(4, 4, n=2)
        self.layer.A.requires_grad_(False)


def test_what_learns_learns_and_what_drops_does_not() -> None:
    parts = Parts().train()
    learner = learning_copy(parts, CPU, 16)
    modes = {name: module.training for name, module in learner.named_children()}
    assert modes == {"norm": True, "drop": False, "cell": True, "layer": True}
    assert all(p.requires_grad for p in learner.parameters())
    assert not parts.layer.A.requires_grad
    assert parts.drop.training
    assert not learning_copy(parts, CPU, 15).get_submodule("norm").training


def test_the_copy_shares_nothing() -> None:
    student = phnnify.convert(small(), 4, min_share=0).model
    learner = learning_copy(student, CPU, 32)
    addresses = [{t.data_ptr() for t in model.state_dict().values()} for model in (student, learner)]
    assert not addresses[0] & addresses[1]
    assert any(isinstance(module, PHMLayer) for module in learner.modules())


def test_randomness_is_handed_back_also_after_a_failure() -> None:
    torch.manual_seed(1)
    random.seed(1)
    wanted = torch.rand(2), random.random()
    torch.manual_seed(1)
    random.seed(1)
    with pytest.raises(ZeroDivisionError), own_randomness():
        raise ZeroDivisionError(set_randomness(99))
    assert torch.equal(torch.rand(2), wanted[0])
    assert random.random() == wanted[1]


def test_a_seed_sets_everything() -> None:
    drawn = []
    for seed in (3, 3, 4):
        with own_randomness():
            generator = set_randomness(seed)
            drawn.append((torch.rand(1).item(), random.random(), torch.rand(1, generator=generator).item()))
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
