"""ONNX out, checked against the network it came from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import phnnify
from phnnify import export
from phnnify.axes import BATCHES
from phnnify.errors import ExportError, FileError, ModelError, UsageError
from phnnify.export import export_onnx
from phnnify.inputs import random_example, read_inputs
from phnnify.layers import (
    PHMConv1d,
    PHMConv2d,
    PHMConv3d,
    PHMConvTranspose1d,
    PHMConvTranspose2d,
    PHMConvTranspose3d,
    PHMLinear,
)
from phnnify.measure import tensor_bytes

LAYERS: dict[str, tuple[nn.Module, str]] = {
    "linear": (PHMLinear(24, 40, n=4), "1x24"),
    "linear on sequences": (PHMLinear(24, 40, n=4, bias=False), "1x?5x24"),
    "conv1d": (PHMConv1d(8, 12, 3, padding="same", n=4), "1x8x9"),
    "conv2d": (PHMConv2d(8, 16, 3, stride=2, padding=1, padding_mode="reflect", n=4), "1x8x7x7"),
    "conv2d, grouped": (PHMConv2d(8, 16, (3, 1), dilation=2, groups=2, n=4), "1x8x?9x9"),
    "conv2d, pointwise": (PHMConv2d(8, 16, 1, stride=2, padding=1, n=4), "1x8x7x7"),
    "conv3d": (PHMConv3d(4, 8, 2, bias=False, n=2), "1x4x4x5x6"),
    "transposed 1d": (PHMConvTranspose1d(8, 4, 3, stride=2, output_padding=1, n=4), "1x8x5"),
    "transposed 2d": (PHMConvTranspose2d(8, 4, 3, stride=2, padding=1, groups=2, n=2), "1x8x5x5"),
    "transposed 3d": (PHMConvTranspose3d(4, 4, 2, n=2), "1x4x3x3x3"),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        PHMConv2d(4, 16, 3, padding=1, n=4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        PHMLinear(256, 32, n=4),
    )


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = PHMLinear(8, 8, n=2), PHMLinear(8, 4, n=2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        return {"sum": self.left(x) * scale, "parts": (self.right(x), scale * 1)}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 16), PHMLinear(16, 8, n=4)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(tokens))
        return out


@pytest.mark.parametrize("case", LAYERS)
def test_onnx_runtime_agrees_with_pytorch_for_every_kind_of_layer(case: str, tmp_path: Path) -> None:
    layer, spec = LAYERS[case]
    file = export_onnx(layer, tmp_path / "layer.onnx", spec)
    assert file.max_rel_diff < 1e-5
    assert file.batches == BATCHES


def test_an_operator_set_that_torch_does_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write the ONNX operator set 99; it gave 18") as caught:
        export_onnx(PHMLinear(8, 8, n=2), tmp_path / "net.onnx", "1x8", opset=99)
    assert caught.value.hint == "--opset 18 is fine"
    assert not list(tmp_path.iterdir())


def test_bfloat16_that_onnx_runtime_cannot_run_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ONNX Runtime cannot load") as caught:
        export_onnx(PHMLinear(8, 8, n=2).bfloat16(), tmp_path / "net.onnx", "bfloat16:1x8")
    assert ".float()" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [18, 20])
def test_the_reference_evaluator_agrees_at_both_opsets(opset: int, tmp_path: Path) -> None:
    model = network().eval()
    export_onnx(model, tmp_path / "net.onnx", "1x4x4x4", opset=opset)
    loaded = onnx.load(tmp_path / "net.onnx")
    assert [o.version for o in loaded.opset_import if not o.domain] == [opset]
    x = torch.randn(5, 4, 4, 4)
    got: Any = onnx.reference.ReferenceEvaluator(loaded).run(None, {loaded.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(got[0], model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_factors_are_the_initializers_and_no_composed_weight_is_stored(tmp_path: Path) -> None:
    model = network()
    file = export_onnx(model, tmp_path / "net.onnx", "1x4x4x4")
    stored = {i.name: tuple(i.dims) for i in onnx.load(file.path).graph.initializer}
    for name, parameter in model.named_parameters():
        if name.endswith((".A", ".S")):
            assert parameter.numel() in [int(np.prod(shape)) for shape in stored.values()], name
    assert max(int(np.prod(shape)) for shape in stored.values()) < 256 * 32
    assert file.bytes < tensor_bytes(model) + 20_000


def test_onnx_runtime_multiplies_the_convolution_weight_out_when_it_loads(tmp_path: Path) -> None:
    export_onnx(PHMConv2d(16, 16, 3, n=4), tmp_path / "conv.onnx", "1x16x8x8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(tmp_path / "conv.onnx", options, providers=["CPUExecutionProvider"])
    assert Counter(n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node) == {"Conv": 1}


def test_marked_axes_stay_dynamic_and_others_are_fixed(tmp_path: Path) -> None:
    export_onnx(PHMLinear(24, 40, n=4), tmp_path / "x.onnx", "1x?5x24")
    shape = onnxruntime.InferenceSession(tmp_path / "x.onnx").get_inputs()[0].shape
    assert isinstance(shape[0], str)
    assert isinstance(shape[1], str)
    assert shape[2] == 24
    run = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(
        None, {"x": np.zeros((7, 11, 24), np.float32)}
    )
    assert run[0].shape == (7, 11, 40)


class Encoder(nn.Module):
    """Tokens, positions that end at 16, and torch's own encoder layers behind a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(11, 16), nn.Embedding(16, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.table(tokens) + self.places(torch.arange(tokens.shape[1]))
        out: Tensor = self.body(x, src_key_padding_mask=mask)
        return out


class Steps(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.body, self.head = kind(8, 8, bidirectional=True, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x)[0])
        return out


def transformer() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


SEQUENCES: dict[str, tuple[Callable[[], nn.Module], list[str], list[str]]] = {
    "as long as it can be": (Encoder, ["int64:1x16", "bool:1x16"], ["int64:4x3", "bool:4x3"]),
    "two lengths": (transformer, ["1x6x8", "1x4x8"], ["3x9x8", "3x7x8"]),
    "LSTM": (lambda: Steps(nn.LSTM), ["1x6x8"], ["1x11x8"]),
    "GRU": (lambda: Steps(nn.GRU), ["1x6x8"], ["7x3x8"]),
    "convolution": (lambda: nn.Conv1d(4, 8, 3), ["1x4x9"], ["2x4x23"]),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_converted_network_of_sequences_takes_any_length_without_being_told(
    case: str, tmp_path: Path
) -> None:
    build, inputs, others = SEQUENCES[case]
    torch.manual_seed(0)
    model = phnnify.convert(build(), 2, inputs=inputs, min_share=0).model.eval()
    file = export_onnx(model, tmp_path / "x.onnx", inputs)
    assert (file.batches, file.note) == (BATCHES, None)
    session = onnxruntime.InferenceSession(file.path)
    for specs in (inputs, others):
        example = random_example(read_inputs(specs), model, seed=3)
        feed = {node.name: x.numpy() for node, x in zip(session.get_inputs(), example.args, strict=True)}
        wanted = model(*example.args).detach().numpy()
        np.testing.assert_allclose(session.run(None, feed)[0], wanted, rtol=1e-4, atol=1e-5)


class Stepwise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, i] * i for i in range(x.shape[1])], 1)


def test_a_length_that_torch_cannot_keep_free_is_fixed_and_noted(tmp_path: Path) -> None:
    file = export_onnx(Stepwise(), tmp_path / "x.onnx", "1x6x1")
    assert (file.batches, file.inputs) == (BATCHES, ("1x6x1",))
    assert file.note
    assert file.note.startswith("In the ONNX file all sizes but those marked in 1x6x1 are fixed: ")
    assert onnxruntime.InferenceSession(file.path).get_inputs()[0].shape[1:] == [6, 1]


def test_a_length_that_was_asked_for_and_cannot_be_free_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        export_onnx(Stepwise(), tmp_path / "x.onnx", "1x?6x1")
    assert list(tmp_path.iterdir()) == []


def test_several_named_inputs_and_nested_outputs_are_compared(tmp_path: Path) -> None:
    file = export_onnx(Pair(), tmp_path / "pair.onnx", ["1x8", "scale=1x1"])
    session = onnxruntime.InferenceSession(file.path)
    assert [node.name for node in session.get_inputs()] == ["x", "scale"]
    assert len(session.get_outputs()) == 3
    assert file.max_rel_diff < 1e-5


def test_integer_inputs_stay_within_the_embedding_table(tmp_path: Path) -> None:
    assert export_onnx(Tokens(), tmp_path / "t.onnx", "int64:1x?9").max_rel_diff < 1e-5


def test_the_file_holds_no_path_or_source_line_of_this_machine(tmp_path: Path) -> None:
    export_onnx(network(), tmp_path / "net.onnx", "1x4x4x4")
    content = (tmp_path / "net.onnx").read_bytes()
    assert b".py" not in content
    assert b"torch.nn" not in content


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_onnx(network(), tmp_path / name, "1x4x4x4")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_network_is_not_changed_and_is_exported_in_eval_mode(tmp_path: Path) -> None:
    model = nn.Sequential(PHMLinear(8, 8, n=2), nn.Dropout(0.9), nn.BatchNorm1d(8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert export_onnx(model, tmp_path / "x.onnx", "1x8").max_rel_diff < 1e-5
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_only_exports_at_one_batch_size_says_so(tmp_path: Path) -> None:
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.shape[0] in (1, 2) else x * 3

    assert export_onnx(Doubling(), tmp_path / "x.onnx", "1x8").batches == (1,)


class Differs(nn.Module):
    """Computes something else once it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_compiling() else x * 2.001


def test_a_mismatch_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differs from the network by 0\.0005 relative"):
        export_onnx(Differs(), tmp_path / "x.onnx", "1x8")
    assert list(tmp_path.iterdir()) == []


class Noisy(nn.Module):
    """Forgot to turn its dropout off."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5)


def test_a_network_that_is_random_in_eval_mode_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="gives other answers each time it runs") as caught:
        export_onnx(Noisy(), tmp_path / "x.onnx", "4x8")
    assert "training=self.training" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_the_network_does_not_have_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_SLACK_BYTES", 0)
    monkeypatch.setattr(export, "tensor_bytes", lambda model: 64)
    with pytest.raises(ExportError, match="bytes of tensors; the network needs 64"):
        export_onnx(network(), tmp_path / "x.onnx", "1x4x4x4")
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="torch cannot export Branches to ONNX") as caught:
        export_onnx(Branches(), tmp_path / "x.onnx", "1x8")
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_reported_as_the_only_one_checked(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(5, 8) + torch.arange(40).reshape(5, 8)

    assert export_onnx(Fixed(), tmp_path / "x.onnx", "5x8").batches == (5,)


def test_a_trace_that_depends_on_the_batch_is_made_at_the_users_batch(tmp_path: Path) -> None:
    class Unrolled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([super(Unrolled, self).forward(row) * i for i, row in enumerate(x)])

    file = export_onnx(Unrolled(8, 8), tmp_path / "x.onnx", "1x8")
    assert file.batches == (1,)
    assert onnxruntime.InferenceSession(file.path).get_inputs()[0].shape == [1, 8]


def test_features_stay_free_where_a_network_takes_any_number_of_them(tmp_path: Path) -> None:
    file = export_onnx(nn.ReLU(), tmp_path / "x.onnx", "1x8")
    assert file.inputs == ("1x?8",)
    out = onnxruntime.InferenceSession(file.path).run(None, {"input": -np.ones((2, 5), np.float32)})[0]
    np.testing.assert_array_equal(out, np.zeros((2, 5)))


def test_an_export_without_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs example inputs"):
        export_onnx(network(), tmp_path / "x.onnx", [])


def test_a_form_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no form 'fast'"):
        export_onnx(network(), tmp_path / "x.onnx", "1x4x4x4", form="fast")  # type: ignore[arg-type]


def test_inputs_that_the_network_does_not_take_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fails on an example input of float32 1x5"):
        export_onnx(network(), tmp_path / "x.onnx", "1x5")


def test_a_missing_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        export_onnx(network(), tmp_path / "none" / "x.onnx", "1x4x4x4")


def test_large_networks_keep_their_tensors_in_a_companion_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_EXTERNAL_BYTES", 1000)
    file = export_onnx(network(), tmp_path / "net.onnx", "1x4x4x4")
    companion = tmp_path / "net.onnx.data"
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    assert file.bytes == companion.stat().st_size + (tmp_path / "net.onnx").stat().st_size
    onnxruntime.InferenceSession(file.path).run(None, {"input": np.zeros((1, 4, 4, 4), np.float32)})


def test_half_precision_networks_are_compared_with_their_own_tolerance(tmp_path: Path) -> None:
    model = nn.Sequential(PHMLinear(16, 16, n=4), nn.ReLU()).half()
    assert export_onnx(model, tmp_path / "half.onnx", "float16:1x16").max_rel_diff <= 1e-2


def test_a_nan_in_one_output_only_is_a_difference() -> None:
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    assert export._difference(good, bad) == (float("inf"), float("inf"))
    assert export._difference(bad, bad) == (0.0, 0.0)


def test_a_single_dense_network_exports_in_functional_form(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = PHMLinear(8, 8, n=2)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.layer.weight, self.layer.bias)

    assert export_onnx(Functional(), tmp_path / "x.onnx", "1x8").max_rel_diff < 1e-5


def test_exporting_leaves_the_loggers_as_they_were(tmp_path: Path) -> None:
    before = logging.root.manager.disable
    export_onnx(PHMLinear(8, 8, n=2), tmp_path / "x.onnx", "1x8")
    assert logging.root.manager.disable == before


def test_a_failed_export_says_nothing_but_its_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError):
        export_onnx(Branches(), tmp_path / "x.onnx", "1x8")
    assert capfd.readouterr() == ("", "")
