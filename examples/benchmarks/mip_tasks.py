"""The tasks of `mip_table.py`, each a network to hypernetize and its loss at a conditioning.

noise: take the noise off scikit-learn's digits, conditioned on its standard deviation (0 to 1).
scale: classify them at many scales; see `examples/hypernet/scale.py`.
bayes: a Bayesian classifier conditioned on the weight of its prior; see `examples/hypernet/bayes.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phnnify

sys.path.insert(0, str(Path(__file__).parents[1] / "hypernet"))
import bayes
import scale


@dataclass(frozen=True)
class Task:
    """A network to hypernetize and its loss.

    Attributes:
        network: Makes it.
        name: Of the conditioning input.
        layers: What is predicted.
        loss: Of a hypernetwork on a batch at a conditioning.
        data: (x, y) to learn from, and (x, y) to measure on.
        probe: The module whose weight (`weight`) and output stand for those of the network.
        weight: The name of that weight.
    """

    network: Callable[[], nn.Module]
    name: str
    layers: tuple[str, ...]
    loss: Callable[[phnnify.HyperNetwork, Tensor, Tensor, float], Tensor]
    data: Callable[[], Any]
    probe: str
    weight: str

    def hypernetwork(self, formulation: str, seed: int, **options: Any) -> phnnify.HyperNetwork:
        """The network with the seed, as a hypernetwork of that formulation."""
        torch.manual_seed(seed)
        return phnnify.hypernetize(
            self.network(), {self.name: 1}, self.layers, formulation=formulation, seed=seed, **options
        )


def _evidence(hyper: phnnify.HyperNetwork, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    return bayes.evidence_loss(hyper(x, lam=gamma), y, gamma, 1437)


def _classes(hyper: phnnify.HyperNetwork, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    return F.cross_entropy(hyper(scale.resized(x, gamma), scale=gamma), y)


def _denoising(hyper: phnnify.HyperNetwork, x: Tensor, y: Tensor, gamma: float) -> Tensor:
    generator = None if hyper.training else torch.Generator().manual_seed(0)
    noisy = x + gamma * torch.randn(x.shape, generator=generator)
    return F.mse_loss(hyper(noisy, noise=gamma), x) / x.var()


def denoiser() -> nn.Sequential:
    """Dense layers; noisy digits (batch, 64) to clean ones."""
    hidden: list[nn.Module] = []
    for columns in (64, 128, 128):
        hidden += [nn.Linear(columns, 128), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(128, 64))


TASKS = {
    "noise": Task(denoiser, "noise", ("*",), _denoising, bayes.digits, "2", "weight"),
    "scale": Task(scale.network, "scale", ("0", "2", "4"), _classes, scale.digits, "4", "weight"),
    "bayes": Task(bayes.BayesianClassifier, "lam", ("*",), _evidence, bayes.digits, "layers.1", "mean"),
}
