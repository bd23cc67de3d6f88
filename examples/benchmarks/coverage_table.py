"""Which networks can be converted, run, saved, read back and exported: one row for each.

    python examples/benchmarks/coverage_table.py [NAME ...]

The networks are those of coverage_models.py (`pip install transformers` for most); NAMEs choose among them.
Each is converted with n = 4 in closed form, without data and with its small weights too. The columns:

- found by: how its weights were found, by a trace or, where there can be none, in the module tree.
- converted: the part of all parameters that lies in converted weights, before conversion.
- runs: its outputs have the original's shapes, and are finite.
- exact: with all terms, so that nothing is approximated, its main output is the original's to 1e-4.
- reload: saved as .safetensors and read into a fresh network, it gives the same outputs to the bit.
- ONNX: it can be exported, and ONNX Runtime agrees with PyTorch at the batch sizes that it takes; `and
  length`: at other lengths of its sequences too: a shorter one and, where the network takes it, a longer one;
  `at one length`: the network takes others, but torch's export does not keep that.

A cell is `yes`, or what went wrong; `upstream:` where the same goes wrong with the original without phnnify,
`original too:` where it takes phnnify's own checks to find it there. Where less than half is converted, the
reason that keeps most of the rest stands there too. Accuracy is no part of this table: most of the networks
are random, and all inputs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from coverage_models import CASES, Case
from results import use_two_threads
from torch import Tensor, nn

import phnnify
from phnnify.algebra import Order
from phnnify.bare_uses import opened_up
from phnnify.inputs import Example, random_example
from phnnify.layer_report import LayerReport
from phnnify.measure import first_line, parameter_count
from phnnify.plan import Plan, PlanOptions, make_plan, with_orders
from phnnify.report import Report, make_report
from phnnify.trace import trace

TOLERANCE = 1e-4  # relative to the largest entry
CHECKS = ("runs", "exact", "reload", "ONNX")
YES = "yes"
Check = Callable[[nn.Module], str]
"""Looks at a network: 'yes', with a remark perhaps, or a reason; or raises."""


@dataclass(frozen=True)
class Row:
    """What was found out about a network."""

    name: str
    found_by: str
    converted: str
    cells: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """In full."""
        return all(cell.startswith(YES) for cell in self.cells)

    @property
    def passes_as_original(self) -> bool:
        """But for what the original cannot do either."""
        return all(cell.startswith((YES, "upstream:")) for cell in self.cells)

    def __str__(self) -> str:
        """A line of the table."""
        shown = (self.name, self.found_by, self.converted, *self.cells)
        return f"| {' | '.join(cell.replace('|', '/') for cell in shown)} |"


class Checks:
    """The four checks of one network."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.original = case.original(seed=0)
        self.example = random_example(case.specs, self.original, seed=0)
        with torch.no_grad():
            self.wanted = outputs(self.original, self.example)

    def row(self) -> Row:
        """Everything about it."""
        found = trace(opened_up(self.original, self.case.specs), self.case.specs)
        plan = make_plan(found, PlanOptions(4, min_share=0))
        report = make_report(found, plan)
        share = (report.converted.before or 0) / parameter_count(self.original)
        converted = f"{share:.0%}" if share >= 0.5 else f"{share:.0%}; {main_reason(report)}"
        if not plan.conversions:
            return Row(self.case.name, found.method, converted, ("-",) * len(CHECKS))
        small, full = self.converted(plan), self.converted(all_terms(plan))
        cells = [
            self.cell(small, self.runs),
            self.cell(full, self.exact),
            self.cell(small, self.reload, self.reload_original),
            self.cell(small, self.onnx, self.onnx_original),
        ]
        return Row(self.case.name, found.method, converted, tuple(cells))

    def converted(self, plan: Plan) -> nn.Module:
        """The network as a plan has it."""
        return phnnify.convert(self.original, plan=plan, inputs=self.case.specs).model

    def cell(self, model: nn.Module, check: Check, own: Check | None = None) -> str:
        """What a check says of the converted network, and whether the original is any better.

        Args:
            model: The converted network.
            check: What to do with it.
            own: The same by means of torch's own; None where it uses no others.
        """
        said = answer(check, model)
        if said.startswith(YES):
            return said
        if alike(said, answer(own or check, self.original)):
            return f"upstream: {said}"
        if own and alike(said, answer(check, self.original)):
            return f"original too: {said}"
        return said

    def runs(self, model: nn.Module) -> str:
        """Outputs of the same shapes, finite where the original's are."""
        got = outputs(model, self.example)
        shapes = [[tuple(t.shape) for t in tensors] for tensors in (got, self.wanted)]
        if shapes[0] != shapes[1]:
            return f"gives {shapes[0]} in place of {shapes[1]}"
        finite = all(torch.equal(a.isfinite(), b.isfinite()) for a, b in zip(got, self.wanted, strict=True))
        return YES if finite else "not finite"

    def exact(self, model: nn.Module) -> str:
        """The first output is that of the original."""
        got, wanted = outputs(model, self.example)[0], self.wanted[0]
        if not wanted.isfinite().all() or not wanted.abs().max():
            return "the original gives nothing to compare with"
        error = float((got - wanted).abs().max() / wanted.abs().max())
        return YES if error <= TOLERANCE else f"off by {error:.1e}"

    def reload(self, model: nn.Module) -> str:
        """Written, and read into a network that was built anew."""
        phnnify.save(model, self.folder / "model.safetensors")
        return self.same(model, phnnify.load(self.folder / "model.safetensors", model=self.fresh()))

    def reload_original(self, model: nn.Module) -> str:
        """The same by torch's own means."""
        fresh = self.fresh()
        fresh.load_state_dict(model.state_dict())
        return self.same(model, fresh)

    def fresh(self) -> nn.Module:
        """The original's class with other weights."""
        torch.manual_seed(1)
        return self.case.build().eval()

    def same(self, model: nn.Module, again: nn.Module) -> str:
        """Whether two networks give the same."""
        pairs = zip(outputs(model, self.example), outputs(again, self.example), strict=True)
        return YES if all(torch.equal(a, b) for a, b in pairs) else "gives something else"

    def onnx(self, model: nn.Module) -> str:
        """Exported; the export checks itself."""
        file = phnnify.export_onnx(model, self.folder / "model.onnx", self.case.specs)
        cell = YES if len(file.batches) > 1 else f"{YES}, at one batch size"
        cell += " and length" if any("?" in text for text in file.inputs) else ""
        return f"{cell}, at one length" if file.note else cell

    def onnx_original(self, model: nn.Module) -> str:
        """Exported by torch alone, and loaded."""
        args, kwargs = self.example
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True, opset_version=18)
        assert program is not None
        onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        return YES


def all_terms(plan: Plan) -> Plan:
    """The same blocks, with so many terms that they hold any weight."""
    orders = plan.conversions.items()
    return with_orders(plan, {name: Order(o.n_out, o.n_in, o.n_out * o.n_in) for name, o in orders})


def main_reason(report: Report) -> str:
    """Why the weights stay that hold the most parameters, those of one kind of module taken together."""
    kept: dict[str, list[LayerReport]] = {}
    for layer in report.layers:
        if layer.reason:
            kept.setdefault(layer.kind, []).append(layer)
    most = max(kept.values(), key=lambda layers: sum(layer.params_before for layer in layers), default=[])
    return str(max(most, key=lambda layer: layer.params_before).reason) if most else "no other weight"


def answer(check: Check, model: nn.Module) -> str:
    """What a check says, or why it failed."""
    try:
        with torch.no_grad():
            return check(model)
    except Exception as error:  # a row must not stop the table
        return short(error)


def short(error: BaseException) -> str:
    """An error in half a line."""
    while error.__cause__ is not None:  # the exporter wraps errors in long advice
        error = error.__cause__
    text = str(error) if isinstance(error, phnnify.PhnnifyError) else first_line(error)
    text = " ".join(re.sub(r"^torch cannot export \w+ to ONNX: ", "", text).split())
    return text if len(text) <= 120 else f"{text[:119]}…"


def alike(one: str, other: str) -> bool:
    """Whether two messages say the same, but for numbers."""
    return re.sub(r"[\d.e+-]+", "", one) == re.sub(r"[\d.e+-]+", "", other)


def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """What a network gives, the main output first."""
    return list(tensors_of(model(*example.args, **example.kwargs)))


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and mappings."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from tensors_of(list(output.values()))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for part in output:
            yield from tensors_of(part)


def row_of(case: Case, folder: Path) -> Row:
    """The row of a network, whatever happens."""
    try:
        return Checks(case, folder).row()
    except Exception as error:  # a row must not stop the table
        return Row(case.name, "-", "-", (short(error), *("-" for _ in CHECKS[1:])))


def chosen(names: Sequence[str]) -> list[Case]:
    """The networks of these names, or all."""
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        sys.exit(
            f"no network is called {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in CASES)}"
        )
    return [case for case in CASES if case.name in names or not names]


def main() -> None:
    """Print the table as Markdown."""
    cases = chosen(sys.argv[1:])
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    use_two_threads()
    print(f"| network | found by | converted | {' | '.join(CHECKS)} |\n|---|---|---|{'---|' * len(CHECKS)}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if case.missing:
                print(Row(case.name, case.missing, "-", ("-",) * len(CHECKS)), flush=True)
                continue
            rows.append(row_of(case, Path(folder)))
            print(rows[-1], flush=True)
    full, as_original = sum(r.passes for r in rows), sum(r.passes_as_original for r in rows)
    print(f"\n{full} of {len(rows)} pass in full, {as_original - full} more but for what is upstream.")


if __name__ == "__main__":
    main()
