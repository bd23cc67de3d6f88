"""The float32 tensors of an ONNX graph stored smaller, and nodes that turn them back when a runtime loads it.

    int8: value = scale·q, q from −127 to 127, a scale for each row;  fp16: value = q

by Cast and Mul, which ONNX Runtime computes once, at load. (DequantizeLinear says the same as the former, but
ONNX Runtime leaves it in the graph, to run at each call.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phnnify.quantizing.initializers import Array, put_back

if TYPE_CHECKING:
    import onnx

_MANY = 512  # numbers, from which on a tensor of two axes or more is stored in int8, if that is asked for
_FEW = 64  # numbers, below which a node more costs as much as half precision saves
_ROW = 32  # numbers that share a scale, at least
_TINY, _SMALL, _LARGE = 6.1e-5, 1e-3, 6e4  # from _TINY to _LARGE half precision has eleven bits


def store(model: onnx.ModelProto, kind: str) -> None:
    """Store the float32 constants of a graph smaller, in place.

    Args:
        model: A graph.
        kind: 'int8': the large ones so, others as fp16. 'fp16': all so. Small ones stay.
    """
    import onnx
    from onnx import numpy_helper

    stored: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _FEW:
            continue
        value = numpy_helper.to_array(tensor)
        if kind == "int8" and value.size >= _MANY and value.ndim > 1:
            nodes, arrays = _as_whole_numbers(tensor.name, value)
        elif _fits_half(value):
            nodes, arrays = _as_half(tensor.name, value)
        else:
            continue
        stored = [*nodes, *stored]
        made |= {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    put_back(model, stored, made)  # once: protobuf keeps the memory of what was dropped, each time anew


def rounded(value: Array) -> tuple[Array, Array]:
    """Whole numbers q from −127 to 127 and scales s with value ≈ s·q, the nearest at these scales.

    A row shares a scale: all that follows the first axes, as many of them as leave rows of at least 32
    numbers. s is max|row|/127 in float16, rounded up, so that no number is off by more than s/2.

    Returns:
        q of the value's shape, s of that shape with 1 for each axis of a row.
    """
    axes = range(value.ndim)
    leading = max((i for i in axes if np.prod(value.shape[i:]) >= _ROW), default=0)
    scale = np.abs(value).max(axis=tuple(axes)[leading:], keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1)
    half = scale.astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)
    return np.rint(value / half.astype(np.float32)).clip(-127, 127).astype(np.int8), half


def _fits_half(value: Array) -> bool:
    """Whether rounding is relative to each number, or far below the largest one."""
    sizes = np.abs(value[value != 0])
    if not sizes.size:
        return True
    return bool(sizes.max() <= _LARGE and (sizes.min() >= _TINY or sizes.max() >= _SMALL))


def _as_whole_numbers(name: str, value: Array) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    import onnx

    whole, scale = rounded(value)
    q, s, steps, size = (f"{name} {part}" for part in ("q", "s", "qf", "sf"))
    nodes = [
        onnx.helper.make_node("Cast", [q], [steps], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Cast", [s], [size], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [steps, size], [name]),
    ]
    return nodes, {q: whole, s: scale}


def _as_half(name: str, value: Array) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    import onnx

    node = onnx.helper.make_node("Cast", [f"{name} h"], [name], to=onnx.TensorProto.FLOAT)
    return [node], {f"{name} h": value.astype(np.float16)}
