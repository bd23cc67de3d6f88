"""The course of a distillation as a reader sees it: the rows of a table, and curves."""

from __future__ import annotations

from phnnify.chart import line_chart
from phnnify.distilling.course import Course

MOMENT_HEADINGS = ("step", "minutes", "loss", "rate", "on --eval")


def moment_rows(course: Course) -> list[tuple[str, ...]]:
    """One row under `MOMENT_HEADINGS` for each time that the student was measured, else for ten moments."""
    shown = [m for m in course.history if m.metric is not None]
    shown = shown or [course.history[i * (len(course.history) - 1) // 9] for i in range(10) if course.history]
    return [
        (
            f"{m.step:,}",
            f"{m.seconds / 60:.1f}",
            "" if m.loss is None else f"{m.loss:.4g}",
            f"{m.rate:.1e}",
            "" if m.metric is None else f"{m.metric:.1%}",
        )
        for m in shown
    ]


def course_charts(course: Course) -> str:
    """The loss, what was measured, and the rate over the steps, as `<svg>` elements."""
    measured = [(m.step, m.metric) for m in course.history if m.metric is not None]
    curves = {
        "loss": [(m.step, m.loss) for m in course.history if m.loss is not None],
        f"{course.metric} on the evaluation data": measured,
        "learning rate": [(m.step, m.rate) for m in course.history],
    }
    return "".join(line_chart(title, "steps", points) for title, points in curves.items() if points)
