"""Data as a caller gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from phnnify.caller_data import batches_of, calibration_inputs, learning_data, own_batches
from phnnify.errors import FileError, UsageError
from phnnify.feed import Rows
from phnnify.watching import nobody

X = torch.arange(300 * 2, dtype=torch.float32).reshape(300, 2)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    """The same in a file."""
    np.savez(tmp_path / "data.npz", x=X.numpy())
    return str(tmp_path / "data.npz")


@pytest.mark.parametrize("data", [X, [X], [(X[:100],), {"x": X[100:]}]], ids=["tensor", "list", "kinds"])
def test_of_a_callers_own_data_all_is_gone_through(data: Any) -> None:
    assert sum(batch.size for batch in batches_of(data, None, 10, 0)) == 300


def test_an_item_that_is_no_batch_is_refused() -> None:
    with pytest.raises(FileError, match="data gave a str"):
        list(own_batches(["text"]))


def test_of_a_reference_samples_are_drawn_with_the_seed(reference: str) -> None:
    def drawn(seed: int) -> torch.Tensor:
        return torch.cat([batch.args[0] for batch in batches_of(reference, None, 10, seed)])

    assert drawn(0).shape == (10, 2)
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert sum(batch.size for batch in batches_of(reference, None, None, 0)) == 300


def test_calibration_has_as_many_inputs_as_were_asked_for_where_the_network_is() -> None:
    told: list[str] = []
    model = nn.Linear(2, 2, device="meta")
    batches = calibration_inputs(model, [X[:8], X[8:]], 12, None, 0, lambda what, *_: told.append(what))
    assert [batch.size for batch in batches] == [8, 4]
    assert all(batch.args[0].is_meta for batch in batches)
    assert told == ["reading the data"]


def test_without_data_there_is_nothing_to_calibrate_with() -> None:
    assert calibration_inputs(nn.Linear(2, 2), None, 0, None, 0, nobody) == []


def test_no_samples_are_refused_before_the_data_is_read() -> None:
    with pytest.raises(UsageError, match="number of samples is 0"):
        calibration_inputs(nn.Linear(2, 2), "nothing.npz", 0, None, 0, nobody)


def test_a_student_learns_on_all_of_a_reference_or_on_what_the_caller_has(reference: str) -> None:
    read = learning_data(reference, None)
    assert isinstance(read, Rows)
    assert len(read) == 300
    assert learning_data(X, None) is X
