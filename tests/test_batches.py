"""Batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phnnify.batches import Batch, as_batch, calibration_batches, halves, input_specs
from phnnify.errors import FileError

X = torch.arange(300 * 2, dtype=torch.float32).reshape(300, 2)
Y = torch.arange(300) % 7


def test_calibration_takes_the_first_samples_and_refuses_nothing() -> None:
    batches = calibration_batches([X[:100], (X[100:], Y[100:])], 150)
    assert [b.size for b in batches] == [100, 50]
    with pytest.raises(FileError, match="no samples"):
        calibration_batches([], 5)


@pytest.mark.parametrize(
    "item",
    [
        None,
        3,
        "text",
        (),
        [torch.zeros(2), torch.zeros(2), torch.zeros(2)],
        {},
        torch.tensor(1),
        (torch.zeros(3), torch.tensor(1)),
        {"x": torch.zeros(3), "scale": torch.tensor(1.0)},
    ],
)
def test_anything_else_is_no_batch(item: Any) -> None:
    with pytest.raises(FileError, match="gave a"):
        as_batch(item, "loader")


@pytest.mark.parametrize("item", [((X, X + 1), Y), ([X, X + 1], None), ((X, X + 1),)])
def test_several_inputs_before_the_targets_are_those_of_one_call(item: Any) -> None:
    batch = as_batch(item, "loader")
    assert [x[0, 0].item() for x in batch.args] == [0, 1]
    assert (batch.targets is None) == (len(item) == 1 or item[1] is None)


def test_a_batch_is_a_batch() -> None:
    batch = Batch((X,), targets=Y)
    assert as_batch(batch, "loader") is batch
    assert batch.to(torch.device("cpu")).size == 300


@pytest.mark.parametrize("sizes", [[300], [100, 200], [150, 150], [1, 1, 298]], ids=str)
def test_halves_hold_every_sample_once_and_in_order(sizes: list[int]) -> None:
    parts = zip(torch.split(X, sizes), torch.split(Y, sizes), strict=True)
    first, rest = halves([Batch((x,), targets=y) for x, y in parts])
    assert [sum(batch.size for batch in half) for half in (first, rest)] == [150, 150]
    assert torch.equal(torch.cat([batch.args[0] for batch in first + rest]), X)
    assert torch.equal(torch.cat([batch.targets for batch in first + rest if batch.targets is not None]), Y)


def test_a_single_sample_serves_for_both_halves() -> None:
    first, rest = halves([Batch((X[:1],))])
    assert [batch.size for batch in first] == [batch.size for batch in rest] == [1]


def test_the_first_batch_shows_what_the_network_takes() -> None:
    batch = Batch((X,), {"tokens": Y[:, None]})
    assert [str(spec) for spec in input_specs([batch, Batch()])] == ["1x2", "tokens=int64:1x1"]
    assert input_specs([]) == ()
