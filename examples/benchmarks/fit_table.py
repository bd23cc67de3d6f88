"""What a fit to 512 inputs is worth, one-shot: this project's ways and its peers', at the same size.

    python examples/benchmarks/fit_table.py [FOLDER [NETWORK ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout). 512 inputs of the training data
without labels; the metric is top-1 on all test images, for the text on the last tenth in windows of 129
characters. Nothing is distilled. Every weight holds as many numbers as order n does (peers: at most), and the
budget is what order n leaves of the whole network. `error` is that of the network's output.

Ways: closed form (no data); data-aware, each layer on the original's inputs; data-aware in sequence, as the
papers have the weights (--low-rank off); auto, the default with data; a budget for the whole network (n = 4).
Peers: truncated SVD of the weight; SVD of W·C^½ in sequence; Tucker of convolutions (tensorly), SVD else.
BatchNorm statistics are taken anew for all of them but the closed form. Finished cells are kept in
results/fit_table.jsonl, so that it resumes. `pip install tensorly` for the last peer.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from results import kept_in, use_two_threads
from torch import nn

import phnnify
from phnnify.algebra import Order, compose
from phnnify.batches import Batch, input_specs
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.evaluate import evaluate
from phnnify.opened import open_modules
from phnnify.plan import Plan, PlanOptions, make_plan
from phnnify.rewrite import rewrite
from phnnify.sources import read_network
from phnnify.survey import NORMS, survey
from phnnify.trace import trace

IMAGES = DataOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """A network, its file, and the data it was trained and tested on."""

    file: str
    train: str
    test: str
    options: DataOptions = field(default_factory=DataOptions)


CASES = {
    "mnist_mlp_6_200": Case("mnist_mlp_6_200", "mnist-train.npz", "mnist-test.npz"),
    "resnet20": Case("resnet20-cifar10", "cifar10-jpeg-train.zip", "cifar10-jpeg-test.zip", IMAGES),
    "charlm": Case("charlm-shakespeare", "tinyshakespeare.txt", "tinyshakespeare.txt"),
    "resnet56": Case("resnet56-cifar10", "cifar10-jpeg-train.zip", "cifar10-jpeg-test.zip", IMAGES),
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
    return list(train), list(read_data(str(assets / case.test), case.options))


def papers_plan(model: nn.Module, n: int, train: list[Batch]) -> Plan:
    """Order n everywhere."""
    inputs = tuple(input_specs(train))
    return make_plan(trace(model, inputs), PlanOptions(n))


def low_rank_plan(plan: Plan) -> Plan:
    """Low rank everywhere, with at most as many numbers."""
    decisions = []
    for decision in plan.decisions:
        if decision.order is not None:
            size = decision.order.parameters(decision.shape)
            rank = size // (decision.shape[0] + math.prod(decision.shape[1:]))
            decision = replace(decision, order=Order.low_rank(rank))
        decisions.append(decision)
    return Plan(plan.n, tuple(decisions))


def estimate_norms_(model: nn.Module, train: list[Batch]) -> nn.Module:
    """BatchNorm statistics of the calibration inputs."""
    norms = [m for m in model.eval().modules() if isinstance(m, NORMS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in train:
            model(*batch.args)
    return model.eval()


def independent(model: nn.Module, plan: Plan, train: list[Batch]) -> nn.Module:
    """Each layer fitted on the inputs that the original sees."""
    orders = plan.conversions
    found: dict[str, Any] = {}

    def fit(name: str, search: Any) -> list[Any]:
        weight = model.get_submodule(name).get_parameter("weight")
        found[name] = search.factors(orders[name]).to(weight.dtype)
        return []

    survey(model, orders, train, fit)
    return estimate_norms_(rewrite(model, found), train)


def tucker(model: nn.Module, plan: Plan, train: list[Batch]) -> nn.Module:
    """Tucker of convolutions along both channel axes, SVD else; composed, so that the size shows 100 %."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    tensorly.set_backend("pytorch")
    student = copy.deepcopy(model)
    for name, order in plan.conversions.items():
        weight = student.get_submodule(name).get_parameter("weight").data
        size = order.parameters(weight.shape)
        if weight.dim() == 2 or math.prod(weight.shape[2:]) == 1:
            rank = size // (weight.shape[0] + weight[0].numel())
            weight.copy_(compose(*phnnify.factorize(weight, Order.low_rank(rank))))
            continue
        out, columns, kernel = weight.shape[0], weight.shape[1], math.prod(weight.shape[2:])
        share = next(
            s / 200
            for s in range(200, 0, -1)
            if tucker_size(out, columns, kernel, *(max(1, int(s / 200 * side)) for side in (out, columns)))
            <= size
        )
        ranks = [max(1, int(share * side)) for side in (out, columns)]
        (core, factors), _ = partial_tucker(weight, rank=ranks, modes=[0, 1])
        weight.copy_(torch.einsum("ab...,oa,ib->oi...", core, *factors))
    return estimate_norms_(student, train)


def tucker_size(out: int, columns: int, kernel: int, rank_out: int, rank_in: int) -> int:
    """The numbers in a core and two factors."""
    return out * rank_out + columns * rank_in + rank_out * rank_in * kernel


def ways(model: nn.Module, n: int, train: list[Batch]) -> dict[str, Callable[[], nn.Module]]:
    """By name, what makes the converted network."""
    plan = papers_plan(model, n, train)
    thin = low_rank_plan(plan)

    def budget() -> nn.Module:
        kept = phnnify.inspect(model, n, inputs=input_specs(train))[1].params
        return phnnify.convert(
            model, budget=f"{100 * (kept.after or 0) / (kept.before or 1)}%", data=train
        ).model

    return {
        "closed form": lambda: phnnify.convert(model, n).model,
        "independent": lambda: independent(model, plan, train),
        "sequential": lambda: phnnify.convert(model, n, data=train, low_rank="off").model,
        "auto": lambda: phnnify.convert(model, n, data=train).model,
        **({"budget": budget} if n == 4 else {}),
        "SVD": lambda: estimate_norms_(phnnify.convert(model, plan=thin).model, train),
        "SVD, data": lambda: phnnify.convert(model, plan=thin, data=train).model,
        **({"Tucker": lambda: tucker(model, plan, train)} if has_spatial(model) else {}),
    }


def has_spatial(model: nn.Module) -> bool:
    """Whether there is a kernel to decompose."""
    return any(isinstance(m, nn.Conv2d) for m in model.modules())


def parameters(model: nn.Module) -> int:
    """All of them."""
    return sum(p.numel() for p in model.parameters())


def load(name: str, assets: Path) -> nn.Module:
    """A network of the assets, with its attention opened, so that all names are those of layers."""
    path = assets / f"{CASES[name].file}.safetensors"
    return open_modules(read_network(path, arch=f"{assets / 'nets.py'}:{name}").model.eval())


def main() -> None:
    """Print the table as Markdown, one row a cell."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    use_two_threads()
    kept = kept_in("fit_table.jsonl")
    done = (
        {tuple(row[:3]): row for row in map(json.loads, kept.read_text().splitlines())}
        if kept.exists()
        else {}
    )
    print("| network | n | way | parameters | top-1 | error | seconds |\n|---|---|---|---|---|---|---|")
    for name in sys.argv[2:] or CASES:
        model = load(name, assets)
        train, test = data_of(CASES[name], assets)
        for n in (2, 4, 8):
            for way, make in ways(model, n, train).items():
                row = done.get((name, n, way))
                if row is None:
                    start = time.perf_counter()
                    student = make()
                    seconds = time.perf_counter() - start
                    found = evaluate(model, student, test)
                    assert found.accuracy is not None
                    row = [
                        name, n, way, parameters(student) / parameters(model), found.accuracy.student,
                        found.agreement.relative_error, seconds, found.accuracy.teacher,
                    ]  # fmt: skip
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                shown = f"{row[3]:.1%} | {row[4]:.1%} of {row[7]:.1%} | {row[5]:.3f} | {row[6]:.0f}"
                print(f"| {name} | {n} | {way} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
