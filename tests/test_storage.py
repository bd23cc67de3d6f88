"""Constants stored smaller."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from phnnify.quantizing.initializers import put_back
from phnnify.quantizing.storage import rounded, store
from phnnify.runtime import open_session
from tests.onnx_graphs import Array, draw, graph, output


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=9),
        elements=st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-2),
    )
)
def test_no_number_is_off_by_more_than_half_a_step(value: Array) -> None:
    q, s = rounded(value)
    assert q.dtype == np.int8
    assert s.dtype == np.float16
    assert q.shape == value.shape
    steps = np.broadcast_to(s.astype(np.float64), value.shape)
    assert (np.abs(value - steps * q) <= steps * 0.5001).all()
    assert np.abs(q.astype(int)).max() <= 127
    assert np.array_equal(q == 0, np.abs(value) < steps * 0.5) or (np.abs(value) == steps * 0.5).any()


@pytest.mark.parametrize(
    ("shape", "scales"),
    [
        ((64, 100), (64, 1)),
        ((64, 10), (1, 1)),
        ((4, 16, 4, 3, 3), (4, 16, 1, 1, 1)),
        ((4, 50, 196), (4, 50, 1)),
    ],
)
def test_rows_of_32_numbers_or_more_share_a_scale(shape: tuple[int, ...], scales: tuple[int, ...]) -> None:
    assert rounded(draw(*shape))[1].shape == scales


def model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["q"]),
        helper.make_node("Mul", ["q", "tiny"], ["r"]),
        helper.make_node("Add", ["r", "few"], ["y"]),
    ]
    constants = {"W": draw(100, 80), "b": draw(80, seed=1), "tiny": draw(80, seed=2) * 1e-9, "few": draw(1)}
    return graph(nodes, constants, [5, 100])


@pytest.mark.parametrize(("kind", "bits"), [("int8", TensorProto.INT8), ("fp16", TensorProto.FLOAT16)])
def test_large_constants_are_stored_small_and_what_half_precision_cannot_hold_stays(
    kind: str, bits: int
) -> None:
    small, x = model(), draw(5, 100, seed=3)
    wanted, before = output(small, x), small.ByteSize()
    store(small, kind)
    sizes: Counter[int] = Counter()
    for tensor in small.graph.initializer:
        sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[bits] >= 8000
    assert sizes[TensorProto.FLOAT] == 81  # tiny and few
    assert small.ByteSize() < before / (3 if kind == "int8" else 1.8)
    error = np.abs(output(small, x) - wanted).max() / np.abs(wanted).max()
    assert error < (0.02 if kind == "int8" else 1e-3)


def test_the_runtime_turns_them_back_when_it_loads(tmp_path: Path) -> None:
    small = model()
    store(small, "int8")
    open_session(small.SerializeToString(), optimized=tmp_path / "run.onnx")
    found = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    assert found == {"Gemm": 1, "Mul": 1, "Add": 1}  # one product, no Cast


def test_constants_are_replaced_all_at_once_since_protobuf_keeps_what_is_dropped() -> None:
    small = model()
    with patch("phnnify.quantizing.storage.put_back", wraps=put_back) as called:
        store(small, "int8")
    assert called.call_count == 1
    assert set(called.call_args.args[2]) >= {"W q", "W s", "b h"}
