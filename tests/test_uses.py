"""How often a forward pass uses its weights, and from where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phnnify.inputs import Example, read_inputs
from phnnify.measure import evaluation_copy
from phnnify.opened import open_modules
from phnnify.trace import trace
from phnnify.uses import Uses, find_uses, site_name
from tests.graph_networks import Branching, Outside, Tied, Twice


class Unproxied(nn.Module):
    """Cannot be traced symbolically, since it asks for a size, but torch.export can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        rows = list(range(len(x)))
        return self.inner(x)[rows]


def uses_of(model: nn.Module, x: Tensor | None = None) -> Uses:
    example = None if x is None else Example((x,), {})
    uses, note = find_uses(evaluation_copy(model), example)
    assert uses is not None, note
    return uses


CASES = {
    "tied": (Tied, torch.zeros(2, 5, dtype=torch.int64)),
    "outside": (Outside, torch.zeros(2, 16)),
    "twice": (Twice, torch.zeros(2, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_traces_see_the_same_uses(name: str) -> None:
    network, x = CASES[name]
    symbolic, exported = uses_of(network()), uses_of(Unproxied(network()), x)
    assert (symbolic.method, exported.method) == ("torch.fx", "torch.export")
    inner = {path.removeprefix("inner").removeprefix("."): n for path, n in exported.modules.items() if path}
    weighty = {path: n for path, n in symbolic.modules.items() if path in ("layer", "used", "table", "head")}
    assert {path: inner[path] for path in weighty} == weighty
    of_layers = {"inner." + site for site in symbolic.outside if site != "bare"}
    assert of_layers <= exported.outside


def test_weights_inside_of_opened_modules_are_used_by_their_layers() -> None:
    closed = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, batch_first=True), "b": nn.GRU(8, 8)})

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = closed

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.parts["b"](self.parts["a"](x, x, x)[0])[0]
            return out

    uses = uses_of(open_modules(Unproxied(Network())), torch.zeros(2, 5, 8))
    assert uses.method == "torch.export"
    names = ["a.in_proj", "a.out_proj", "b.ih_l0", "b.hh_l0"]
    assert {f"inner.parts.{name}": 1 for name in names}.items() <= uses.modules.items()
    assert not uses.outside


def test_a_weight_that_is_read_in_a_network_that_only_torch_export_traces_stays() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.run, self.never = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.run(F.linear(x, self.read.weight))
            return out

    found = {site.name: site.obstacle for site in trace(Unproxied(Reading()), read_inputs("2x16")).sites}
    assert found == {
        "inner.run": None,
        "inner.read": "used outside its module",
        "inner.never": "not used by the traced forward pass",
    }


def test_where_no_trace_works_the_note_says_why_for_both() -> None:
    uses, note = find_uses(Branching().eval(), Example((torch.zeros(2, 16),), {}))
    assert uses is None
    assert "torch.fx cannot trace Branching symbolically at graph_networks.py line" in (note or "")
    assert "nor can torch.export" in (note or "")
    assert "\n" not in (note or "")


def test_a_network_that_is_one_layer_is_used_once() -> None:
    assert uses_of(nn.Linear(4, 4)).modules == {"": 1}


@pytest.mark.parametrize(
    ("module", "parameter", "name"),
    [("a.b", "weight", "a.b"), ("a.b", "bare", "a.b.bare"), ("", "weight", "weight"), ("", "bare", "bare")],
)
def test_sites_are_named_by_their_layer_or_their_parameter(module: str, parameter: str, name: str) -> None:
    assert site_name(module, parameter) == name
