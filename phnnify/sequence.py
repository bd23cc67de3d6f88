"""The sequential fit: layers in execution order, each on the inputs that the converted part before it gives.

    original   ──x──▶ W        student (earlier layers fitted already)   ──x̂──▶ Ŵ = Σ A_r ⊗ S_r

Each layer is fitted so that Ŵ x̂ comes near W x (`fit.fit_to_data`), and its bias takes up the difference of
the means. The running statistics of each BatchNorm behind a fitted layer are those of the calibration inputs.
Embedding tables and shared weights come before all others (`tables`). Layers between which the network
chooses for each row (experts) meet other rows in the student, which may choose otherwise: they are fitted to
the rows that they meet in the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from phnnify.algebra import compose
from phnnify.batches import Batch
from phnnify.calibrate import Statistics, Sums, check_finite, measured_error, refusal
from phnnify.errors import ModelError
from phnnify.fit import Fit, fit_to_data, fit_to_problem
from phnnify.inputs import Example
from phnnify.layers import PHMLayer
from phnnify.lockstep import Runs, Stop
from phnnify.measure import evaluation_copy, submodule
from phnnify.opened.several import is_routed
from phnnify.survey import NORMS, absorbed_means
from phnnify.tables import shared_names, shared_problems
from phnnify.watching import Progress

WIDE = "{name} is too wide for the covariance of its inputs: it was fitted to their variances."


@dataclass(frozen=True)
class SequentialFit:
    """What a sequential fit did.

    Attributes:
        fits: By name of the layer, those that stayed in closed form too.
        notes: Which layers stayed in closed form, and why, in sentences.
    """

    fits: dict[str, Fit]
    notes: tuple[str, ...]


def fit_in_sequence_(
    student: nn.Module,
    teacher: nn.Module,
    fits: Mapping[str, Fit],
    batches: Sequence[Batch],
    progress: Progress | None = None,
) -> SequentialFit:
    """Fit the PHM layers of a student to data, in place, in the order in which they run.

    Args:
        student: The converted network, in closed form; factors, biases and BatchNorm statistics change.
        teacher: The original.
        fits: The closed form of each converted layer.
        batches: Calibration inputs. All their live activations are held at once.
        progress: Told before each layer, and at the end.

    Raises:
        ModelError: the network fails on the inputs, or takes different ways for different ones.
    """
    if not batches:
        raise ModelError("there are no calibration inputs")
    examples = [Example(batch.args, batch.kwargs) for batch in batches]
    teacher, running = evaluation_copy(teacher), evaluation_copy(student)
    results = _fit_shared_(student, teacher, fits, batches)
    closed, fits = fits, {name: fit for name, fit in fits.items() if name not in results}
    norms = [name for name, module in running.named_modules() if type(module) in NORMS]
    absorbed, calls = absorbed_means(running, fits, examples[0])
    later = _later_calls(teacher, [name for name in fits if calls[name] > 1], examples)
    done, total = 0, sum(fit.factors.entries for fit in fits.values())
    notes: list[str] = []
    with Runs(teacher, fits, examples) as originals, Runs(running, [*fits, *norms], examples) as students:
        while stops := students.advance():
            name = stops[0].name
            if name in norms:
                if results:
                    _estimate_(submodule(student, name), [stop.x for stop in stops])
                continue
            pairs = _paired(originals.advance(), stops, routed=is_routed(submodule(teacher, name)))
            if name in results:
                continue
            if progress:
                progress(done, total, name)
            dense, layer = submodule(teacher, name), submodule(student, name)
            if reason := refusal(dense):
                results[name] = fits[name]
                notes.append(f"{name} was fitted to its weight alone: it is {reason}.")
            elif isinstance(layer, PHMLayer):
                sums = later.get(name, Sums(dense)).add(pairs)
                statistics = sums.statistics(centered=name in absorbed or layer.bias is not None)
                check_finite(name, dense, statistics)
                results[name] = _fit_layer_(layer, dense, fits[name], statistics, pairs)
                if statistics.D is None:
                    notes.append(WIDE.format(name=name))
            done += fits[name].factors.entries
    if progress:
        progress(total, total, "")
    return SequentialFit({name: results.get(name, fit) for name, fit in closed.items()}, tuple(notes))


def _fit_shared_(
    student: nn.Module, teacher: nn.Module, fits: Mapping[str, Fit], batches: Sequence[Batch]
) -> dict[str, Fit]:
    """Fit tables and shared weights, in place."""
    found = {}
    for name, (weight, problem) in shared_problems(teacher, shared_names(teacher, fits), batches).items():
        layer = submodule(student, name)
        if isinstance(layer, PHMLayer):
            found[name] = fit_to_problem(weight, fits[name].factors, problem, given=fits[name].given)
            layer.set_factors(found[name].factors)
    return found


def _later_calls(teacher: nn.Module, names: Sequence[str], examples: Sequence[Example]) -> dict[str, Sums]:
    """Of layers that run several times: what flows into all calls but the first, in the original."""
    sums: dict[str, Sums] = {}
    seen: set[str] = set()
    if not names:
        return sums
    with Runs(teacher, names, examples) as runs:
        while stops := runs.advance():
            name = stops[0].name
            if name in seen and not refusal(submodule(teacher, name)):
                layer = sums.setdefault(name, Sums(submodule(teacher, name)))
                layer.add([(stop.x, stop.x) for stop in stops])
            seen.add(name)
    return sums


def _paired(
    originals: Sequence[Stop] | None, stops: Sequence[Stop], *, routed: bool
) -> list[tuple[Tensor, Tensor]]:
    """The inputs of the original's layer with those of the student's; with themselves, if rows may differ."""
    if not originals or originals[0].name != stops[0].name:
        raise ModelError(
            f"the original does not run {stops[0].name} where the converted network does",
            hint="its way depends on the data: leave --data out",
        )
    pairs = [(original.x, stop.x) for original, stop in zip(originals, stops, strict=True)]
    if routed or any(x.shape != x_hat.shape for x, x_hat in pairs):
        return [(x, x) for x, _ in pairs]
    return pairs


def _fit_layer_(
    layer: PHMLayer, dense: nn.Module, start: Fit, statistics: Statistics, pairs: list[tuple[Tensor, Tensor]]
) -> Fit:
    weight = layer.orient(dense.get_parameter("weight").detach())
    wide = statistics.D is None
    measure = partial(measured_error, dense, pairs, centered=statistics.centered) if wide else None
    fit = fit_to_data(weight, start.factors, statistics, measure, given=start.given)
    layer.set_factors(fit.factors)
    if layer.bias is not None:
        shift = statistics.shift(compose(*fit.factors.to(torch.float64)).flatten(1))
        with torch.no_grad():
            layer.bias.copy_((dense.get_parameter("bias").double() + shift).to(layer.bias.dtype))
    return fit


def _estimate_(norm: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Set the running statistics of a BatchNorm to those of its inputs."""
    if not isinstance(norm, NORMS) or norm.running_mean is None or norm.running_var is None:
        return
    rows = [x.detach().double().movedim(1, -1).flatten(0, -2) for x in inputs]
    count = sum(len(x) for x in rows)
    mean = torch.stack([x.sum(0) for x in rows]).sum(0) / count
    squares = torch.stack([(x - mean).square().sum(0) for x in rows]).sum(0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(squares / max(count - 1, 1))
