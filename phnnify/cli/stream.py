"""`phnnify convert --stream`: a folder tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phnnify.cli.reading import form_label
from phnnify.cli.writing import at_work, check_targets, conclude, write_reports
from phnnify.errors import UsageError

if TYPE_CHECKING:
    from phnnify.plan import Plan, PlanOptions


def plan_options(
    n: int | None,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    min_share: float | None,
    low_rank: str | None,
    embeddings: bool,
) -> PlanOptions:
    """What decides between convert and keep, as `pipeline.convert` understands these options.

    Raises:
        UsageError: one cannot mean anything without data.
    """
    from phnnify.asked import Form, Sizing

    form = Form.read(n, None, False, "fit")
    sizing = Sizing.read(low_rank, None, None, has_data=False, form=form)
    least = None if min_share is None else min_share / 100
    return form.plan_options(include or (), exclude or (), least, sizing.share, embeddings)


def convert_stream(
    model: Path,
    output: Path | None,
    options: PlanOptions,
    plan: Plan | None,
    workers: int,
    trust: bool,
    reports: Sequence[Path],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the converted folder, and say what was done.

    Raises:
        UsageError: MODEL is no folder, or OUTPUT has the ending of a file.
        PhnnifyError: as `streaming.convert_folder`.
    """
    from phnnify import sources, streaming
    from phnnify.files import is_folder
    from phnnify.store import ENDINGS

    if not is_folder(model):
        raise UsageError(f"--stream is for Hugging Face folders; {model} is none", hint="leave --stream out")
    target = output or sources.name_beside(model, form_label(options.n, plan, None, "fit"), "")
    if target.suffix in ENDINGS:
        raise UsageError(f"--stream writes a folder, not {target}", hint="a name without an ending")
    check_targets(model, reports, reports, output=target)
    with at_work(quiet=quiet or as_json) as watch:
        report = streaming.convert_folder(
            model, target, options, plan=plan, workers=workers, trust=trust, watch=watch
        )
    write_reports(report, reports)
    conclude(report, [target, *reports], None, quiet=quiet, as_json=as_json)
