"""Networks written as torch.export programs, for plain torch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import phnnify
from phnnify.capture import write_program
from phnnify.errors import ExportError, UsageError
from phnnify.inputs import read_inputs
from phnnify.programs import read_program
from tests.graph_networks import Branching, Operators


def near(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_what_a_written_program_takes_keeps_its_free_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    small = phnnify.convert(model, 2, inputs="1x?5x8", min_share=0).model
    phnnify.save(small, tmp_path / "a.pt2", inputs="1x?5x8")
    for x in (torch.randn(3, 9, 8), torch.randn(70, 40, 8)):
        near(read_program(tmp_path / "a.pt2").model(x), small.eval()(x))
        near(torch.export.load(tmp_path / "a.pt2").module()(x), small.eval()(x))


def test_a_length_stays_free_without_being_told(tmp_path: Path) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    assert write_program(model, tmp_path / "a.pt2", read_inputs("1x5x8")) is None
    x = torch.randn(3, 9, 8)
    near(torch.export.load(tmp_path / "a.pt2").module()(x), model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_converted_recurrent_layers_become_programs_of_any_batch_and_one_length(
    kind: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = kind(8, 8, batch_first=True, bidirectional=True)
    small = phnnify.convert(layer, 2, inputs="1x6x8", min_share=0).model.eval()
    note = phnnify.save(small, tmp_path / "a.pt2", inputs="1x6x8")
    assert note == (
        "The .pt2 file takes that one length only; all sizes but the batch and those marked in 1x6x8 are "
        "fixed: torch.export unrolls recurrent layers; an ONNX file can take any length."
    )
    program = torch.export.load(tmp_path / "a.pt2")
    x = torch.randn(5, 6, 8)
    near(program.module()(x)[0], small(x)[0])
    assert sum(t.numel() for t in program.state_dict.values()) == sum(p.numel() for p in small.parameters())
    with pytest.raises(ExportError, match=r"fixed more than it was asked to.*\[1\] == 6"):
        write_program(small, tmp_path / "b.pt2", read_inputs("1x?6x8"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]


class Stepwise(nn.Module):
    """Its trace holds for one length only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, i] * i for i in range(x.shape[1])], 1)


def test_any_length_that_torch_fixes_is_noted_with_its_reason(tmp_path: Path) -> None:
    note = write_program(Stepwise(), tmp_path / "a.pt2", read_inputs("1x6x1"))
    assert note
    assert note.startswith(
        "The .pt2 file takes that one length only; all sizes but the batch and those marked in 1x6x1 are "
        "fixed: torch.export fixed more than it was asked to"
    )


class Unrolled(nn.Module):
    """Its trace holds for one batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * i for i, row in enumerate(x)])


class Fixed(nn.Module):
    """It takes one batch size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(5, 8) + torch.arange(40).reshape(5, 8)


@pytest.mark.parametrize(("model", "sizes"), [(Unrolled(), "1x8"), (Fixed(), "5x8")])
def test_a_batch_that_cannot_be_free_is_fixed_at_the_users(
    model: nn.Module, sizes: str, tmp_path: Path
) -> None:
    (spec,) = read_inputs(sizes)
    note = write_program(model, tmp_path / "a.pt2", (spec,))
    assert f"The .pt2 file takes batches of {spec.shape[0]} only." in (note or "")
    x = torch.randn(spec.shape)
    near(torch.export.load(tmp_path / "a.pt2").module()(x), model(x))


def test_a_program_is_the_same_bytes_each_time_and_holds_no_paths(tmp_path: Path) -> None:
    model, source = Operators(), inspect.getfile(Operators)
    files = [tmp_path / "a" / "net.pt2", tmp_path / "b" / "net.pt2"]
    for file in files:
        file.parent.mkdir()
        write_program(model, file, read_inputs("1x3x8x8"))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert source.encode() not in files[0].read_bytes()


def test_writing_says_what_is_missing_or_cannot_be_done_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        write_program(nn.Linear(4, 4), tmp_path / "a.pt2", ())
    with pytest.raises(ExportError, match=r"torch\.export cannot capture Branching"):
        write_program(Branching(), tmp_path / "a.pt2", read_inputs("1x16"))
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_random_in_eval_mode_is_said_to_be_so(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    with pytest.raises(ExportError, match="gives other answers each time it runs on the same inputs"):
        write_program(Noisy(), tmp_path / "a.pt2", read_inputs("4x8"))
    assert list(tmp_path.iterdir()) == []
