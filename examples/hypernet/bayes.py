"""A Bayesian network conditioned on the weight of its prior: one training, every trade-off.

    python examples/hypernet/bayes.py [STEPS]

Each weight of a small classifier of scikit-learn's digits is a normal distribution, N(μ, σ²), from which
every call draws. The loss is the negative evidence bound, with a weight λ in [0, 1] on the prior N(0, 1/10):

    L(λ) = cross entropy + λ · KL(N(μ, σ²) ‖ prior) / (number of training samples)

Usually each λ is a training of its own. Here a hypernetwork learns μ(λ) and σ(λ) for all of them, from a
random λ at each step, and is then frozen where one likes: small λ fit better, large λ stay nearer to the
prior.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import phnnify

PRIOR = 1 / math.sqrt(10)  # standard deviation of the prior
LEAST = 1e-4  # of a standard deviation
TEST, BATCH = 360, 128


class BayesianLinear(nn.Module):
    """y = x Wᵀ + b with W ~ N(μ, σ²), σ = softplus(ρ) + LEAST: drawn while it is trained, else μ."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(rows, columns) * math.sqrt(2 / columns))
        self.rho = nn.Parameter(torch.full((rows, columns), -4.0))
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (batch, columns) to (batch, rows), with KL(N(μ, σ²) ‖ prior) in nats beside it."""
        std = F.softplus(self.rho) + LEAST
        ratio = (std / PRIOR).square()
        divergence = (ratio + (self.mean / PRIOR).square() - 1 - ratio.log()).sum() / 2
        y = F.linear(x, self.mean, self.bias)
        if self.training:  # the local reparametrisation: what sums of normal weights are
            y = y + F.linear(x.square(), std.square()).clamp(min=LEAST**2).sqrt() * torch.randn_like(y)
        return y, divergence


class BayesianClassifier(nn.Module):
    """Three Bayesian layers; input (batch, 64), output (batch, 10) logits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        sizes = (64, width, width, 10)
        self.layers = nn.ModuleList(BayesianLinear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of x (batch, 64), and the divergence of all weights from the prior."""
        total = torch.zeros(())
        for i, layer in enumerate(self.layers):
            x, divergence = layer(F.relu(x) if i else x)
            total = total + divergence
        return x, total


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, y) to train with and (x, y) to test with; x (batch, 64) in [0, 1]."""
    data = load_digits()
    x, y = torch.from_numpy(data.data).float() / 16, torch.from_numpy(data.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return (x[order[TEST:]], y[order[TEST:]]), (x[order[:TEST]], y[order[:TEST]])


def evidence_loss(answer: tuple[Tensor, Tensor], y: Tensor, weight: Tensor | float, samples: int) -> Tensor:
    """L(λ) of the module's text."""
    logits, divergence = answer
    return F.cross_entropy(logits, y) + weight * divergence / samples


def train(steps: int, seed: int = 0) -> phnnify.HyperNetwork:
    """A hypernetwork of the Bayesian classifier, for every weight of the prior."""
    torch.manual_seed(seed)
    (x, y), _ = digits()
    hyper = phnnify.hypernetize(BayesianClassifier(), {"lam": 1}, seed=seed)
    optimizer = torch.optim.Adam(hyper.parameters(), 2e-3)
    for _ in range(steps):
        batch, lam = torch.randint(len(y), (BATCH,)), torch.rand(())
        loss = evidence_loss(hyper(x[batch], lam=lam), y[batch], lam, len(y))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return hyper.eval()


def main() -> None:
    """Print what a few weights of the prior lead to."""
    hyper = train(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
    (train_x, train_y), (x, y) = digits()
    print("| weight of the prior | KL from it, nats | training loss | test accuracy |")
    print("|---|---|---|---|")
    for lam in (0.0, 0.1, 0.5, 1.0):
        network = hyper.at(lam=lam)  # an ordinary BayesianClassifier
        with torch.no_grad():
            logits, divergence = network(x)
            fitted = F.cross_entropy(network(train_x)[0], train_y)
        accuracy = (logits.argmax(1) == y).float().mean()
        print(f"| {lam} | {divergence:,.0f} | {fitted:.4f} | {accuracy:.1%} |")


if __name__ == "__main__":
    main()
