"""What a training loop runs on: Hugging Face Accelerate, a device, a precision, a student ready to learn."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from phnnify.errors import UsageError
from phnnify.layers import PHMLayer
from phnnify.measure import copied, evaluation_copy, first_line

_LEAST_BATCH = 16  # samples, for a BatchNorm to learn from
_LEARN_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.RNNBase, PHMLayer)


def make_accelerator(device: str | None) -> Any:
    """Accelerate's view of the processes, and where each computes.

    Raises:
        UsageError: it is not installed, or there is no such device.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise UsageError(
            "distillation runs on Hugging Face Accelerate, which is not installed",
            hint="pip install 'phnnify[distill]'",
        ) from None
    # A network may leave parameters unused; without this several processes would wait for them forever.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        with _wanted_device(device):
            return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[unused])
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--device {device} cannot be used here: {first_line(error)}") from None


@contextmanager
def _wanted_device(device: str | None) -> Iterator[None]:
    """While it lasts, Accelerate takes this device, which is tried first."""
    if device in (None, "cpu"):
        yield
        return
    torch.empty(0, device=device)
    with patch.dict(os.environ, {"ACCELERATE_TORCH_DEVICE": str(device)}):
        yield


def compute_precision(asked: str, device: torch.device) -> torch.dtype | None:
    """The precision for matrix products and convolutions: bfloat16, or None for that of the weights.

    'auto' takes bfloat16 where the device has instructions for it.
    """
    if asked == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else None
    return torch.bfloat16 if asked == "bf16" else None


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def mean_of_processes(accelerator: Any, value: float) -> float:
    """The mean of what each process has."""
    if accelerator.num_processes == 1:
        return value
    mine = torch.tensor(value, dtype=torch.float32, device=accelerator.device)
    return float(accelerator.reduce(mine, "mean"))


def teaching_copy(teacher: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a teacher on a device; where it is there already, it shares all tensors."""
    return evaluation_copy(teacher) if _is_on(teacher, device) else copied(teacher, {}).to(device)


def _is_on(model: nn.Module, device: torch.device) -> bool:
    return all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))


def learning_copy(student: nn.Module, device: torch.device, batch: int) -> nn.Module:
    """A copy of a student, ready to learn: all weights want gradients, dropout is off.

    All modules are in eval mode but for recurrent layers (which need training mode for gradients on a GPU)
    and, where a batch has 16 samples or more, BatchNorms.
    """
    learner = copied(student, {}).to(device).eval()
    for parameter in learner.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for module in learner.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if isinstance(module, _LEARN_IN_TRAINING) and (batch >= _LEAST_BATCH or not is_norm):
            module.training = True
    return learner


@contextmanager
def own_randomness() -> Iterator[None]:
    """Python's and torch's generators are afterwards as they were before."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(state)


def set_randomness(seed: int) -> torch.Generator:
    """Everything random starts from a seed; gives a generator that does too."""
    torch.manual_seed(seed)
    random.seed(seed)
    return torch.Generator().manual_seed(seed)
