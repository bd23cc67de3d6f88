"""ONNX files in int8 and in fp16, from float32 ones, by ONNX Runtime's own tools.

fp16: all weights and all that is computed in between become half precision; inputs and outputs stay as they
are.

int8, with calibration inputs: the weights of products and convolutions are rounded to 255 steps for each
output channel, and what flows between layers to 256 steps of the range seen on the inputs. ONNX Runtime then
computes with whole numbers. Without inputs the ranges are found anew at each call, for matrix products;
convolutions compute in float32.

Weights that a converted network multiplies out of factors are quantized like others (`initializers.split`),
and then made from their factors again: the file holds the factors in int8, and

    weight = QuantizeLinear(compose(A, scale·S), scale of the weight)

is computed once, when ONNX Runtime loads the file. All other large tensors are stored smaller (`storage`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phnnify.batches import Batch
from phnnify.errors import ExportError, UsageError
from phnnify.files import replacing
from phnnify.measure import first_line
from phnnify.quantizing.fuse import fold_norms
from phnnify.quantizing.gemm import open_gemms
from phnnify.quantizing.initializers import Array, Recipe, drop_unused, put_back, renamed, split
from phnnify.quantizing.names import shorten_names
from phnnify.quantizing.storage import store
from phnnify.quiet import quiet
from phnnify.runtime import OnnxNetwork, feed_of, open_session

if TYPE_CHECKING:
    import onnx

KINDS = ("int8", "fp16")
_FEW = 1024  # numbers in a weight, below which a product stays in float32
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def quantize_onnx(source: Path, target: Path, kind: str, data: Sequence[Batch] = ()) -> None:
    """Write a file of ONNX with smaller numbers.

    Args:
        source: A file in float32.
        target: The file to write.
        kind: 'int8' or 'fp16'.
        data: Calibration inputs, for int8.

    Raises:
        UsageError: another kind.
        ExportError: ONNX Runtime's tools cannot do it, or it cannot run what they wrote.
        FileError: the target cannot be written.
    """
    import onnx

    check_kind(kind)
    with quiet(), replacing(target) as temporary:
        try:
            model = _smaller(onnx.load(source), source, kind, data)
            onnx.checker.check_model(model)
            onnx.save(model, temporary)
        except Exception as error:  # the tools raise whatever goes wrong in them
            raise ExportError(f"ONNX Runtime cannot quantize the file: {first_line(error)}") from None
        open_session(temporary)


def check_kind(kind: str) -> None:
    """Refuse what is none of KINDS, before any work is done.

    Raises:
        UsageError: it is not.
    """
    if kind not in KINDS:
        raise UsageError(f"--quantize {kind!r} is unknown", hint=f"one of {', '.join(KINDS)}")


def _smaller(model: onnx.ModelProto, source: Path, kind: str, data: Sequence[Batch]) -> onnx.ModelProto:
    fold_norms(model)
    if kind == "int8" and not data:
        open_gemms(model)
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node {i}"  # what is to be quantized is said by name
    dense, recipe = split(model)
    if kind == "fp16":
        done = _half(dense)
    else:
        with tempfile.TemporaryDirectory(prefix="phnnify-") as folder:
            done = _by_onnx_runtime(dense, Path(folder) / "quantized.onnx", source, data)
    _compose_again(done, recipe, [name for name in recipe.values if recipe.grows(name)])
    drop_unused(done)
    store(done, kind)
    done.graph.ClearField("value_info")  # shapes that any reader can infer again
    shorten_names(done)
    return done


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = ONNXModel(convert_float_to_float16(model, keep_io_types=True))
    halved.topological_sort()  # the casts of the inputs come last otherwise
    result: onnx.ModelProto = halved.model
    return result


def _by_onnx_runtime(
    model: onnx.ModelProto, target: Path, source: Path, data: Sequence[Batch]
) -> onnx.ModelProto:
    """Quantized, dynamically or with calibration inputs: products that have their weight on the right.

    Of a weight on the left ONNX Runtime would make float32 numbers at each call.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    large = [
        node.name
        for node in model.graph.node
        if node.op_type in _PRODUCTS and sizes.get(node.input[1], 0) >= _FEW
    ]
    if not large:
        return model
    if data:
        quantize_static(
            model, target, _Calibration(source, data), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=large,
            extra_options={"QuantizeBias": False},  # ONNX Runtime does that at load, in fewer bytes
        )  # fmt: skip
        return onnx.load(target)
    quantize_dynamic(
        model, target, op_types_to_quantize=["MatMul"], per_channel=True, nodes_to_quantize=large
    )
    quantized = onnx.load(target)
    for node in quantized.graph.node:
        if node.op_type == "MatMulInteger":
            del node.input[3:]  # the weights' zero points: nought, as they need not say
    return quantized


class _Calibration:
    """Batches as ONNX Runtime's calibration reads them."""

    def __init__(self, source: Path, data: Sequence[Batch]) -> None:
        network = OnnxNetwork(source)
        axis = network.session.get_inputs()[0].shape[0]
        parts = [
            part for batch in data for part in (_parts(batch, axis) if isinstance(axis, int) else [batch])
        ]
        self._feeds = iter(feed_of(network.session, network.in_order(x.args, x.kwargs)) for x in parts)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def _parts(batch: Batch, size: int) -> list[Batch]:
    """A batch in parts of a size that the file fixes; what is left over is left out."""
    return [batch.tail(start).head(size) for start in range(0, batch.size - size + 1, size)]


def _compose_again(model: onnx.ModelProto, recipe: Recipe, names: Sequence[str]) -> None:
    """Make weights from their factors, as what they were turned into: float32, float16 or whole numbers."""
    import onnx

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, constants = recipe.behind(names)
    made = {tensor.name: tensor for tensor in constants}
    for name in [*made, *names]:  # what else reads them has them in another precision by now
        if name in stored and stored[name].data_type == onnx.TensorProto.FLOAT16:
            full = f"{name} float32"
            nodes = [renamed(node, name, full) for node in nodes]
            if name in made:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(made.pop(name))
                tensor.name = full
                made[full] = tensor
            else:
                nodes.append(onnx.helper.make_node("Cast", [full], [name], to=onnx.TensorProto.FLOAT16))
    for name in names:
        if f"{name}_quantized" in stored:
            nodes.append(_rounding(recipe.values[name], name, stored, made))
    put_back(model, nodes, made)


def _rounding(
    value: Array, name: str, stored: Mapping[str, onnx.TensorProto], made: dict[str, onnx.TensorProto]
) -> onnx.NodeProto:
    """The node that turns a weight into the whole numbers that the quantizer found; `made` gets its scale."""
    import onnx
    from onnx import numpy_helper

    whole, scale, zero = (stored[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))
    axis = _axis(value, *(numpy_helper.to_array(tensor) for tensor in (whole, scale, zero)))
    made |= {scale.name: scale, zero.name: zero}
    inputs = [name, scale.name, zero.name]
    return onnx.helper.make_node("QuantizeLinear", inputs, [whole.name], axis=axis)


def _axis(value: Array, whole: Array, scale: Array, zero: Array) -> int | None:
    """The axis along which scales differ; None where there is one for all.

    Raises:
        ValueError: the whole numbers come from no axis.
    """
    if scale.size == 1:
        return None
    for axis in range(value.ndim):
        if value.shape[axis] == scale.size:
            shape = [-1 if i == axis else 1 for i in range(value.ndim)]
            steps = value / scale.reshape(shape) + zero.reshape(shape).astype(np.float32)
            if np.abs(steps - whole).max() <= 1:
                return axis
    raise ValueError("a quantized weight does not belong to its scales")
