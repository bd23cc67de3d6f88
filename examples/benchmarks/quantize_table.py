"""How int8 and fp16 multiply with n: sizes of ONNX files, and the accuracy of ONNX Runtime with them.

    python examples/benchmarks/quantize_table.py [FOLDER [NETWORK ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). Converted with 512 inputs of the
training data; `distilled`: for the steps of `distill_table.py`; `int8, calibrated` takes its ranges on these
inputs, `int8` finds them at each call (and computes convolutions in float32). Top-1 on all test images, for
the text on the last tenth in windows of 129 characters. Finished cells are kept in
results/quantize_table.jsonl, so that it resumes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from distill_table import STEPS, batch_size, material
from fit_table import CASES, data_of, load
from results import kept_in
from torch import nn

import phnnify
from phnnify.batches import Batch, input_specs
from phnnify.evaluate import evaluate
from phnnify.runtime import OnnxNetwork

KINDS = ("fp32", "fp16", "int8", "int8, calibrated")
THREADS = 1
WEIGHTS = ("dense", "n = 2", "n = 4", "n = 4, distilled")


def network_with(weights: str, name: str, train: list[Batch], assets: Path) -> nn.Module:
    """One of the assets, as it is or converted."""
    model = load(name, assets)
    if weights == "dense":
        return model
    student = phnnify.convert(model, int(weights[4]), data=train).model
    if not weights.endswith("distilled"):
        return student
    recipe = phnnify.Recipe(steps=STEPS[name], batch=batch_size(name), device="cpu")
    return phnnify.distill(model, student, material(name, assets), recipe).model


def measure(
    model: nn.Module, kind: str, train: list[Batch], test: list[Batch], folder: Path
) -> tuple[int, float]:
    """The bytes of the network's file in such numbers, and its top-1 in ONNX Runtime."""
    path, specs = folder / "network.onnx", input_specs(train)
    if kind == "fp32":
        size = phnnify.export_onnx(model, path, specs).bytes
    else:
        calibration = train if kind.endswith("calibrated") else ()
        few = [test[0].head(8)]  # all of them are looked at below
        size = phnnify.export_quantized(
            model, path, specs, kind.split(",")[0], calibration=calibration, data=few
        ).bytes
    network = OnnxNetwork(path, threads=THREADS)
    accuracy = evaluate(network, network, test).accuracy
    assert accuracy is not None
    return size, accuracy.student


def main() -> None:
    """Print the table as Markdown, one row a file."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    torch.set_num_threads(THREADS)
    kept = kept_in("quantize_table.jsonl")
    rows: list[list[Any]] = (
        [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    )
    done = {tuple(row[:3]): row for row in rows}
    print("| network | weights | numbers | bytes | times smaller | top-1 |\n|---|---|---|---|---|---|")
    for name in sys.argv[2:] or ("mnist_mlp_6_200", "resnet20", "charlm"):
        train, test = data_of(CASES[name], assets)
        for weights in WEIGHTS:
            model: nn.Module | None = None
            for kind in KINDS:
                row = done.get((name, weights, kind))
                if row is None:
                    model = model or network_with(weights, name, train, assets)
                    with tempfile.TemporaryDirectory() as folder:
                        size, top1 = measure(model, kind, train, test, Path(folder))
                    row = [name, weights, kind, size, top1]
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                done[name, weights, kind] = row
                ratio = done[name, "dense", "fp32"][3] / row[3]
                print(
                    f"| {name} | {weights} | {kind} | {row[3]:,} | {ratio:.1f} | {row[4]:.1%} |", flush=True
                )


if __name__ == "__main__":
    main()
