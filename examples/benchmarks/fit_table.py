"""What a fit to 512 inputs is worth: closed form against data, one-shot, on the networks of the assets.

    python examples/benchmarks/fit_table.py [FOLDER [NETWORK ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). 512 inputs of the training data
without labels; the metric is top-1 on the whole test set, for the text on the last tenth in windows of 129
characters. Nothing is distilled. Also the seconds that the conversion with data takes on 2 threads.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

import phnnify
from phnnify.batches import Batch
from phnnify.data import Data, DataOptions, read_data
from phnnify.evaluate import evaluate
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


def data_of(case: Case, assets: Path) -> tuple[Data | list[Batch], Data | list[Batch]]:
    """512 inputs to fit to, and everything to test on."""
    if case.train.endswith(".txt"):
        return text_windows(assets / case.train, test=False), text_windows(assets / case.test, test=True)
    train = read_data(str(assets / case.train), case.options, samples=512)
    return train, read_data(str(assets / case.test), case.options)


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
        for n in (2, 4, 8):
            closed = evaluate(model, phnnify.convert(model, n).model, test).accuracy
            start = time.perf_counter()
            student = phnnify.convert(model, n, data=train).model
            seconds = time.perf_counter() - start
            fitted = evaluate(model, student, test).accuracy
            if closed and fitted:
                row = f"{fitted.teacher:.1%} | {closed.student:.1%} | {fitted.student:.1%} | {seconds:.0f}"
                print(f"| {name} | {n} | {row} |", flush=True)


if __name__ == "__main__":
    main()
