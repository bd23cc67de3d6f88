"""A Hugging Face folder converted without ever being in memory: plan → pieces → shards → folder.

The counterpart of `pipeline.convert` for checkpoints that are larger than the memory: in closed form only,
since the network never runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from phnnify import folders, hub
from phnnify.algebra import Factors
from phnnify.algebras import LEARNED
from phnnify.change import Change
from phnnify.errors import FileError, PlanError, UsageError
from phnnify.files import replacing_folder, write_text
from phnnify.fit import Fit
from phnnify.notes import NEEDS_DISTILLATION
from phnnify.opened import open_modules
from phnnify.pieces import pieces_of
from phnnify.plan import Plan, PlanOptions, check_plan, make_plan
from phnnify.plan_file import plan_json
from phnnify.report import Report, make_report
from phnnify.shards import Shard, in_shards, stored_names, write_shards
from phnnify.trace import trace
from phnnify.watching import Watcher, nobody

SHARD = 128 * 2**20  # numbers in an output file: half a gigabyte in float32


def convert_folder(
    folder: Path,
    target: Path,
    options: PlanOptions | None = None,
    *,
    plan: Plan | None = None,
    workers: int = 1,
    most: int = SHARD,
    trust: bool = False,
    watch: Watcher | None = None,
) -> Report:
    """Convert a folder in closed form, tensor by tensor.

    Memory holds, for each process, one output file, one module of the original, and what the fit of one
    weight takes. A run that was stopped goes on where it was: its finished files are in `TARGET.partial`.

    Args:
        folder: A Hugging Face folder with safetensors files.
        target: The folder to write; `from_pretrained` opens it.
        options: What is converted, and how; low-rank terms and learned algebras only.
        plan: A plan to follow instead.
        workers: How many processes work at once.
        most: How many numbers an output file holds at most (a single module may be larger).
        trust: Let Python code in the folder run.
        watch: Told how far it is.

    Returns:
        The report.

    Raises:
        UsageError: the number of processes or the algebras cannot be.
        FileError, UntrustedError: the folder cannot be read, or the target not written.
        ModelError: the weights are not those of the network, or not finite.
        PlanError: no weight can be converted, or the plan does not fit.
    """
    watch = watch or nobody
    if workers < 1:
        raise UsageError(f"the number of workers is {workers}; it must be at least 1")
    watch("looking at the network", 0, 0)
    files = folders.weight_files(folder)
    if folders.is_converted(folder):
        raise FileError(f"{folder} is already converted", hint="convert the original, with another n")
    places = stored_names(files)
    model = hub.empty_network(folder, trust=trust)
    traced = trace(open_modules(model))
    plan = check_plan(plan, traced) if plan else make_plan(traced, options or PlanOptions())
    _check(plan)
    pieces = in_shards(pieces_of(model, plan, places), most)
    partial = target.with_name(f"{target.name}.partial")
    _begin(partial, plan, files, most)
    names = _file_names(len(pieces))
    metadata = {folders.METADATA_KEY: plan_json(plan)} if len(names) == 1 else {}
    shards = [
        Shard(partial / name, group, {n: places[n] for p in group for n in p.needs.values()}, metadata)
        for name, group in zip(names, pieces, strict=True)
    ]
    write_shards(shards, workers, lambda done, total: watch("converting", done, total))
    errors = {name: error for shard in shards for name, error in shard.errors().items()}
    _finish(folder, target, partial, model, plan, shards)
    none = Factors(*[next(model.parameters()).new_empty(0)] * 2)
    report = make_report(
        traced, plan, {name: Fit(none, error) for name, error in errors.items()}, [NEEDS_DISTILLATION]
    )
    return report.with_files(Change(folders.weight_bytes(folder), folders.weight_bytes(target)))


def _check(plan: Plan) -> None:
    if not plan.conversions:
        reasons = "; ".join(f"{d.name}: {d.reason}" for d in plan.decisions[:3])
        raise PlanError(f"no weight can be converted ({reasons or 'the network has none'}; ...)")
    if set(plan.algebras.values()) != {LEARNED}:
        raise UsageError("fixed and shared algebras need all weights at once", hint="leave --stream out")


def _file_names(count: int) -> list[str]:
    """As transformers calls them."""
    if count == 1:
        return [folders.WEIGHTS]
    stem = folders.WEIGHTS.removesuffix(".safetensors")
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _begin(partial: Path, plan: Plan, files: Sequence[Path], most: int) -> None:
    """Be ready to write there; what another conversion left goes."""
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = json.dumps({"plan": json.loads(plan_json(plan)), "most": most, "files": stamps})
    note = partial / "conversion.json"
    try:
        if note.exists() and note.read_text(encoding="utf-8") == told:
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as error:
        raise FileError(f"cannot write {partial}: {error.strerror or error}") from None
    write_text(note, told)


def _finish(
    folder: Path, target: Path, partial: Path, model: nn.Module, plan: Plan, shards: Sequence[Shard]
) -> None:
    """Put everything in its place."""
    with replacing_folder(target, folders.is_converted) as fresh:
        folders.copy_companions(folder, fresh, code=hub.needs_code(folder))
        hub.write_description(model, fresh)
        if len(shards) > 1:
            folders.write_index(fresh, {s.path.name: s.names for s in shards}, plan_json(plan))
        for shard in shards:
            shard.path.rename(fresh / shard.path.name)
    shutil.rmtree(partial, ignore_errors=True)
