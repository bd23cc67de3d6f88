"""Which axes may vary."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from phnnify.axes import BATCHES, Specs, first_written, free_axes, other_sizes, runs, with_free_axes
from phnnify.errors import ExportError
from phnnify.inputs import read_inputs


class Positions(nn.Module):
    """Tokens with a mask; no more than 8 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 4), nn.Embedding(8, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])) * mask.unsqueeze(-1)
        return out


CASES: dict[str, tuple[nn.Module, list[str], list[str]]] = {
    "an LSTM's length": (nn.LSTM(4, 8, batch_first=True), ["1x6x4"], ["1x?6x4"]),
    "a convolution's": (nn.Conv1d(4, 8, 3), ["1x4x9"], ["1x4x?9"]),
    "tokens and their mask together": (Positions(), ["int64:1x8", "1x8"], ["int64:1x?8", "1x?8"]),
    "two that vary each alone": (nn.Transformer(8, 2, 1, 1, 8, batch_first=True), ["1x6x8", "1x4x8"],
                                 ["1x?6x8", "1x?4x8"]),
    "what was marked": (nn.Conv2d(3, 4, 3), ["1x3x?9x9"], ["1x3x?9x9"]),
    "no images": (nn.Conv2d(3, 4, 3), ["1x3x9x9"], ["1x3x9x9"]),
    "no features": (nn.Linear(16, 4), ["1x16"], ["1x16"]),
    "no broadcast": (nn.Identity(), ["1x1"], ["1x1"]),
    "a length of two": (nn.Linear(16, 4), ["1x2x16"], ["1x?2x16"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_axis_is_free_where_the_network_takes_another_size(case: str) -> None:
    model, given, wanted = CASES[case]
    assert with_free_axes(model.eval(), read_inputs(given)) == read_inputs(wanted)


def test_other_sizes_are_shorter_and_longer_where_the_network_takes_them() -> None:
    free = read_inputs(["1x?6x4"])
    assert other_sizes(nn.LSTM(4, 8, batch_first=True), free) == [
        read_inputs(["1x?4x4"]),
        read_inputs(["1x?7x4"]),
    ]
    full = read_inputs(["int64:1x?8", "1x?8"])
    assert other_sizes(Positions(), full) == [read_inputs(["int64:1x?5", "1x?5"])]
    assert other_sizes(nn.Linear(16, 4), read_inputs("1x16")) == []


def test_a_network_runs_on_what_it_takes_and_on_nothing_else() -> None:
    assert runs(nn.Linear(16, 4), read_inputs("1x16"), 5)
    assert not runs(nn.Linear(16, 4), read_inputs("1x15"))


def test_the_freest_form_that_can_be_written_is_and_says_what_failed() -> None:
    (given,), tried = read_inputs("1x6x4"), []

    def write(specs: Specs, batches: Sequence[int]) -> str:
        tried.append((str(specs[0]), tuple(batches)))
        if len(tried) <= failures:
            raise ExportError(f"attempt {len(tried)}")
        return tried[-1][0]

    wanted = [("1x?6x4", BATCHES), ("1x6x4", BATCHES), ("1x?6x4", (1,)), ("1x6x4", (1,))]
    results = [("1x?6x4", None), ("1x6x4", "attempt 1"), ("1x?6x4", None), ("1x6x4", "attempt 1")]
    for failures in range(4):
        tried.clear()
        assert first_written(nn.LSTM(4, 8, batch_first=True), (given,), write) == results[failures]
        assert tried == wanted[: failures + 1]
    tried.clear()
    failures = 4
    with pytest.raises(ExportError, match="attempt 4"):
        first_written(nn.LSTM(4, 8, batch_first=True), (given,), write)


def test_the_free_axes_are_the_marked_ones_and_the_batch_unless_it_is_fixed() -> None:
    specs = read_inputs(["1x?6x4", "1x3"])
    assert [list(axes) for axes in free_axes(specs, BATCHES)] == [[0, 1], [0]]
    assert [list(axes) for axes in free_axes(specs, (1,))] == [[1], []]
