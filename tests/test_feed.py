"""Data as an endless stream of batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from phnnify.batches import Batch
from phnnify.errors import FileError
from phnnify.feed import make_feed


def taken(feed: Any, count: int, start: int = 0, every: int = 1) -> list[list[int]]:
    return [batch.args[0].flatten().tolist() for batch in itertools.islice(feed.stream(start, every), count)]


@given(count=st.integers(1, 20), batch=st.integers(1, 25), seed=st.integers(0, 3))
def test_each_epoch_holds_every_sample_once_and_all_batches_are_full(
    count: int, batch: int, seed: int
) -> None:
    feed = make_feed(torch.arange(count).view(-1, 1), batch, seed)
    size = min(batch, count)
    assert feed.batch == size
    assert feed.steps_in_epoch() == count / size
    batches = taken(feed, 3 * count)
    assert all(len(rows) == size for rows in batches)
    line = [row for rows in batches for row in rows]
    for epoch in range(3):
        assert sorted(line[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(start=st.integers(0, 30), every=st.integers(1, 4))
def test_a_stream_can_start_anywhere(start: int, every: int) -> None:
    feed = make_feed(torch.arange(11).view(-1, 1), 4, 0)
    assert taken(feed, 5, start, every) == taken(feed, start + 5 * every)[start::every][:5]
    listed = make_feed([torch.tensor([[i]]) for i in range(7)], 4, 0)
    assert taken(listed, 5, start, every) == [[(start + k * every) % 7] for k in range(5)]


def test_the_order_changes_with_the_seed_and_with_the_epoch() -> None:
    x = torch.arange(50).view(-1, 1)
    first, again = taken(make_feed(x, 50, 0), 2)
    assert first != again
    assert first != taken(make_feed(x, 50, 1), 1)[0]
    assert first == taken(make_feed(x, 50, 0), 1)[0]


def test_inputs_and_targets_stay_together() -> None:
    x, y = torch.arange(20.0).view(-1, 1), torch.arange(20)
    for batch in itertools.islice(make_feed((x, y), 8, 0).stream(), 5):
        assert batch.targets is not None
        assert batch.args[0].flatten().tolist() == batch.targets.tolist()


def test_a_loader_keeps_its_own_batches() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10).view(-1, 1), torch.arange(10)), batch_size=4)
    feed = make_feed(loader, 128, 0)
    assert feed.steps_in_epoch() == 3
    assert [len(rows) for rows in taken(feed, 6)] == [4, 4, 2, 4, 4, 2]


class Unsized:
    """Gives two batches whenever it is gone through."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (torch.zeros(4, 1), torch.ones(4, 1))


def test_an_iterable_without_length_is_counted() -> None:
    assert make_feed(Unsized(), 4, 0).steps_in_epoch() == 2


def test_a_generator_that_ends_is_refused_when_it_is_needed_again() -> None:
    stream = make_feed((torch.zeros(4, 1) for _ in range(2)), 4, 0).stream()
    next(stream), next(stream)
    with pytest.raises(FileError, match="none when it was gone through again"):
        next(stream)


def test_no_samples_are_refused() -> None:
    with pytest.raises(FileError, match="no samples"):
        make_feed(torch.zeros(0, 3), 4, 0)
    with pytest.raises(FileError, match="gave no batches"):
        next(make_feed([], 4, 0).stream())


def test_a_batch_counts_as_samples_in_memory() -> None:
    feed = make_feed(Batch((), {"x": torch.arange(6).view(-1, 1)}), 4, 0)
    assert sorted(
        row for b in itertools.islice(feed.stream(), 3) for row in b.kwargs["x"].flatten().tolist()
    ) == sorted(2 * list(range(6)))
