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
from phnnify.errors import ExportError
from phnnify.evaluate import Evaluation, evaluate, main_output
from phnnify.export import OnnxFile, export_onnx
from phnnify.files import check_target
from phnnify.forms import ExportForm
from phnnify.inputs import Example, Inputs, random_example, read_inputs
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
        form: As for `export_onnx`.
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
    with tempfile.TemporaryDirectory(prefix="phnnify-") as folder:
        plain = export_onnx(
            model, Path(folder) / "float.onnx", specs, form=form, batch=batch, opset=opset, seed=seed
        )
        quantize_onnx(Path(plain.path), path, kind, calibration if kind == "int8" else ())
    model = copied(model, {}).eval().cpu()
    try:
        questions = data if data is not None else calibration or _random(model, specs, plain.batches, seed)
        network, first = OnnxNetwork(path), next(iter(questions))
        example = Example(first.args, first.kwargs)
        wanted = main_output(forward(model, example)).double().cpu()
        difference = float((main_output(forward(network, example)).double() - wanted).abs().max())
        found = evaluate(model, network, questions)
    except ExportError:
        path.unlink()
        raise
    return QuantizedFile(
        **{
            **asdict(plain), "path": str(path), "bytes": onnx_bytes(path), "max_abs_diff": difference,
            "max_rel_diff": difference / max(float(wanted.abs().max()), 1e-30),
        },
        kind=kind,
        float_bytes=plain.bytes,
        calibrated=sum(part.size for part in calibration) if kind == "int8" else 0,
        evaluation=found,
        measured_on="random inputs" if data is None and not calibration else "data",
    )  # fmt: skip


def _random(model: nn.Module, specs: Inputs, batches: Sequence[int], seed: int) -> list[Batch]:
    """Random inputs, in batches of a size that the file takes."""
    size = batches[0] if len(batches) == 1 else _SAMPLES
    example = random_example(read_inputs(specs), model, seed=seed, batch=size)
    return [Batch(example.args, example.kwargs)]
