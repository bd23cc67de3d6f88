"""The convolutions of a ResNet-50 in factors, in ONNX Runtime and eager PyTorch, side by side, on 2 threads.

    python examples/benchmarks/convolutions_table.py [TERMS [BATCHES [SHAPE ...]]]

Order 4 with TERMS terms (2), which saves arithmetic, at BATCHES (1,32), for each shape alone, or for SHAPE:
channels in, out, kernel, stride and side, such as 64,64,3,1,56. Prints dense time / time in factors, measured
and as `phnnify.cost` predicts it (above 1 the factors are faster).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import use_two_threads
from timing import interleaved
from torch import Tensor, nn

from phnnify import PHMConv2d, export_onnx
from phnnify.algebra import Order
from phnnify.cost import ONNX, PYTORCH, Target, composed, factored, seconds
from phnnify.forms import ExportForm, set_form_
from phnnify.runtime import open_session, prepared

STAGES = ((64, 64, 256, 56), (256, 128, 512, 28), (512, 256, 1024, 14), (1024, 512, 2048, 7))
SECONDS = 4.0  # about so long for each line
SHAPES = [  # channels in, out, kernel, stride, side of the input
    shape
    for _, width, out, side in STAGES
    for shape in ([out, width, 1, 1, side], [width, width, 3, 1, side], [width, out, 1, 1, side])
] + [
    shape
    for before, width, out, side in STAGES[1:]
    for shape in (
        [before, width, 1, 1, 2 * side], [width, width, 3, 2, 2 * side], [before, out, 1, 2, 2 * side]
    )
]  # fmt: skip


def in_onnx(layer: nn.Module, x: Tensor, form: ExportForm) -> Callable[[], Any]:
    """A call of ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = "x".join(map(str, (1, *x.shape[1:])))
        file = export_onnx(nn.Sequential(layer), Path(folder) / "layer.onnx", inputs, form=form)
        return prepared(open_session(Path(file.path), threads=torch.get_num_threads()), [x])


def predicted(layer: PHMConv2d, x: Tensor, stride: int, target: Target) -> float:
    """The cost model's ratio."""
    target = target.convolutions or target
    positions = len(x) * (x.shape[-1] // stride) ** 2
    whole, parts = composed(layer.matrix, stride**2), factored(layer.order, layer.matrix, stride**2)
    before, after = (seconds(steps, positions, target) for steps in (whole, parts))
    return before / after


def numbers(text: str) -> list[int]:
    """Those that commas divide."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Print the table as Markdown."""
    terms, batches, *asked = [*sys.argv[1:], *("2", "1,32")[len(sys.argv) - 1 :]]
    use_two_threads()
    print("| in → out, kernel, stride, side | batch | ONNX Runtime, ms | ratio | predicted |", end="")
    print(" PyTorch, ms | ratio | predicted |\n" + "|---" * 8 + "|")
    for columns, out, kernel, stride, side in [numbers(shape) for shape in asked] or SHAPES:
        torch.manual_seed(0)
        dense = nn.Conv2d(columns, out, kernel, stride, kernel // 2).eval()
        layer = PHMConv2d.from_dense(dense, Order(4, 4, int(terms)))
        set_form_(layer, "factored")
        for batch in numbers(batches):
            x = torch.randn(batch, columns, side, side)
            calls: dict[str, Callable[[], Any]] = {
                "ONNX dense": in_onnx(dense, x, "auto"),
                "ONNX factored": in_onnx(layer, x, "factored"),
                "PyTorch dense": lambda dense=dense, x=x: dense(x),  # type: ignore[misc]
                "PyTorch factored": lambda layer=layer, x=x: layer(x),  # type: ignore[misc]
            }
            with torch.no_grad():
                times = interleaved(calls, SECONDS)
            cells = [f"{columns} → {out}, {kernel}, {stride}, {side}", str(batch)]
            for name, target in (("ONNX", ONNX), ("PyTorch", PYTORCH)):
                ratio = times.ratio(f"{name} dense", f"{name} factored")
                cells += [f"{1e3 * times.of(f'{name} dense'):.2f}", f"{ratio:.2f}"]
                cells += [f"{predicted(layer, x, stride, target):.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
