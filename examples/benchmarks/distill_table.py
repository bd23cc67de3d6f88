"""What distillation brings: this project's ways and its peers', at the same size, loss and number of steps.

    python examples/benchmarks/distill_table.py [FOLDER [NETWORK[:N[:STEPS]] ...]]

FOLDER holds the networks (by default ../shared/assets beside the checkout); `resnet20:4` asks for n = 4
alone. Every student learns by the same loop and the default recipe (`phnnify.distill`), for the steps in
STEPS, each at the rate that the range test finds for it. 512 unlabelled inputs fit what is fitted before. The
metric is that of the last state (nothing is chosen on test data) on the whole test set: top-1, and for the
text the loss in nats per character on its last tenth. `parameters` are those of the whole network.

Ways: random factors of order n, as the papers start; closed form; data-aware PHM (--low-rank off); auto, the
default; a budget, as large as what n = 4 leaves. Peers at no more parameters: data-aware low-rank SVD in
sequence; Tucker (tensorly-torch's FactorizedConv, ranks in proportion to both channel axes; SVD for dense
layers); channel pruning (torch-pruning's BasePruner with group magnitudes, inside residual branches, hidden
layers and feed-forward parts). `pip install tensorly-torch tensorly torch-pruning` for the last two.
Finished cells are kept in results/distill_table.jsonl, so that it resumes.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fit_table import (
    CASES,
    data_of,
    estimate_norms_,
    load,
    low_rank_plan,
    papers_plan,
    parameters,
    text_windows,
    tucker_size,
)
from results import kept_in, use_two_threads
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.batches import Batch, input_specs
from phnnify.data import read_data
from phnnify.layers import PHMLayer
from phnnify.measure import submodule

STEPS = {"mnist_mlp_6_200": 400, "resnet20": 250, "charlm": 150, "resnet56": 100}
BEST = ("auto", "PHM, data", "SVD, data")  # that are also measured at n = 2 and 8

Maker = Callable[[], nn.Module]


def batch_size(name: str) -> int:
    """Inputs of a step; for the text windows of 128 characters."""
    return 32 if name == "charlm" else 128


def material(name: str, assets: Path) -> Any:
    """All inputs to learn on."""
    case = CASES[name]
    path = assets / case.train
    if not case.train.endswith(".txt"):
        return read_data(str(path), case.options)
    text = path.read_text(encoding="utf-8")
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([index[character] for character in text])
    windows = tokens[: int(0.9 * len(tokens)) // 129 * 129].view(-1, 129)
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def questions(name: str, assets: Path) -> list[Batch]:
    """All inputs to test on."""
    case = CASES[name]
    if case.test.endswith(".txt"):
        return text_windows(assets / case.test, test=True)
    return list(read_data(str(assets / case.test), case.options))


def judged(model: nn.Module, batches: list[Batch]) -> tuple[float, float]:
    """Top-1, and the loss in nats."""
    right = lost = count = 0.0
    with torch.no_grad():
        for batch in batches:
            assert batch.targets is not None
            answer, wanted = model.eval()(*batch.args).flatten(0, -2), batch.targets.flatten()
            right += float((answer.argmax(1) == wanted).sum())
            lost += float(nn.functional.cross_entropy(answer, wanted, reduction="sum"))
            count += len(wanted)
    return right / count, lost / count


def ways(model: nn.Module, n: int, train: list[Batch]) -> dict[str, Maker]:
    """By name, what makes the student."""
    plan = papers_plan(model, n, train)
    kept = phnnify.inspect(model, n, inputs=input_specs(train))[1].params
    share = f"{100 * (kept.after or 0) / (kept.before or 1)}%"
    makers: dict[str, Maker] = {
        "auto": lambda: phnnify.convert(model, n, data=train).model,
        "PHM, data": lambda: phnnify.convert(model, n, data=train, low_rank="off").model,
        "SVD, data": lambda: phnnify.convert(model, plan=low_rank_plan(plan), data=train).model,
    }
    if n != 4:
        return makers
    orders = plan.conversions
    makers |= {
        "budget": lambda: phnnify.convert(model, budget=share, data=train).model,
        "random": lambda: randomized_(phnnify.convert(model, n).model),
        "closed form": lambda: phnnify.convert(model, n).model,
        "pruning": lambda: pruned(model, kept.after or 0, train),
    }
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        makers["Tucker"] = lambda: tucker(model, orders, train)
    return makers


def randomized_(student: nn.Module) -> nn.Module:
    """Fresh factors, drawn as a fresh network's; everything else stays the original's."""
    torch.manual_seed(0)
    for module in student.modules():
        if isinstance(module, PHMLayer):
            module.reset_parameters()
    return student


def tucker(model: nn.Module, orders: dict[str, Order], train: list[Batch]) -> nn.Module:
    """Factors of tensorly-torch for convolutions with a kernel, low rank for the rest."""
    import tltorch

    student = copy.deepcopy(model)
    for name, order in orders.items():
        parent, _, last = name.rpartition(".")
        layer = submodule(student, name)
        weight: Tensor = layer.get_parameter("weight")
        size = order.parameters(weight.shape)
        if weight.dim() == 4 and weight.shape[-1] > 1:
            out, columns, *kernel = weight.shape
            ranks = next(
                found
                for found in ([max(1, s * side // 200) for side in (out, columns)] for s in range(200, 0, -1))
                if tucker_size(out, columns, math.prod(kernel), *found) <= size
            )
            factored = tltorch.FactorizedConv.from_conv(
                layer, rank=(*ranks, *kernel), factorization="tucker", implementation="factorized"
            )
        else:
            rank = size // (weight.shape[0] + weight[0].numel())
            factored = phnnify.PHMLinear.from_dense(layer, Order.low_rank(rank))
        setattr(submodule(student, parent) if parent else student, last, factored)
    return estimate_norms_(student, train)


def pruned(model: nn.Module, size: int, train: list[Batch]) -> nn.Module:
    """Channels of hidden layers removed until `size` parameters are left."""
    import torch_pruning

    def at(ratio: float) -> nn.Module:
        student = copy.deepcopy(model).train()
        pruner = torch_pruning.pruner.BasePruner(
            student,
            train[0].args[0][:2],
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[m for name, m in student.named_modules() if not _may_shrink(name, m)],
        )
        pruner.step()
        return student

    low, high = 0.0, 0.98
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if parameters(at(middle)) <= size else (middle, high)
    return estimate_norms_(at(high), train)


def _may_shrink(name: str, module: nn.Module) -> bool:
    """Whether nothing but the next layer reads the outputs; torch-pruning fails on padded shortcuts."""
    if not isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.MultiheadAttention)):
        return True
    last = name.rpartition(".")[2]
    return (last == "conv1" and "." in name) or last == "linear1" or (last.isdigit() and last != "11")


def cell(
    name: str, n: int, way: str, make: Maker, steps: int, assets: Path, test: list[Batch]
) -> dict[str, Any]:
    """One student, before and after."""
    model = load(name, assets)
    start = time.perf_counter()
    student = make().eval()
    converted = time.perf_counter()
    recipe = phnnify.Recipe(steps=steps, batch=batch_size(name), device="cpu")
    result = phnnify.distill(model, student, material(name, assets), recipe)
    course = result.report.distillation
    assert course is not None
    return {
        "network": name, "n": n, "way": way, "parameters": parameters(student) / parameters(model),
        "original": judged(model, test), "before": judged(student, test), "after": judged(result.model, test),
        "rate": course.rate, "seconds": [converted - start, time.perf_counter() - converted],
    }  # fmt: skip


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    text = row["network"] == "charlm"
    values = [
        f"{row[key][1]:.3f}" if text else f"{row[key][0]:.1%}" for key in ("original", "before", "after")
    ]
    times = " + ".join(f"{seconds:.0f}" for seconds in row["seconds"])
    cells = [row["network"], str(row["n"]), row["way"], f"{row['parameters']:.1%}", *values]
    return f"| {' | '.join([*cells, format(row['rate'], '.1e'), times])} |"


def main() -> None:
    """Print the table as Markdown, one row a cell."""
    assets = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[3] / "shared" / "assets")
    use_two_threads()
    kept = kept_in("distill_table.jsonl")
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {(row["network"], row["n"], row["way"]): row for row in map(json.loads, lines)}
    print("| network | n | way | parameters | original | before | after | rate | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for asked in sys.argv[2:] or CASES:
        name, only, steps = [*asked.split(":"), "", ""][:3]
        model = load(name, assets)
        train, _ = data_of(CASES[name], assets)
        test = questions(name, assets)
        for n in [int(only)] if only else (4, 2, 8):
            for way, make in ways(model, n, train).items():
                row = done.get((name, n, way)) or cell(
                    name, n, way, make, int(steps or STEPS[name]), assets, test
                )
                if (name, n, way) not in done:
                    with kept.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                print(shown(row), flush=True)


if __name__ == "__main__":
    main()
