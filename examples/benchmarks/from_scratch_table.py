"""The papers' claim, PHM networks with 1/n of the parameters are as good as real ones, trained from scratch.

    python examples/benchmarks/from_scratch_table.py [FOLDER [STEPS [VARIANT ...]]]

FOLDER holds the CIFAR-10 JPEGs (by default ../shared/assets beside the checkout). One small ResNet (three
stages of one block; 24, 48 and 96 channels, which 2, 3 and 4 divide) is drawn anew by `--init fresh` as each
variant and seed, and trained for STEPS steps of 64 images, all with the same images in the same order, AdamW
at 3e-3 with a cosine, and flips. 10,000 training images, drawn once; the metric is top-1 of the last state on
2,000 test images, nothing chosen on them. A row shows the mean over the seeds and their standard deviation.
Finished runs are kept in results/from_scratch_table.jsonl, so that it resumes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import kept_in, use_two_threads
from torch import Tensor, nn

import phnnify
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.measure import parameter_count

VARIANTS: dict[str, dict[str, Any]] = {
    "real": {"algebra": "real"},
    "quaternion": {"algebra": "quaternion"},
    "PHM, n = 2": {"n": 2},
    "PHM, n = 3": {"n": 3},
    "PHM, n = 4": {"n": 4},
}
SEEDS = (0, 1, 2)
BATCH, RATE = 64, 3e-3
TRAINING, TEST = 10_000, 2_000  # images
OPTIONS = DataOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Block(nn.Module):
    """Two convolutions around a residual connection."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        same = stride == 1 and before == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, channels, height/stride, width/stride)."""
        y = self.norms[0](self.first(x)).relu()
        out: Tensor = (self.norms[1](self.second(y)) + self.shortcut(x)).relu()
        return out


class SmallResNet(nn.Module):
    """A stem that halves the image, three stages of one block, and a head."""

    def __init__(self, channels: tuple[int, int, int] = (24, 48, 96)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels[0], 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        befores = (channels[0], *channels)
        self.stages = nn.Sequential(*(Block(befores[i], channels[i], 1 if i == 0 else 2) for i in range(3)))
        self.head = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, 3, 32, 32) to logits (batch, 10)."""
        out: Tensor = self.head(self.stages(self.norm(self.stem(x)).relu()).mean((2, 3)))
        return out


def images(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """So many images, drawn with a fixed seed, and their classes."""
    batches = list(read_data(str(path), OPTIONS, samples=count, seed=0))
    classes = torch.cat([batch.targets for batch in batches if batch.targets is not None])
    return torch.cat([batch.args[0] for batch in batches]), classes


def trained(variant: str, seed: int, steps: int, x: Tensor, y: Tensor) -> nn.Module:
    """The variant after its training."""
    model = phnnify.convert(SmallResNet(), init="fresh", seed=seed, **VARIANTS[variant]).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(rows) < BATCH:
            rows = torch.randperm(len(x), generator=draw)
        chosen, rows = rows[:BATCH], rows[BATCH:]
        flipped = torch.rand(BATCH, 1, 1, 1, generator=draw) < 0.5
        batch = torch.where(flipped, x[chosen].flip(3), x[chosen])
        optimizer.zero_grad()
        F.cross_entropy(model(batch), y[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Top-1."""
    with torch.no_grad():
        return float(
            (torch.cat([model(part) for part in torch.split(x, 500)]).argmax(1) == y).double().mean()
        )


def main() -> None:
    """Print the table as Markdown, one row a variant."""
    default = Path(__file__).parents[3] / "shared" / "assets"
    assets = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    use_two_threads()
    kept = kept_in("from_scratch_table.jsonl")
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {tuple(row[:3]): row for row in map(json.loads, lines)}
    data: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    print("| network | parameters | top-1, mean ± spread | each seed | seconds |\n|---|---|---|---|---|")
    for variant in sys.argv[3:] or VARIANTS:
        rows = []
        for seed in SEEDS:
            key = (variant, seed, steps)
            if key not in done:
                data = data or (
                    *images(assets / "cifar10-jpeg-train.zip", TRAINING),
                    *images(assets / "cifar10-jpeg-test.zip", TEST),
                )
                start = time.perf_counter()
                model = trained(variant, seed, steps, *data[:2])
                seconds = time.perf_counter() - start
                done[key] = [*key, parameter_count(model), accuracy(model, *data[2:]), seconds]
                with kept.open("a") as file:
                    file.write(json.dumps(done[key]) + "\n")
            rows.append(done[key])
        top1 = [row[4] for row in rows]
        print(
            f"| {variant} | {rows[0][3]:,} | {statistics.mean(top1):.1%} ± {statistics.stdev(top1):.1%} | "
            f"{', '.join(f'{x:.1%}' for x in top1)} | {statistics.mean(row[5] for row in rows):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
