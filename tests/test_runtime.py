"""Files of ONNX as networks."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from phnnify import export
from phnnify.errors import ExportError, FileError, UsageError
from phnnify.export import export_onnx
from phnnify.inputs import Example, InputSpec
from phnnify.runtime import OnnxNetwork, check_precision, has_bfloat16, inputs_of, onnx_bytes, open_session


class Scaled(nn.Module):
    """Takes a tensor by position and others by name."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return x * scale + shift


@pytest.fixture
def scaled(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.onnx"
    export_onnx(Scaled(), path, ["1x3", "scale=1x3", "shift=1x3"])
    return path


def test_a_file_is_called_as_the_network_it_came_from_keywords_in_any_order(scaled: Path) -> None:
    x, scale, shift = torch.randn(3, 4, 3)
    network = OnnxNetwork(scaled, threads=1)
    (got,) = network(x, shift=shift, scale=scale)
    torch.testing.assert_close(got, x * scale + shift)
    (got,) = network(x, scale, shift)
    torch.testing.assert_close(got, x * scale + shift)
    (got,) = network(x, first=scale, second=shift)  # no such names: in their order
    torch.testing.assert_close(got, x * scale + shift)


def test_a_copy_is_the_network_itself(scaled: Path) -> None:
    network = OnnxNetwork(scaled)
    assert copy.deepcopy(network) is network


def test_a_file_says_what_it_takes(tmp_path: Path) -> None:
    class Tokens(nn.Module):
        def forward(self, tokens: Tensor, x: Tensor) -> Tensor:
            return tokens.float().sum(1, keepdim=True) + x

    export_onnx(Tokens(), tmp_path / "x.onnx", ["int64:1x5", "1x3"])
    path = tmp_path / "x.onnx"
    assert inputs_of(open_session(path), path) == (InputSpec((1, 5), torch.int64), InputSpec((1, 3)))


def test_an_open_axis_must_be_given_where_the_file_does_not_tell_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(nn.Linear(4, 2), path, "1x?5x4")
    assert inputs_of(open_session(path), path) == (InputSpec((1, 5, 4)),)  # a file of ours tells it
    foreign = onnx.load(path)
    del foreign.metadata_props[:]
    onnx.save(foreign, path)
    with pytest.raises(UsageError, match="which does not say its size") as caught:
        inputs_of(open_session(path), path)
    assert "--input" in str(caught.value.hint)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no file"):
        OnnxNetwork(tmp_path / "none.onnx")
    with pytest.raises(FileError, match="there is no file"):
        OnnxNetwork(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load bad\.onnx"):
        OnnxNetwork(tmp_path / "bad.onnx")


def test_inputs_that_do_not_fit_are_an_error(scaled: Path) -> None:
    with pytest.raises(ExportError, match="ONNX Runtime cannot run the file"):
        OnnxNetwork(scaled)(torch.zeros(1, 3))


def test_the_size_counts_tensors_that_lie_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(nn.Linear(64, 64), path, "1x64")
    assert onnx_bytes(path) == path.stat().st_size
    monkeypatch.setattr(export, "_EXTERNAL_BYTES", 1000)
    export_onnx(nn.Linear(64, 64), path, "1x64")
    beside = tmp_path / "x.onnx.data"
    assert onnx_bytes(path) == path.stat().st_size + beside.stat().st_size > beside.stat().st_size > 4096


def test_the_graph_that_is_really_run_can_be_kept(scaled: Path, tmp_path: Path) -> None:
    open_session(scaled, optimized=tmp_path / "run.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node]


def test_the_threads_of_a_session_rest_between_runs(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export_onnx(nn.Linear(4, 2), path, "1x4")
    options = open_session(path).get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


class Widened(nn.Module):
    """Keeps its weights in bfloat16 and computes in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(8, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(self.table(tokens).float(), self.layer.weight.float())


def test_layers_that_compute_in_bfloat16_are_refused_and_weights_that_only_lie_in_it_are_not() -> None:
    model = Widened().bfloat16()
    assert has_bfloat16(model)
    assert not has_bfloat16(nn.Linear(4, 4))
    check_precision(model, Example((torch.zeros(2, 3, dtype=torch.long),), {}))
    plain = nn.Sequential(nn.Embedding(8, 16), nn.Linear(16, 4)).bfloat16()
    with pytest.raises(ExportError, match="layer 1 computes in bfloat16, which ONNX") as refused:
        check_precision(plain, Example((torch.zeros(2, 3, dtype=torch.long),), {}))
    assert ".float()" in (refused.value.hint or "")
    with pytest.raises(ExportError, match="the network computes in bfloat16"):
        check_precision(nn.Linear(4, 4).bfloat16(), Example((torch.zeros(2, 4, dtype=torch.bfloat16),), {}))
