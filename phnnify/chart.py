"""A curve as SVG, drawn with nothing but text, for a page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence

_WIDTH, _HEIGHT, _EDGE = 460, 180, 46  # of the picture, and of the room for the numbers, in pixels

Point = tuple[float, float]


def line_chart(title: str, across: str, points: Sequence[Point]) -> str:
    """One curve with its extremes written at the axes, as an `<svg>` element.

    Args:
        title: What goes up.
        across: What goes to the right.
        points: (x, y), x rising; finite; at least one.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    places = " ".join(
        f"{_EDGE + _part(x, left, right) * (_WIDTH - _EDGE - 10):.1f},"
        f"{_HEIGHT - 24 - _part(y, low, high) * (_HEIGHT - 54):.1f}"
        for x, y in points
    )
    words = [
        (_EDGE, 16, "start", title),
        (_EDGE - 6, 34, "end", f"{high:.3g}"),
        (_EDGE - 6, _HEIGHT - 20, "end", f"{low:.3g}"),
        (_EDGE, _HEIGHT - 6, "start", f"{left:.4g}"),
        (_WIDTH - 10, _HEIGHT - 6, "end", f"{right:.4g} {across}"),
    ]
    texts = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'
        for x, y, anchor, text in words
    )
    axes = f'<path d="M{_EDGE} 26V{_HEIGHT - 20}H{_WIDTH - 10}" fill="none" stroke="#bbb"/>'
    curve = f'<polyline points="{places}" fill="none" stroke="#2457a6" stroke-width="1.5"/>'
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" font-size="12" font-family="system-ui, sans-serif" '
        f'role="img" aria-label="{html.escape(title)}">{axes}{curve}{texts}</svg>'
    )


def _part(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
