"""Two networks measured side by side: files, memory, speed in each engine, and answers; all on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phnnify.batches import Batch, as_batch, input_specs
from phnnify.change import Change
from phnnify.comparing.candidates import Candidate, read_candidate
from phnnify.comparing.comparison import Comparison, EngineCosts
from phnnify.comparing.latency import Latency, duel
from phnnify.comparing.probe import Footprint, measure_footprint
from phnnify.comparing.runners import RUNNERS, NotMeasuredError, Runner
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.errors import PhnnifyError, UsageError
from phnnify.evaluate import evaluate
from phnnify.inputs import Inputs, InputSpec, random_example, read_inputs
from phnnify.measure import evaluation_copy, first_line
from phnnify.quiet import quiet
from phnnify.runtime import ONNX, OnnxNetwork, inputs_of, onnx_bytes
from phnnify.watching import Watcher, nobody


@dataclass(frozen=True)
class _Match:
    """What is compared, and on what."""

    sides: tuple[Candidate, Candidate]
    specs: tuple[InputSpec, ...]
    batches: tuple[int, ...]
    threads: int
    seed: int
    seconds: float
    watch: Watcher


def compare(
    before: nn.Module | str | Path,
    after: nn.Module | str | Path,
    *,
    inputs: Inputs | None = None,
    data: str | Iterable[Any] | None = None,
    data_options: DataOptions | None = None,
    batches: Sequence[int] = (1, 8, 64),
    engines: Sequence[str] = tuple(RUNNERS),
    threads: int = 2,
    seconds: float = 2.0,
    arch: str | tuple[str | None, str | None] | None = None,
    trust: bool = False,
    seed: int = 0,
    watch: Watcher | None = None,
) -> Comparison:
    """Compare two networks, such as an original and its converted copy.

    Args:
        before: The first: a network, or a file that the commands read, or an .onnx file.
        after: The second.
        inputs: What they take; by default as a file or the data says.
        data: On which their answers are compared: batches, or a reference (`data.read_data`). With labels
            their accuracy is measured.
        data_options: How referenced images and arrays become inputs.
        batches: The sizes of axis 0 at which they are timed; the first also for load time and memory.
        engines: In what they run.
        threads: On how many, in every engine.
        seconds: About how long one engine at one batch size is timed.
        arch: Where networks come from whose files hold only weights; one for both, or one for each.
        trust: Let code stored in the files run.
        seed: For the random inputs.
        watch: Told what is going on.

    Raises:
        UsageError: an unknown engine, a size or number of threads below 1, or nobody says what they take.
        FileError, UntrustedError, ModelError, ExportError: a network cannot be read, or fails on the data.
    """
    _check(batches, engines, threads)
    watch, archs = watch or nobody, (arch, arch) if arch is None or isinstance(arch, str) else arch
    torch.manual_seed(seed)
    with _threads(threads):
        sides = []
        for given, its in zip((before, after), archs, strict=True):
            watch(f"reading {given if isinstance(given, (str, Path)) else type(given).__name__}", 0, 0)
            sides.append(_candidate(given, its, trust, threads))
        pair = sides[0], sides[1]
        questions = None if data is None else _questions(data, data_options)
        specs = read_inputs(inputs) or _specs(pair, questions)
        match = _Match(pair, specs, tuple(batches), threads, seed, seconds, watch)
        evaluation = None
        if questions is not None:
            watch("comparing the answers", 0, 0)
            evaluation = evaluate(pair[0].network, pair[1].network, questions)
        costs, latency, notes = _all_engines(match, engines)
    return Comparison(
        names=_names(pair),
        params=Change(*(side.parameters for side in pair)),
        bytes=Change(*(side.bytes for side in pair)),
        engines=tuple(costs),
        latency=tuple(latency),
        evaluation=evaluation,
        threads=threads,
        notes=(*notes, *(evaluation.notes(*_names(pair)) if evaluation else ())),
    )


def _check(batches: Sequence[int], engines: Sequence[str], threads: int) -> None:
    if unknown := [engine for engine in engines if engine not in RUNNERS]:
        raise UsageError(f"there is no engine {unknown[0]!r}", hint=f"engines: {', '.join(RUNNERS)}")
    if not batches or min(batches) < 1:
        raise UsageError(f"batch sizes {list(batches)}: at least one is needed, all at least 1")
    if threads < 1:
        raise UsageError(f"the number of threads is {threads}; it must be at least 1")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _candidate(given: nn.Module | str | Path, arch: str | None, trust: bool, threads: int) -> Candidate:
    if isinstance(given, nn.Module):
        return Candidate(evaluation_copy(given).cpu(), type(given).__name__)
    return read_candidate(Path(given), arch=arch, trust=trust, threads=threads)


def _questions(data: str | Iterable[Any], options: DataOptions | None) -> Iterable[Batch]:
    if isinstance(data, str):
        return read_data(data, options)
    return [as_batch(item, "data") for item in data]


def _specs(sides: Sequence[Candidate], questions: Iterable[Batch] | None) -> tuple[InputSpec, ...]:
    """What the networks take, from the data or from their files."""
    if questions is not None and (first := next(iter(questions), None)) is not None:
        return input_specs([first])
    for side in sides:
        if side.inputs:
            return side.inputs
        if isinstance(side.network, OnnxNetwork):
            return inputs_of(side.network.session, side.network.path)
    raise UsageError("what do the networks take?", hint="give --data, or --input, such as --input 1x3x32x32")


def _names(sides: Sequence[Candidate]) -> tuple[str, str]:
    """Two names that differ."""
    first, second = (side.name for side in sides)
    return (first, second) if first != second else (f"{first} (1)", f"{second} (2)")


def _all_engines(match: _Match, engines: Sequence[str]) -> tuple[list[EngineCosts], list[Latency], list[str]]:
    """What each engine costs, how fast it is, and what could not be measured."""
    costs: list[EngineCosts] = []
    latency: list[Latency] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="phnnify-") as folder:
        for engine in (engine for engine in RUNNERS if engine in engines):
            match.watch(f"preparing {engine}", 0, 0)
            try:
                runners = [_runner(engine, match, place, Path(folder)) for place in (0, 1)]
                latency += _latencies(engine, match, runners, notes)
            except PhnnifyError as reason:
                notes.append(f"{engine}: not measured: {reason}")
                costs.append(EngineCosts(engine, reason=str(reason)))
                continue
            if engine != "torch.compile":
                costs.append(_costs(engine, match, runners, notes))
    return costs, latency, notes


def _runner(engine: str, match: _Match, place: int, folder: Path) -> Runner:
    """One of the networks, ready to run."""
    file = folder / f"{place}.onnx"
    with quiet():
        return RUNNERS[engine](match.sides[place], match.specs, file, match.threads)


def _latencies(engine: str, match: _Match, runners: Sequence[Runner], notes: list[str]) -> list[Latency]:
    """Both networks at each batch size; where none can be measured, that is an error.

    Raises:
        NotMeasuredError: the engine fails at every batch size.
    """
    found: list[Latency] = []
    network = next((side.network for side in match.sides if not side.is_onnx), match.sides[0].network)
    failures: list[str] = []
    with torch.no_grad():
        for done, batch in enumerate(match.batches):
            match.watch(f"timing {engine} at batch {batch}", done, len(match.batches))
            example = random_example(match.specs, network, seed=match.seed, batch=batch)
            calls = [runner.call(example) for runner in runners]
            try:
                with quiet():  # the first call compiles, or finds that it cannot
                    for call in calls:
                        call()
            except Exception as error:  # whatever the user's own forward, a compiler or a runtime may raise
                failures.append(f"at batch {batch}: {first_line(error)}")
                continue
            found.append(Latency(engine, batch, duel(*calls, seconds=match.seconds)))
    if not found:
        raise NotMeasuredError(failures[0])
    notes += [f"{engine}: not measured {failure}" for failure in failures]
    return found


def _costs(engine: str, match: _Match, runners: Sequence[Runner], notes: list[str]) -> EngineCosts:
    """File, load time and memory of both, in fresh processes."""
    prints: list[Footprint | None] = []
    for side, runner in zip(match.sides, runners, strict=True):
        match.watch(f"loading {side.name} in {engine}", 0, 0)
        prints.append(_footprint(engine, match, side, runner, notes))
    files = [runner.file for runner in runners]
    sizes = [onnx_bytes(file) if file and file.suffix == ONNX else None for file in files]
    return EngineCosts(
        engine,
        bytes=Change(*sizes),
        load_seconds=Change(*(found.seconds if found else None for found in prints)),
        peak_bytes=Change(*(found.peak_bytes if found else None for found in prints)),
    )


def _footprint(
    engine: str, match: _Match, side: Candidate, runner: Runner, notes: list[str]
) -> Footprint | None:
    if runner.file is None:
        notes.append(f"{engine}: load time and memory of {side.name} not measured: it is in no file")
        return None
    try:
        return measure_footprint(
            runner.file, match.specs, arch=side.arch, trust=side.trust,
            threads=match.threads, batch=match.batches[0], seed=match.seed,
        )  # fmt: skip
    except PhnnifyError as reason:
        notes.append(f"{engine}: load time and memory not measured: {reason}")
        return None
