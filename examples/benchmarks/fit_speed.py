"""How long the closed-form fit takes, and how much memory, on 2 threads.

    python examples/benchmarks/fit_speed.py [--quick]

Targets: all weights of a network of 60 million parameters in ResNet-152's shapes in under 10 s; one
8192 x 8192 weight at n = 4 in under 2 s, with at most twice its size in extra memory; time linear in the
parameters.
"""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from timing import verdict

from phnnify import Order, factorize


def resnet152_shapes() -> list[tuple[int, ...]]:
    """The weights of ResNet-152 (He et al. 2015, table 1): bottleneck blocks of 3, 8, 36 and 3."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    width_in = 64
    for stage, blocks in enumerate((3, 8, 36, 3)):
        width = 64 << stage
        for block in range(blocks):
            shapes += [(width, width_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, width_in, 1, 1))
            width_in = 4 * width
    return [*shapes, (1000, 2048)]


def fit_seconds(weights: list[torch.Tensor], n: int, repeats: int) -> float:
    """The median time to factorize them all."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for weight in weights:
            factorize(weight, Order.closest(weight.shape[0], weight.shape[1], n))
        times.append(time.perf_counter() - start)
    return median(times)


def extra_memory() -> float:
    """Growth of the process's peak while one 8192 x 8192 weight is fitted, in multiples of the weight."""
    torch.set_num_threads(2)
    factorize(torch.randn(64, 64), Order(4, 4, 4))  # loads the libraries
    weight = torch.randn(8192, 8192)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    factors = factorize(weight, Order(4, 4, 4))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return 1024 * grown / (weight.numel() * 4) if factors.S.numel() else math.nan


def main() -> None:
    """Print the three tables."""
    # First, while this process is small: a child's peak starts at its parent's.
    script = "import fit_speed; print(fit_speed.extra_memory())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=sys.path[0], capture_output=True, text=True, check=True
    )
    memory = float(done.stdout)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    repeats = 1 if "--quick" in sys.argv else 3
    shapes = resnet152_shapes()
    weights = [torch.randn(shape) for shape in shapes]
    count = sum(weight.numel() for weight in weights)
    print(f"ResNet-152's shapes: {len(shapes)} weights, {count / 1e6:.1f} million parameters")
    for n in (2, 4, 8):
        seconds = fit_seconds(weights, n, repeats)
        print(f"  n = {n}: {seconds:.2f} s (target 10: {verdict(seconds < 10)})")
    del weights
    seconds = fit_seconds([torch.randn(8192, 8192)], 4, repeats)
    print("one 8192×8192 weight, n = 4")
    print(f"  {seconds:.2f} s (target 2: {verdict(seconds < 2)})")
    print(f"  {memory:.2f} times its size in extra memory (target 2: {verdict(memory <= 2)})")
    print("time against parameters, square weights, n = 4")
    for side in (1024, 2048, 4096, 8192):
        seconds = fit_seconds([torch.randn(side, side)], 4, repeats + 2)
        print(f"  {side:>5}: {1e3 * seconds:8.1f} ms, {1e9 * seconds / side**2:.2f} ns per parameter")


if __name__ == "__main__":
    main()
