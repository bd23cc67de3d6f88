"""Whole networks and their converted twins, in ONNX Runtime and eager PyTorch, side by side, on 2 threads.

    python examples/benchmarks/networks_speed.py [NETWORK:N[/T|/data]:BATCH ...]

Assets (../shared/assets beside the checkout) and random networks of the shapes of ResNet-50, ViT-B and GPT-2
(transformers' defaults; 64 tokens). Converted in closed form at order N with N terms, or with T terms, which
saves arithmetic; `data`: as --data does, each weight in the form that fits 512 inputs best. Prints dense time
/ converted time (above 1 the converted network is faster; the target is 0.97), the sizes of the ONNX files,
and load time / that of the dense file, all layers folded (at most 3).
The converted file is made for the batch (`--form auto`). For batch 1 also both files in int8 (networks of
convolutions calibrated, on the example): size, and time of dense float32 / time of int8, dense → converted.
Finished cells are kept in results/networks_speed.jsonl; cells given as arguments are measured alone, and not
kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fit_table import CASES, data_of, load
from results import kept_in, use_two_threads
from timing import Calls, interleaved, verdict
from torch import nn

import phnnify
from phnnify.batches import Batch
from phnnify.forms import ExportForm
from phnnify.inputs import Example, random_example, read_inputs
from phnnify.plan import Plan
from phnnify.quantizing.quantize import quantize_onnx
from phnnify.runtime import onnx_bytes, open_session, prepared

ASSETS = Path(__file__).parents[3] / "shared" / "assets"
INPUTS = {
    "mnist_mlp_6_200": "1x1x28x28", "resnet20": "1x3x32x32", "resnet56": "1x3x32x32",
    "charlm": "int64:1x128", "resnet50": "1x3x224x224", "vit_b": "1x3x224x224", "gpt2": "int64:1x64",
}  # fmt: skip
ORDERS = {"resnet50": ("4", "4/2"), **dict.fromkeys(CASES, ("4", "4/data"))}
CELLS = [
    f"{name}:{order}:{batch}" for name in INPUTS for order in ORDERS.get(name, ("4",)) for batch in (1, 32)
]
TARGETS = ("ONNX Runtime", "PyTorch")
LEAST, MOST_LOADING = 0.97, 3.0
SESSIONS = 3  # of ONNX Runtime for each file
SECONDS = 20.0  # about so long for each cell


def original(name: str) -> nn.Module:
    """A network to convert."""
    if name in CASES:
        return load(name, ASSETS)
    import transformers

    kinds = {
        "resnet50": (transformers.ResNetForImageClassification, transformers.ResNetConfig),
        "vit_b": (transformers.ViTForImageClassification, transformers.ViTConfig),
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config),
    }
    torch.manual_seed(0)
    kind, config = kinds[name]
    model: Any = kind(config())
    model.config.use_cache = False
    network: nn.Module = model.eval()
    return network


def converted(name: str, model: nn.Module, order: str, inputs: str) -> nn.Module:
    """The network at order N, with N terms or with T, or fitted to data."""
    if order.endswith("/data"):
        n, (train, _) = int(order.removesuffix("/data")), data_of(CASES[name], ASSETS)
        return phnnify.convert(model, n, data=train).model.eval()
    n, *terms = map(int, order.split("/"))
    plan, _ = phnnify.inspect(model, n, inputs=inputs)
    if terms:
        decisions = [
            replace(d, order=replace(d.order, terms=min(terms[0], d.order.terms))) if d.order else d
            for d in plan.decisions
        ]
        plan = Plan(n, tuple(decisions))
    return phnnify.convert(model, plan=plan, inputs=inputs).model.eval()


class Files:
    """ONNX files of two networks, in a folder that goes away."""

    def __init__(self, folder: Path, models: dict[str, nn.Module], inputs: str, batch: int) -> None:
        forms: dict[str, ExportForm] = {"dense": "auto", "auto": "auto", "folded": "folded"}
        self.found = {
            name: phnnify.export_onnx(
                models["dense" if name == "dense" else "converted"], folder / f"{name}.onnx", inputs,
                form=form, batch=batch,
            )
            for name, form in forms.items()
        }  # fmt: skip

    def add_int8(self, example: Example, *, convolutions: bool) -> None:
        """The dense and the converted file in int8 too."""
        calibration = [Batch(example.args, example.kwargs)] if convolutions else []
        for name, source in (("dense", "dense"), ("auto", "folded" if convolutions else "auto")):
            plain = Path(self.found[source].path)
            target = plain.with_name(f"{name} int8.onnx")
            quantize_onnx(plain, target, "int8", calibration)
            self.found[f"{name} int8"] = replace(
                self.found[source], path=str(target), bytes=onnx_bytes(target)
            )

    def session(self, name: str) -> Any:
        """A session for one of them."""
        return open_session(Path(self.found[name].path), threads=torch.get_num_threads())

    def loading(self) -> float:
        """Time to load the folded file / the dense one."""
        times = interleaved({name: partial(self.session, name) for name in ("dense", "folded")}, 1.0)
        return times.ratio("folded", "dense")


def measured(cell: str) -> dict[str, Any]:
    """The times, sizes and ratios of a cell."""
    name, order, batch = cell.split(":")
    inputs, dense = INPUTS[name], original(name)
    models = {"dense": dense, "converted": converted(name, dense, order, inputs)}
    example = random_example(read_inputs(inputs), dense, seed=0, batch=int(batch))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        files = Files(Path(folder), models, inputs, int(batch))
        calls: dict[str, Calls] = {
            f"PyTorch {kind}": partial(model, *example.args) for kind, model in models.items()
        }
        if batch == "1":
            files.add_int8(example, convolutions=any(isinstance(m, nn.Conv2d) for m in dense.modules()))
        for file in sorted(files.found.keys() - {"folded"}):
            kind = file.replace("auto", "converted")
            calls[f"ONNX Runtime {kind}"] = [
                prepared(files.session(file), example.args) for _ in range(SESSIONS)
            ]
        times = interleaved(calls, SECONDS)
        return {
            "cell": cell,
            "milliseconds": {kind: 1e3 * times.of(kind) for kind in calls},
            "ratios": {
                kind: times.ratio(f"{target} dense", kind)
                for target in TARGETS
                for kind in calls
                if kind.startswith(target)
            },
            "bytes": {kind: file.bytes for kind, file in files.found.items()},
            "loading": files.loading(),
        }


def show(row: dict[str, Any]) -> None:
    """A line of the table."""
    name, order, batch = row["cell"].split(":")
    cells = [name, order, batch]
    for target in TARGETS:
        ratio = row["ratios"][f"{target} converted"]
        cells += [f"{row['milliseconds'][f'{target} dense']:.2f}", f"{ratio:.2f}: {verdict(ratio >= LEAST)}"]
    sizes = row["bytes"]
    cells += [f"{sizes['dense'] / 1e6:.2f} → {sizes['auto'] / 1e6:.2f}"]
    cells += [f"{row['loading']:.2f}: {verdict(row['loading'] <= MOST_LOADING)}"]
    if "auto int8" in sizes:
        cells += [f"{sizes['dense int8'] / 1e6:.2f} → {sizes['auto int8'] / 1e6:.2f}"]
        smaller = (row["ratios"][f"ONNX Runtime {kind} int8"] for kind in ("dense", "converted"))
        cells += [" → ".join(f"{ratio:.2f}" for ratio in smaller)]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    use_two_threads()
    asked, kept = sys.argv[1:], kept_in("networks_speed.jsonl")
    rows = [] if asked or not kept.exists() else [json.loads(x) for x in kept.read_text().splitlines()]
    print(
        "| network | n/t | batch | ONNX Runtime, ms | dense / converted | PyTorch, ms | dense / converted |",
        end="",
    )
    print(" ONNX, MB | loading | int8, MB | float32 / int8 |\n" + "|---" * 11 + "|")
    for row in rows:
        show(row)
    done = {row["cell"] for row in rows}
    for cell in asked or [cell for cell in CELLS if cell not in done]:
        row = measured(cell)
        show(row)
        if not asked:
            with kept.open("a") as file:
                file.write(f"{json.dumps(row)}\n")


if __name__ == "__main__":
    main()
