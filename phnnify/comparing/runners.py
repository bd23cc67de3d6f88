"""Where a network can run, and the bare call that is timed there: PyTorch, torch.compile and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from phnnify.comparing.candidates import Candidate
from phnnify.comparing.latency import Call
from phnnify.errors import PhnnifyError
from phnnify.export import export_onnx
from phnnify.inputs import Example, InputSpec
from phnnify.measure import evaluation_copy, without_cache_
from phnnify.runtime import OnnxNetwork, prepared


class NotMeasuredError(PhnnifyError):
    """A network cannot be measured in an engine, and why."""


@dataclass(frozen=True)
class Runner:
    """A network ready to run.

    Attributes:
        call: Makes the bare call of an example.
        file: What a fresh process reads to run it so; None where there is nothing to read.
    """

    call: Callable[[Example], Call]
    file: Path | None = None


Prepare = Callable[[Candidate, Sequence[InputSpec], Path, int], Runner]
"""Given a candidate, what it takes, a file to write if one is needed, and the number of threads.

Raises `NotMeasuredError` where it cannot run there.
"""


def _in_pytorch(candidate: Candidate, specs: Sequence[InputSpec], file: Path, threads: int) -> Runner:
    network = without_cache_(evaluation_copy(_module(candidate)))
    return Runner(lambda example: partial(network, *example.args, **example.kwargs), candidate.path)


def _compiled(candidate: Candidate, specs: Sequence[InputSpec], file: Path, threads: int) -> Runner:
    torch.compiler.reset()
    network = torch.compile(without_cache_(evaluation_copy(_module(candidate))), dynamic=False)
    return Runner(lambda example: partial(network, *example.args, **example.kwargs))


def _in_runtime(candidate: Candidate, specs: Sequence[InputSpec], file: Path, threads: int) -> Runner:
    network = candidate.network
    if not isinstance(network, OnnxNetwork):
        export_onnx(network, file, specs)
        network = OnnxNetwork(file, threads=threads)
    session, in_order = network.session, network.in_order
    return Runner(lambda e: prepared(session, in_order(e.args, e.kwargs)), network.path)


def _module(candidate: Candidate) -> torch.nn.Module:
    if candidate.is_onnx:
        raise NotMeasuredError(f"{candidate.name} is an ONNX file")
    return candidate.network


RUNNERS: dict[str, Prepare] = {
    "PyTorch": _in_pytorch,
    "torch.compile": _compiled,
    "ONNX Runtime": _in_runtime,
}
