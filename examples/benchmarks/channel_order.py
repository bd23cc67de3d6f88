"""Whether the order of channels matters: how much less a form loses after its channels were permuted for it.

    python examples/benchmarks/channel_order.py [NETWORK [N [SWAPS]]]

NETWORK is one of the assets (../shared/assets beside the checkout), resnet20 by default. A Kronecker sum
divides rows and columns of a weight into blocks of neighbours, so their order could matter. For the form that
each weight gets at order N (4), pairs of output channels and of input channels are swapped at random and kept
where the part of R(W* · diag(C)^½) beyond the terms gets smaller (hill climbing, SWAPS tries, 2000). Each
weight has its own permutations, more than a network could have without cost. Then the form is fitted anew.
`loss` is the relative squared error of the layer's outputs on 512 inputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fit_table import CASES, data_of, load
from torch import Tensor

import phnnify
from phnnify.algebra import Order, rearrange
from phnnify.alternate import Problem, nearest
from phnnify.search import Form, Search
from phnnify.survey import survey


def tail(W: Tensor, order: Order) -> float:
    """What a Kronecker sum of that many terms leaves of a weight (out, in, *kernel), squared."""
    R = rearrange(W, order.n_out, order.n_in)
    gram = R @ R.t() if len(R) <= R.shape[1] else R.t() @ R
    return float(torch.linalg.eigvalsh(gram)[: len(gram) - order.terms].sum())


def permuted(problem: Problem, order: Order, swaps: int) -> Problem:
    """The problem with rows and columns in the best order that was found."""
    generator = torch.Generator().manual_seed(0)
    W = (problem.best * problem.spread).view(problem.shape)
    places = [torch.arange(side) for side in W.shape[:2]]
    best = tail(W, order)
    for i in range(swaps):
        axis = i % 2
        a, b = torch.randint(W.shape[axis], (2,), generator=generator).tolist()
        index = torch.arange(W.shape[axis])
        index[[a, b]] = index[[b, a]]
        other = W.index_select(axis, index)
        if (loss := tail(other, order)) < best:
            best, W, places[axis] = loss, other, places[axis][index]
    kernel = W[0, 0].numel()
    columns = (places[1][:, None] * kernel + torch.arange(kernel)).flatten()
    return Problem(
        problem.C[columns][:, columns], problem.D[columns][:, places[0]], problem.energy, problem.kernel
    )


def main() -> None:
    """Print the table as Markdown, one row a weight."""
    name = sys.argv[1] if len(sys.argv) > 1 else "resnet20"
    n, swaps = int((sys.argv[2:] or ["4"])[0]), int((sys.argv[3:] or ["2000"])[0])
    assets = Path(__file__).parents[3] / "shared" / "assets"
    torch.set_num_threads(1)
    model, train = load(name, assets), data_of(CASES[name], assets)[0]
    orders = phnnify.inspect(model, n, data=train)[0].conversions
    print("| weight | order | terms | rank | loss | loss, channels permuted |\n|---|---|---|---|---|---|")
    sums = [0.0, 0.0]

    def look(layer: str, search: Search) -> list[Form]:
        order, problem = orders[layer], search._problem
        if order.terms:
            pair = [nearest(p, order, 6)[1] / p.energy for p in (problem, permuted(problem, order, swaps))]
            sums[:] = [total + loss for total, loss in zip(sums, pair, strict=True)]
            print(
                f"| {layer} | {order.n_out}×{order.n_in} | {order.terms} | {order.rank} | "
                f"{pair[0]:.4f} | {pair[1]:.4f} |",
                flush=True,
            )
        return []

    survey(model, orders, train, look)
    print(f"all: {sums[0]:.4f} → {sums[1]:.4f}, {sums[1] / sums[0] - 1:+.1%}")


if __name__ == "__main__":
    main()
