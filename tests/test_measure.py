"""Numbers about networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phnnify.errors import ModelError
from phnnify.inputs import Example
from phnnify.measure import (
    Run,
    evaluation_copy,
    first_line,
    forward,
    parameter_count,
    run_counts,
    tensor_bytes,
)
from tests.graph_networks import Careless, Locked, Overwriting, Plain, Tied, Twice


def test_tied_parameters_count_once() -> None:
    assert parameter_count(Tied()) == 20 * 16 + 16 * 16 + 16
    assert parameter_count(Twice()) == 16 * 16 + 16


def test_bytes_count_parameters_and_buffers_in_their_dtype() -> None:
    norm = nn.BatchNorm1d(10)  # 4 × 10 float32 and one int64
    assert tensor_bytes(norm) == 4 * 10 * 4 + 8
    assert tensor_bytes(nn.Linear(4, 3).half()) == 2 * 15


def test_an_evaluation_copy_shares_tensors_and_nothing_else() -> None:
    model = Careless().train()
    model.norm.eval()
    twin = evaluation_copy(model)
    twin(torch.randn(4, 16))
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert model.calls == 0
    assert model.seen is None
    assert model.training
    assert not model.norm.training
    assert not any(m.training for m in twin.modules())
    assert model.norm.num_batches_tracked == 0


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be copied: TypeError") as caught:
        evaluation_copy(Locked())
    assert caught.value.hint


def test_a_run_counts_calls_and_positions_of_every_kind_of_layer() -> None:
    runs = run_counts(Plain().eval(), Example((torch.zeros(3, 4, 8, 8),), {}))
    assert list(runs) == ["stem", "norm", "grouped", "up", "point", "head"]
    assert runs["stem"] == Run(1, 3 * 4 * 4)
    assert runs["grouped"] == Run(1, 3 * 4 * 4)
    assert runs["up"] == Run(1, 3 * 4 * 4)  # where its input is, before it spreads out
    assert runs["point"] == Run(1, 3 * 2 * 2)
    assert runs["head"] == Run(1, 3)
    assert runs["stem"].flops(16 * 4 * 9) == 2 * (16 * 4 * 9) * 48


def test_a_dense_layer_runs_once_for_every_row() -> None:
    runs = run_counts(nn.Sequential(nn.Linear(8, 6)), Example((torch.zeros(2, 5, 8),), {}))
    assert runs == {"0": Run(1, 10)}


def test_a_shared_layer_adds_up_its_calls_and_no_hook_stays() -> None:
    model = Twice()
    assert run_counts(model, Example((torch.zeros(2, 16),), {})) == {"layer": Run(3, 6)}
    assert not model.layer._forward_hooks


def test_a_failing_network_is_described_by_its_input_and_its_own_words() -> None:
    with pytest.raises(ModelError, match="input of float32 2x5, int64 1: TypeError") as caught:
        forward(Plain(), Example((torch.zeros(2, 5), torch.zeros(1, dtype=torch.int64)), {}))
    assert "--input" in (caught.value.hint or "")


def test_a_network_that_writes_into_its_inputs_writes_into_copies() -> None:
    network = Overwriting()
    x, scale = torch.ones(2, 3), torch.ones(1)
    answers = [forward(network, Example((x,), {"scale": scale})) for _ in range(2)]
    assert torch.equal(*answers)
    assert torch.equal(x, torch.ones(2, 3))
    assert torch.equal(scale, torch.ones(1))


def test_float64_inputs_of_a_network_in_float32_are_told_from_other_wrong_ones() -> None:
    for network, advised in ((nn.Linear(5, 3), True), (nn.Linear(6, 3, dtype=torch.float64), False)):
        with pytest.raises(ModelError, match="input of float64 2x5") as caught:
            forward(network, Example((torch.zeros(2, 5, dtype=torch.float64),), {}))
        assert ('x.astype("float32")' in (caught.value.hint or "")) == advised


def test_a_first_line_is_short() -> None:
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(first_line(ValueError("x" * 1000))) < 300


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_outputs_is_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3))
    assert run_counts(model, Example((torch.ones(2, 4),), {})) == {"0": Run(1, 0), "1": Run(1, 2)}
