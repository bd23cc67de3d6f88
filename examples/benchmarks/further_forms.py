"""Whether weights want more than one Kronecker sum and a low-rank term: what two, or a sparse rest, lose.

    python examples/benchmarks/further_forms.py [FOLDER [NETWORK [N]]]

FOLDER holds the networks (../shared/assets beside the checkout); NETWORK is resnet20 and N is 4 by default.
For each weight, at the size of order N, on the inputs that the original sees (512):

    chosen    the form that `--low-rank auto` gives it
    two sums  half of the size for the best form of it, the other half for the best form of what that leaves
              (other blocks, or low rank), fitted by turns
    sparse    three quarters of the size for the best form, the rest for single entries of what that leaves,
              largest first (|R_ij|·C_jj^½), their values the least squares of each row; an entry counts one
              and a half numbers, for its place

Numbers are relative squared errors of the layer's outputs; the last line is their sum.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fit_table import CASES, data_of, load
from results import use_two_threads
from torch import Tensor

import phnnify
from phnnify.algebra import compose
from phnnify.alternate import Problem, nearest
from phnnify.batches import input_specs
from phnnify.search import Form, Search
from phnnify.survey import survey

_TURNS = 3
_ENTRY = 1.5  # numbers that an entry of a sparse matrix takes


def without(problem: Problem, part: Tensor) -> Problem:
    """What is left to do beside a part (out, k) of the weight."""
    return Problem(problem.C, problem.D - problem.times(part).t(), problem.loss(part), problem.kernel)


def fitted(problem: Problem, form: Form) -> Tensor:
    """The weight (out, k) of a form."""
    return compose(*nearest(problem, form.order, 6)[0]).flatten(1)


def two_sums(problem: Problem, size: int) -> float:
    """The loss with two forms of half the size each."""
    first = Search(problem).best(size // 2)
    if first is None:
        return problem.energy
    one = fitted(problem, first)
    second = Search(without(problem, one)).best(size - first.parameters)
    if second is None:
        return problem.loss(one)
    for _ in range(_TURNS):
        other = fitted(without(problem, one), second)
        one = fitted(without(problem, other), first)
    return problem.loss(one + other)


def sparse_rest(problem: Problem, size: int) -> float:
    """The loss with a form of three quarters of the size, and single entries."""
    form = Search(problem).best(size * 3 // 4)
    if form is None:
        return problem.energy
    base = fitted(problem, form)
    rest = problem.best - base
    entries = int((size - form.parameters) / _ENTRY)
    places = (rest.abs() * problem.spread).flatten().topk(entries).indices
    chosen = torch.zeros(rest.numel(), dtype=torch.bool).scatter_(0, places, True).view_as(rest)
    wanted, sparse = problem.times(rest), torch.zeros_like(rest)
    for i, row in enumerate(chosen):
        at = row.nonzero().flatten()
        if len(at):
            sparse[i, at] = torch.linalg.solve(problem.C[at][:, at], wanted[i, at])
    return problem.loss(base + sparse)


def main() -> None:
    """Print the table as Markdown, one row a weight."""
    given: list[str | None] = [*sys.argv[1:], None, None, None]
    assets = Path(given[0] or Path(__file__).parents[3] / "shared" / "assets")
    name, n = given[1] or "resnet20", int(given[2] or "4")
    use_two_threads()
    model, train = load(name, assets), data_of(CASES[name], assets)[0]
    orders = phnnify.inspect(model, n, inputs=input_specs(train))[0].conversions
    print("| weight | chosen | loss | two sums | sparse rest |\n|---|---|---|---|---|")
    sums = torch.zeros(3, dtype=torch.float64)

    def look(layer: str, search: Search) -> list[Form]:
        problem, size = search._problem, orders[layer].parameters(search.shape)
        form = search.best(size, n)
        if form is None or problem.C.dim() == 1:
            return []
        pair = [loss(problem, size) / problem.energy for loss in (two_sums, sparse_rest)]
        sums.add_(torch.tensor([form.loss, *pair], dtype=torch.float64))
        print(f"| {layer} | {form.order} | {form.loss:.4f} | {pair[0]:.4f} | {pair[1]:.4f} |", flush=True)
        return []

    survey(model, orders, train, look)
    print(f"| sum | | {sums[0]:.4f} | {sums[1]:.4f} | {sums[2]:.4f} |")


if __name__ == "__main__":
    main()
