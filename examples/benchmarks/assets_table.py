"""Convert the four trained networks of the assets at n = 2, 4, 8, and say what was saved and lost.

    python examples/benchmarks/assets_table.py [FOLDER [NETWORK ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). For each one: the share of
parameters and of the ONNX file's bytes that is kept, the largest difference of ONNX Runtime from PyTorch
relative to the largest output, the largest difference after saving and loading, and, where the data needs no
image decoder, the metric before and after (MNIST: top-1 on all 3,000 test images; text: nats per character on
the first 64 windows of the last tenth). Nothing is distilled, so the metric shows what the fit alone loses.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import use_two_threads
from torch import nn

import phnnify
from phnnify import cli
from phnnify.inputs import random_example, read_inputs
from phnnify.references import build_network
from phnnify.sources import read_any

Metric = Callable[[nn.Module, Path], str]


@dataclass(frozen=True)
class Case:
    """A network of the assets: its function in nets.py, its file, its input, and how good it is."""

    name: str
    file: str
    spec: str
    metric: Metric | None = None


def mnist_accuracy(model: nn.Module, assets: Path) -> str:
    """Top-1 on the MNIST test images."""
    data = np.load(assets / "mnist-test.npz")
    with torch.no_grad():
        predicted = model(torch.from_numpy(data["x"]).float() / 255).argmax(1)
    return f"{(predicted == torch.from_numpy(data['y'])).double().mean():.1%}"


def text_loss(model: nn.Module, assets: Path) -> str:
    """Nats per character on held-out text."""
    text = (assets / "tinyshakespeare.txt").read_text(encoding="utf-8")
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    held_out = torch.tensor([index[character] for character in text[int(0.9 * len(text)) :]])
    windows = held_out[: 64 * 129].view(64, 129)
    with torch.no_grad():
        logits = model(windows[:, :-1])
    return f"{F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()):.2f}"


CASES = (
    Case("resnet20", "resnet20-cifar10", "1x3x32x32"),
    Case("resnet56", "resnet56-cifar10", "1x3x32x32"),
    Case("mnist_mlp_6_200", "mnist_mlp_6_200", "1x1x28x28", mnist_accuracy),
    Case("charlm", "charlm-shakespeare", "int64:1x?128", text_loss),
)


def command(*arguments: object) -> dict[str, Any]:
    """Run the command line and give what it prints with --json."""
    out = io.StringIO()
    own, sys.argv = sys.argv, ["phnnify", *map(str, arguments), "--json"]
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main()
    sys.argv = own
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def reload_difference(model: nn.Module, path: Path, case: Case, arch: str) -> float:
    """The largest difference of outputs between the network in memory and the one read back."""
    example = random_example(read_inputs(case.spec), model, seed=0, batch=2)
    again = phnnify.load(path, model=build_network(arch))
    with torch.no_grad():
        return float((model(*example.args) - again(*example.args)).abs().max())


def rows(case: Case, assets: Path, folder: Path) -> list[list[str]]:
    """One row for each n."""
    original, arch = assets / f"{case.file}.safetensors", f"{assets / 'nets.py'}:{case.name}"
    read = ("--arch", arch, "--input", case.spec)
    dense_onnx = command("export", original, *read, "--onnx", folder / "dense.onnx")["onnx"]["bytes"]
    teacher = read_any(original, arch=arch)
    before = case.metric(teacher, assets) if case.metric else ""
    table = []
    for n in (2, 4, 8):
        out = folder / "out.safetensors"
        report = command("convert", original, *read, "--n", n, "-o", out, "--onnx", folder / "out.onnx")
        student = phnnify.convert(teacher, n, inputs=case.spec).model
        kept = report["params"]["after"] / report["params"]["before"]
        table.append(
            [
                case.name,
                str(n),
                f"{kept:.1%}",
                f"{report['onnx']['bytes'] / dense_onnx:.1%}",
                f"{report['onnx']['max_rel_diff']:.0e}",
                f"{reload_difference(student, out, case, arch):.0e}",
                before,
                case.metric(student, assets) if case.metric else "",
            ]
        )
    return table


def main() -> None:
    """Print the table as Markdown."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    use_two_threads()
    print("| network | n | parameters | ONNX bytes | ONNX diff | reload diff | original | converted |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in [case for case in CASES if case.name in sys.argv[2:] or not sys.argv[2:]]:
            for row in rows(case, assets, Path(folder)):
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
