"""PHMLinear against nn.Linear in eager PyTorch, side by side in one run, on 2 threads.

    python examples/benchmarks/linear_speed.py [--quick]

Prints dense time / PHM time (above 1 the PHM layer is faster), and PHM against a layer that rebuilds its
weight at each call, as published PHM code does (rebuilt time / PHM time). Targets, at 4096 x 4096 and n = 4:
at least 1.5 at batch 1, at least 0.9 at batch 512.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from timing import interleaved, verdict
from torch import nn

from phnnify import PHMLinear, compose

SIZES = ((1024, 4096), (4096, 4096), (4096, 11008))  # in, out
TARGETS = {(4096, 4096, 4, 1): 1.5, (4096, 4096, 4, 512): 0.9}


def measure(size: tuple[int, int], n: int, batch: int) -> tuple[float, float, float]:
    """Milliseconds of the dense layer, dense / PHM, and rebuilt / PHM."""
    dense = nn.Linear(*size).eval()
    phm = PHMLinear(*size, n=n).eval()
    x = torch.randn(batch, size[0])
    with torch.no_grad():
        times = interleaved(
            {
                "dense": lambda: dense(x),
                "phm": lambda: phm(x),
                "rebuilt": lambda: F.linear(x, compose(phm.A, phm.S), phm.bias),
            },
            rounds=max(7, min(40, 2000 // batch)),
        )
    return 1e3 * times["dense"], times["dense"] / times["phm"], times["rebuilt"] / times["phm"]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    quick = "--quick" in sys.argv
    print("| in × out | n | batch | dense ms | dense / PHM | rebuilt / PHM | target |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        for n in (2, 4, 8):
            for batch in (1, 8, 64, 512):
                target = TARGETS.get((*size, n, batch))
                if quick and target is None:
                    continue
                milliseconds, ratio, rebuilt = measure(size, n, batch)
                judged = f"{target}: {verdict(ratio >= target)}" if target else ""
                row = (
                    f"{size[0]}×{size[1]} | {n} | {batch} | {milliseconds:.2f} | {ratio:.2f} | {rebuilt:.1f}"
                )
                print(f"| {row} | {judged} |", flush=True)


if __name__ == "__main__":
    main()
