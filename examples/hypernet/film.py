"""FiLM: a pretrained network for several tasks, of which only scales and shifts are predicted.

    python examples/hypernet/film.py [STEPS]

The network was trained to read scikit-learn's digits. It is to read them also when they are turned, by an
angle from 0° to 90° that is given along. Its weights stay as they are; a hypernetwork predicts the scale and
shift of its norms from the angle (feature-wise linear modulation, arXiv 1709.07871): a per cent of its
parameters. Each sample of a batch has an angle of its own.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import phnnify

TEST, BATCH = 360, 64


def network(width: int = 32) -> nn.Sequential:
    """Convolutions and group norms on (batch, 1, 8, 8), (batch, 10) logits."""
    layers: list[nn.Module] = []
    for columns in (1, width, width):
        layers += [nn.Conv2d(columns, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, 10))


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, y) to train with and (x, y) to test with; x (batch, 1, 8, 8) in [0, 1]."""
    data = load_digits()
    x, y = torch.from_numpy(data.images).float().unsqueeze(1) / 16, torch.from_numpy(data.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return (x[order[TEST:]], y[order[TEST:]]), (x[order[:TEST]], y[order[:TEST]])


def turned(x: Tensor, share: Tensor) -> Tensor:
    """Each image (batch, 1, 8, 8) turned by its share (batch,) of 90°."""
    angle = share * (torch.pi / 2)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrices = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    return F.grid_sample(x, F.affine_grid(matrices, list(x.shape), align_corners=False), align_corners=False)


def train(model: nn.Module, steps: int, *, turn: bool, seed: int = 0) -> None:
    """Train what learns in the model; with a turn of its own for each sample, which it is told."""
    torch.manual_seed(seed)
    (x, y), _ = digits()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    for _ in range(steps):
        batch = torch.randint(len(y), (BATCH,))
        share = torch.rand(BATCH)
        answer = model(turned(x[batch], share), angle=share) if turn else model(x[batch])
        loss = F.cross_entropy(answer, y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def main() -> None:
    """Print the accuracy at a few angles."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    torch.manual_seed(0)
    plain = network()
    train(plain, steps, turn=False)
    hyper = phnnify.hypernetize(plain, {"angle": 1}, ["1", "4", "7"])  # the norms
    hyper.network.requires_grad_(False)
    train(hyper, steps, turn=True)
    predicted = hyper.predictor.output.out_features
    total = sum(p.numel() for p in plain.parameters())
    print(f"{predicted} of {total} parameters are predicted ({predicted / total:.1%})\n")
    print("| turned by | the original | with FiLM |\n|---|---|---|")
    _, (x, y) = digits()
    for share in (0.0, 0.33, 0.67, 1.0):
        with torch.no_grad():
            images = turned(x, torch.full((len(x),), share))
            answers = [plain(images), hyper(images, angle=share)]
        cells = (f"{float((answer.argmax(1) == y).float().mean()):.1%}" for answer in answers)
        print(f"| {share * 90:.0f}° | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
