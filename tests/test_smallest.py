"""The smallest network within a drop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import phnnify
from phnnify import smallest
from phnnify.batches import Batch, halves
from phnnify.choose import Budgeting
from phnnify.errors import PlanError
from phnnify.measure import parameter_count
from phnnify.plan import PlanOptions, make_plan
from phnnify.smallest import smallest_within
from phnnify.trace import trace
from phnnify.watching import nobody
from tests.graph_networks import Plain
from tests.survey_network import Net


def smooth(count: int) -> torch.Tensor:
    x = torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(x, (8, 8), mode="bilinear")


def budgeting(model: nn.Module, batches: list[Batch]) -> Budgeting:
    traced = trace(model)
    return Budgeting(model, traced, make_plan(traced, PlanOptions(4, min_share=0)), batches)


def test_the_smallest_network_within_a_drop_is_found() -> None:
    torch.manual_seed(0)
    model, x = Plain().eval(), smooth(200)
    sizes = []
    for drop in ("2%", "40%"):
        result = phnnify.convert(model, max_drop=drop, data=x, samples=100, min_share=0)
        sizes.append(parameter_count(result.model))
    assert sizes[1] <= sizes[0] < parameter_count(model)


def test_sizes_between_the_least_and_the_whole_are_tried(
    model: Net, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, held_out = halves(batches)
    plans, tried = budgeting(model, fitted), []
    monkeypatch.setattr(smallest, "_ATTEMPTS", 3)
    smallest_within(0.99, model, plans, fitted, held_out, lambda *told: tried.append(told))
    compared = [told for told in tried if told[0].startswith("comparing at")]
    assert [told[1:] for told in compared] == [(0, 3), (1, 3), (2, 3)]


def test_a_drop_that_no_smaller_network_keeps_within_is_an_error_with_the_least(
    model: Net, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    valued = [replace(batch, targets=torch.zeros(batch.size, 8)) for batch in batches]
    monkeypatch.setattr(smallest, "_ATTEMPTS", 1)
    plans = budgeting(model, batches)
    with pytest.raises(
        PlanError, match=r"at most 0\.00%: the best of those tried loses \d+\.\d\d%"
    ) as caught:
        smallest_within(1e-9, model, plans, batches, valued, nobody)
    assert "--samples" in (caught.value.hint or "")
