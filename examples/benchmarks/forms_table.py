"""Dense layers against their converted twins, in ONNX Runtime and eager PyTorch, side by side, on 2 threads.

    python examples/benchmarks/forms_table.py [IN OUT N BATCH]

As in a network, several layers of one size run one after another, on the same input: so many that no cache
holds the dense weights. A layer alone would keep its weights in the cache from call to call, and its time
would be that of waking the threads.

Prints dense time / time of each form, measured and as `phnnify.cost` predicts it (above 1 it is faster).
`auto` is the form that the cost model takes for that batch. For batch 1 also against layers that rebuild
their weight at each call, as published PHM code does (rebuilt time / time of `auto`).

Targets: at batch 1, at least 0.8·n in ONNX Runtime, 0.6·n in PyTorch, and 20 times faster than rebuilding; at
every batch at least 0.95. Finished cells are kept in results/forms_table.jsonl. With a cell as arguments,
that alone is measured, and not kept.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import kept_in, use_two_threads
from timing import interleaved, verdict
from torch import Tensor, nn

from phnnify import PHMLinear, export_onnx
from phnnify.cost import ONNX, PYTORCH, Target, composed, factored, seconds
from phnnify.forms import set_form_
from phnnify.runtime import open_session, prepared

SIZES = ((1024, 4096), (4096, 4096), (4096, 11008))  # in, out
CELLS = [(*size, n, batch) for size in SIZES for n in (2, 4, 8) for batch in (1, 8, 64, 256)]
LEAST = {"ONNX Runtime": 0.8, "PyTorch": 0.6}
SECONDS = 4.0  # about so long for a cell and engine
TOGETHER, MOST = 192 << 20, 16  # bytes that the dense weights of the layers of one size exceed; layers
Cell = tuple[int, ...]  # in, out, n, batch
Call = Callable[[Tensor], Any]


class Layers(nn.Module):
    """Layers of one size, on the same input."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """What each of them gives."""
        return [layer(x) for layer in self.layers]


@cache
def layers(columns: int, out: int, n: int, form: Any = "auto") -> Any:
    """Dense layers (n = 1) or converted ones."""
    torch.manual_seed(0)
    found = [
        nn.Linear(columns, out) if n == 1 else PHMLinear(columns, out, n=n)
        for _ in range(min(MOST, math.ceil(TOGETHER / (4 * columns * out))))
    ]
    return set_form_(Layers([*found]).eval(), form)


@cache
def session(columns: int, out: int, n: int, form: Any) -> Any:
    """ONNX Runtime's, of those layers."""
    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(layers(columns, out, n), Path(folder) / "layers.onnx", f"1x{columns}", form=form)
        return open_session(Path(file.path), threads=torch.get_num_threads())


def in_onnx(cell: Cell) -> dict[str, Callable[[], Any]]:
    """What is timed in ONNX Runtime."""
    columns, out, n, batch = cell
    x = [torch.randn(batch, columns)]
    forms = {"factored": (n, "factored"), "folded": (n, "folded"), "dense": (1, "auto")}
    return {name: prepared(session(columns, out, *way), x) for name, way in forms.items()}


def in_pytorch(cell: Cell) -> dict[str, Callable[[], Any]]:
    """What is timed in eager PyTorch."""
    columns, out, n, batch = cell
    x, dense = torch.randn(batch, columns), layers(columns, out, 1)
    factored, kept = layers(columns, out, n, "factored"), layers(columns, out, n, "folded")
    calls = {"factored": lambda: factored(x), "folded": lambda: kept(x), "dense": lambda: dense(x)}
    if batch == 1:
        calls["rebuilt"] = lambda: [F.linear(x, rebuilt(f.A, f.S), f.bias) for f in factored.layers]
    return calls


def rebuilt(A: Tensor, S: Tensor) -> Tensor:
    """Σ_r A_r ⊗ S_r as the papers' code has it: all Kronecker products, then their sum."""
    products = A[:, :, None, :, None] * S[:, None, :, None, :]
    return products.flatten(3).flatten(1, 2).sum(0)


def measured(cell: Cell) -> Iterator[dict[str, Any]]:
    """A row for each target: milliseconds of a dense layer, and ratios."""
    columns, out, n, batch = cell
    ways: tuple[tuple[str, Target, dict[str, Callable[[], Any]]], ...] = (
        ("ONNX Runtime", ONNX, in_onnx(cell)),
        ("PyTorch", PYTORCH, in_pytorch(cell)),
    )
    for name, target, calls in ways:
        with torch.no_grad():
            times = interleaved(calls, SECONDS)
        one, matrix = layers(columns, out, n).layers[0], (out, columns)
        whole = seconds(composed(matrix), batch, target)
        yield {
            "cell": [*cell, name],
            "dense": 1e3 * times.of("dense") / len(layers(columns, out, 1).layers),
            "ratios": {form: times.ratio("dense", form) for form in ("factored", "folded")},
            "predicted": whole / seconds(factored(one.order, matrix), batch, target),
            "auto": one.fastest_form(torch.empty(batch, columns), target),
            "rebuilt": times.ratio("rebuilt", "dense") if "rebuilt" in calls else None,
        }


def show(row: dict[str, Any]) -> None:
    """A line of the table."""
    columns, out, n, batch, name = row["cell"]
    ratio = row["ratios"][row["auto"]]
    least = LEAST[name] * n if batch == 1 else 0.95
    rebuilt = f"{row['rebuilt'] * ratio:.0f}" if row["rebuilt"] else ""
    cells = [
        f"{columns}×{out}", n, batch, name, f"{row['dense']:.2f}", row["auto"], f"{ratio:.2f}",
        f"{least:.2f}: {verdict(ratio >= least)}", f"{row['ratios']['factored']:.2f}",
        f"{row['predicted']:.2f}", f"{row['ratios']['folded']:.2f}", rebuilt,
    ]  # fmt: skip
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    use_two_threads()
    asked = tuple(map(int, sys.argv[1:]))
    kept = kept_in("forms_table.jsonl")
    rows = [] if asked or not kept.exists() else [json.loads(x) for x in kept.read_text().splitlines()]
    done = {tuple(row["cell"][:4]) for row in rows}
    print(
        "| in × out | n | batch | in | dense ms | auto | dense / auto | at least | factored | predicted |",
        end="",
    )
    print(" folded | rebuilt / auto |\n|" + "---|" * 12)
    for row in rows:
        show(row)
    for cell in [asked] if asked else [cell for cell in CELLS if cell not in done]:
        found = list(measured(cell))
        for row in found:
            show(row)
        if not asked:
            with kept.open("a") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in found)
        if cell[2:] == CELLS[-1][2:]:  # the last of its size
            layers.cache_clear()
            session.cache_clear()


if __name__ == "__main__":
    main()
