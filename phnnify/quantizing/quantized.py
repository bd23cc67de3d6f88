"""A network as an ONNX file in int8 or fp16, and what that costs, measured against the network in PyTorch.

No tolerance is set, as the error is the price of the smaller numbers: it is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from phnnify.batches import Batch
from phnnify.evaluate import Evaluation, evaluate, main_output
from phnnify.export import OnnxFile, export_onnx
from phnnify.files import check_target, replacing
from phnnify.forms import ExportForm
from phnnify.inputs import Example, Inputs, random_example, read_inputs
from phnnify.layers import PHMLayer
from phnnify.measure import copied, forward
from phnnify.quantizing.quantize import check_kind, quantize_onnx
from phnnify.runtime import OnnxNetwork, onnx_bytes

_SAMPLES = 32  # random inputs, where there are no others


@dataclass(frozen=True)
class QuantizedFile(OnnxFile):
    """A written ONNX file of smaller numbers.

    `max_abs_diff` and `max_rel_diff` are those of its first output, on the first batch that it was measured
    on.

    Attributes:
        kind: 'int8' or 'fp16'.
        float_bytes: The size of the same file in float32.
        calibrated: On how many inputs the ranges of what flows between layers were taken; 0 where they are
            found anew at each call.
        evaluation: How it answers, beside the network in PyTorch.
        measured_on: 'data' or 'random inputs'.
    """

    kind: str
    float_bytes: int
    calibrated: int
    evaluation: Evaluation
    measured_on: str


def export_quantized(
    model: nn.Module,
    path: str | Path,
    inputs: Inputs,
    kind: str,
    *,
    calibration: Sequence[Batch] = (),
    data: Iterable[Batch] | None = None,
    form: ExportForm = "auto",
    batch: int | None = None,
    opset: int = 18,
    seed: int = 0,
) -> QuantizedFile:
    """Write a network as ONNX in smaller numbers, and measure what that costs.

    Args:
        model: As for `export_onnx`.
        path: The file to write.
        inputs: As for `export_onnx`.
        kind: 'int8' or 'fp16' (`quantize`).
        calibration: Inputs for int8. With them all layers compute with whole numbers.
        data: Inputs, with labels or without, on which it is compared with the network; by default the
            calibration inputs, else 32 random ones.
        form: As for `export_onnx`; with calibration inputs "auto" means "folded" for convolutional networks,
            which then compute in whole numbers.
        batch: As for `export_onnx`.
        opset: The ONNX operator set.
        seed: For the random inputs.

    Raises:
        UsageError, ModelError: as `export_onnx` does, or the kind is unknown.
        ExportError: as `export_onnx` does, or it cannot be quantized; then no file is left.
    """
    check_kind(kind)
    path, specs = Path(path), read_inputs(inputs)
    check_target(path)
    calibration = calibration if kind == "int8" else ()
    form = "folded" if form == "auto" and calibration and _is_convolutional(model) else form
    with tempfile.TemporaryDirectory(prefix="phnnify-") as folder, replacing(path) as temporary:
        plain = export_onnx(
            model, Path(folder) / "float.onnx", specs, form=form, batch=batch, opset=opset, seed=seed
        )
        quantize_onnx(Path(plain.path), temporary, kind, calibration)
        questions = data if data is not None else calibration or _random(model, specs, plain.batches, seed)
        size, network = onnx_bytes(temporary), OnnxNetwork(temporary)
        model = copied(model, {}).eval().cpu()
        difference, magnitude = _first_difference(model, network, next(iter(questions)))
        found = evaluate(model, network, questions)
    changed = {
        "path": str(path), "bytes": size, "max_abs_diff": difference,
        "max_rel_diff": difference / max(magnitude, 1e-30),
    }  # fmt: skip
    return QuantizedFile(
        **{**asdict(plain), **changed},
        kind=kind,
        float_bytes=plain.bytes,
        calibrated=sum(part.size for part in calibration),
        evaluation=found,
        measured_on="random inputs" if data is None and not calibration else "data",
    )


def _is_convolutional(model: nn.Module) -> bool:
    """Whether most of what was converted is convolutions: whole numbers take these as one product only."""
    layers = [module for module in model.modules() if isinstance(module, PHMLayer)]
    spatial = sum(layer.S.numel() for layer in layers if len(layer.matrix) > 2)
    return 2 * spatial > sum(layer.S.numel() for layer in layers)


def _first_difference(model: nn.Module, network: nn.Module, batch: Batch) -> tuple[float, float]:
    """The largest difference of the main outputs, and the largest output."""
    example = Example(batch.args, batch.kwargs)
    wanted, got = (main_output(forward(x, example)).double().cpu() for x in (model, network))
    return float((got - wanted).abs().max()), float(wanted.abs().max())


def _random(model: nn.Module, specs: Inputs, batches: Sequence[int], seed: int) -> list[Batch]:
    """Random inputs, in batches of a size that the file takes."""
    size = batches[0] if len(batches) == 1 else _SAMPLES
    example = random_example(read_inputs(specs), model, seed=seed, batch=size)
    return [Batch(example.args, example.kwargs)]
