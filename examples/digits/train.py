"""Train the small network of the README on scikit-learn's digits; write it and some data beside.

    python examples/digits/train.py

Input (batch, 1, 8, 8) in [0, 1], output (batch, 10) logits. The network is made of torch.nn classes only, so
that `phnnify convert examples/digits/model.pt` reads the pickled module without trusting any code in it.
`calibration.npz` holds 512 of the images it was trained on, without labels; `test.npz` those it has never
seen, with labels. Seeded: the same machine writes the same files again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

HERE = Path(__file__).parent
EPOCHS, BATCH, TEST = 30, 64, 360


def network() -> nn.Sequential:
    """Two convolutions and two dense layers, 85,162 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, y) to train with and (x, y) to test with, in a fixed random order."""
    data = load_digits()
    x = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    y = torch.from_numpy(data.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return (x[order[TEST:]], y[order[TEST:]]), (x[order[:TEST]], y[order[:TEST]])


def train(x: Tensor, y: Tensor) -> nn.Sequential:
    """The trained network, in eval mode."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = EPOCHS * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), BATCH):
            loss = F.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Train, test, write."""
    torch.manual_seed(0)
    (x, y), (x_test, y_test) = digits()
    model = train(x, y)
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).double().mean()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {accuracy:.1%} of {TEST} test images")
    model.zero_grad()
    with (HERE / "model.pt").open("wb") as file:  # an open file: a name would get into the bytes
        torch.save(model, file)
    np.savez_compressed(HERE / "calibration.npz", x=x[:512].numpy())
    np.savez_compressed(HERE / "test.npz", x=x_test.numpy(), y=y_test.numpy())


if __name__ == "__main__":
    main()
