"""A network conditioned on the scale of its images: one for thumbnails and full size alike.

    python examples/hypernet/scale.py [STEPS]

scikit-learn's digits, enlarged to 24×24, come at 24×24 (scale 1) down to 8×8 (scale 0). The same filters
cannot suit all sizes, so a hypernetwork predicts those of the convolutions from the scale. Beside it, with
the same steps, the same network without a condition; and the network frozen for one scale, converted (n =
2).
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import phnnify

TEST, BATCH, SMALL, LARGE = 360, 64, 8, 24


def network(width: int = 16) -> nn.Sequential:
    """Three convolutions on (batch, 1, side, side) of any side, (batch, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, y) to train with and (x, y) to test with; x (batch, 1, 24, 24) in [0, 1]."""
    data = load_digits()
    small = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    x = F.interpolate(small, size=LARGE, mode="bilinear", antialias=True)
    y = torch.from_numpy(data.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return (x[order[TEST:]], y[order[TEST:]]), (x[order[:TEST]], y[order[:TEST]])


def resized(x: Tensor, scale: float) -> Tensor:
    """The images with sides of 8 pixels (scale 0) to 24 (scale 1)."""
    side = round(SMALL + scale * (LARGE - SMALL))
    return F.interpolate(x, size=side, mode="bilinear", antialias=True)


def hypernetwork(seed: int = 0, **options: Any) -> phnnify.HyperNetwork:
    """The network with convolutions that are predicted from the scale."""
    torch.manual_seed(seed)
    return phnnify.hypernetize(network(), {"scale": 1}, ["0", "2", "4"], seed=seed, **options)


def train(model: nn.Module, steps: int, seed: int = 0) -> nn.Module:
    """Train on a random scale at each step; a hypernetwork is told which."""
    torch.manual_seed(seed)
    (x, y), _ = digits()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        batch, scale = torch.randint(len(y), (BATCH,)), float(torch.rand(()))
        told = {"scale": scale} if isinstance(model, phnnify.HyperNetwork) else {}
        loss = F.cross_entropy(model(resized(x[batch], scale), **told), y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, scale: float) -> float:
    """The share of test images at that scale that are classified as they should be."""
    _, (x, y) = digits()
    with torch.no_grad():
        predicted = model(resized(x, scale)).argmax(1)
    return float((predicted == y).float().mean())


def main() -> None:
    """Print the accuracy at a few scales."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    torch.manual_seed(0)
    plain = train(network(), steps)
    hyper = train(hypernetwork(), steps)
    if not isinstance(hyper, phnnify.HyperNetwork):
        raise TypeError
    print("| side of the images | one network for all | conditioned on the scale | frozen, then n = 2 |")
    print("|---|---|---|---|")
    (x, _), _ = digits()
    for scale in (0.0, 0.25, 0.5, 1.0):
        frozen = hyper.at(scale=scale)
        inputs = [resized(batch, scale) for batch in (x[:128], x[128:256])]
        small = phnnify.convert(frozen, n=2, data=inputs).model
        cells = (f"{accuracy(model, scale):.1%}" for model in (plain, frozen, small))
        print(f"| {inputs[0].shape[-1]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
