"""Courses of distillations that never were."""

from __future__ import annotations

from phnnify.distilling.course import Course, Moment


def course(metrics: dict[int, float]) -> Course:
    """40 steps in 4 minutes, measured at some of them."""
    history = tuple(
        Moment(step, 6.0 * step, 3.0 / (1 + step) if step else None, 1e-3, 50.0, metrics.get(step))
        for step in range(41)
    )
    best = max(metrics, key=metrics.__getitem__) if metrics else None
    return Course(40, 240.0, 2e-3, 128, 1, "bf16", 1, "top-1" if metrics else None, best, history)
