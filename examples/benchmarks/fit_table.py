"""What a fit to 512 inputs is worth: closed form against data, one-shot, on the networks of the assets.

    python examples/benchmarks/fit_table.py [FOLDER [NETWORK ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). 512 inputs of the training data
without labels; the metric is top-1 on 3,000 test images, for the text on the last tenth in windows of 129
characters. Nothing is distilled. Also the seconds that the conversion with data takes on 2 threads.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

import phnnify
from phnnify.batches import Batch
from phnnify.data import DataOptions, read_data
from phnnify.store import read_network

IMAGES = DataOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """A network, its file, and the data it was trained and tested on."""

    file: str
    train: str
    test: str
    options: DataOptions = field(default_factory=DataOptions)


CASES = {
    "resnet20": Case("resnet20-cifar10", "cifar10-jpeg-train.zip", "cifar10-jpeg-test.zip", IMAGES),
    "resnet56": Case("resnet56-cifar10", "cifar10-jpeg-train.zip", "cifar10-jpeg-test.zip", IMAGES),
    "mnist_mlp_6_200": Case("mnist_mlp_6_200", "mnist-train.npz", "mnist-test.npz"),
    "charlm": Case("charlm-shakespeare", "tinyshakespeare.txt", "tinyshakespeare.txt"),
}


def text_windows(path: Path, *, test: bool) -> list[Batch]:
    """Windows of 129 characters: all of the last tenth, or 512 drawn from the rest."""
    text = path.read_text(encoding="utf-8")
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([index[character] for character in text])
    border = int(0.9 * len(tokens))
    if test:
        windows = tokens[border : border + (len(tokens) - border) // 129 * 129].view(-1, 129)
    else:
        starts = torch.randint(0, border - 129, (512,), generator=torch.Generator().manual_seed(0))
        windows = torch.stack([tokens[start : start + 129] for start in starts.tolist()])
    return [Batch((part[:, :-1],), targets=part[:, 1:]) for part in torch.split(windows, 64)]


def data_of(case: Case, assets: Path) -> tuple[list[Batch], list[Batch]]:
    """512 inputs to fit to, and those to test on."""
    if case.train.endswith(".txt"):
        return text_windows(assets / case.train, test=False), text_windows(assets / case.test, test=True)
    train = read_data(str(assets / case.train), case.options, samples=512)
    return list(train), list(read_data(str(assets / case.test), case.options, samples=3000))


def top1(model: nn.Module, test: list[Batch]) -> str:
    """The part of right answers."""
    right = total = 0
    with torch.no_grad():
        for batch in test:
            if batch.targets is not None:
                right += int((model.eval()(*batch.args).argmax(-1) == batch.targets).sum())
                total += batch.targets.numel()
    return f"{right / total:.1%}"


def main() -> None:
    """Print the table as Markdown."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    torch.set_num_threads(2)
    print("| network | n | original | closed form | 512 inputs | seconds |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[2:] or CASES:
        case = CASES[name]
        path = assets / f"{case.file}.safetensors"
        model = read_network(path, arch=f"{assets / 'nets.py'}:{name}").model.eval()
        train, test = data_of(case, assets)
        before = top1(model, test)
        for n in (2, 4, 8):
            closed = top1(phnnify.convert(model, n).model, test)
            start = time.perf_counter()
            student = phnnify.convert(model, n, data=train).model
            seconds = time.perf_counter() - start
            row = f"{before} | {closed} | {top1(student, test)} | {seconds:.0f}"
            print(f"| {name} | {n} | {row} |", flush=True)


if __name__ == "__main__":
    main()
