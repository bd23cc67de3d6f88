"""Curves as SVG, drawn with nothing but text, for a page that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _EDGE = 460, 180, 46  # of the picture, and of the room for the numbers, in pixels
_WIDE, _TALL, _LEFT, _TOP, _LINE = 640, 340, 60, 34, 20  # the same for several curves; _LINE: of the legend
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by colour-blind eyes too (Okabe, Ito)

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One of several curves.

    Attributes:
        name: For the legend.
        colour: Curves with the same number have the same colour.
        dashed: How they are told apart then.
        points: (x, y, low, high), all above 0, x rising: low to high is drawn as a bar.
    """

    name: str
    colour: int
    dashed: bool
    points: Sequence[tuple[float, float, float, float]]


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
    axes = f'<path d="M{_EDGE} 26V{_HEIGHT - 20}H{_WIDTH - 10}" fill="none" stroke="#bbb"/>'
    curve = f'<polyline points="{places}" fill="none" stroke="#2457a6" stroke-width="1.5"/>'
    return _picture(_WIDTH, _HEIGHT, title, axes + curve + _texts(words))


def curves_chart(title: str, across: str, curves: Sequence[Curve]) -> str:
    """Several curves with a legend, both axes logarithmic, as an `<svg>` element.

    Args:
        title: What goes up.
        across: What goes to the right; marked at each point's x.
        curves: At least one, with at least one point each.
    """
    xs = sorted({x for curve in curves for x, *_ in curve.points})
    ys = [y for curve in curves for _, *around in curve.points for y in around]
    across_axis = _Axis(xs[0], xs[-1], _LEFT + 10, _WIDE - 20)
    up_axis = _Axis(min(ys), max(ys), _TALL - 34, _TOP + 6)
    marks = _decimal_marks(min(ys), max(ys))
    words = [
        (_LEFT, 18, "start", title),
        (_WIDE - 12, _TALL + 4, "end", across),
        *((across_axis.place(x), _TALL - 12, "middle", f"{x:g}") for x in xs),
        *((_LEFT - 6, up_axis.place(y) + 4, "end", f"{y:g}") for y in marks),
        *((_LEFT + 34, _legend(i) + 4, "start", curve.name) for i, curve in enumerate(curves)),
    ]
    lines = "".join(
        f'<path d="M{_LEFT} {up_axis.place(y):.1f}H{_WIDE - 10}" stroke="#ddd" fill="none"/>' for y in marks
    )
    axes = f'<path d="M{_LEFT} {_TOP}V{_TALL - 28}H{_WIDE - 10}" fill="none" stroke="#999"/>'
    drawn = "".join(_drawn(curve, i, across_axis, up_axis) for i, curve in enumerate(curves))
    return _picture(_WIDE, _legend(len(curves)), title, lines + axes + drawn + _texts(words))


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis between two places of the picture."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        part = _part(math.log(value), math.log(self.low), math.log(self.high))
        return self.start + part * (self.end - self.start)


def _decimal_marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten that lie between, or only these where they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1,) if len(powers) > 4 else (1, 2, 5)
    return [d * 10.0**power for power in powers for d in digits if low <= d * 10.0**power <= high]


def _legend(line: int) -> int:
    return _TALL + 22 + line * _LINE


def _drawn(curve: Curve, line: int, across: _Axis, up: _Axis) -> str:
    """A curve with its bars and points, and its line in the legend."""
    colour = _COLOURS[curve.colour % len(_COLOURS)]
    style = f'stroke="{colour}" fill="none" stroke-width="1.8"'
    style += ' stroke-dasharray="6 4"' if curve.dashed else ""
    places = [(across.place(x), up.place(y), up.place(a), up.place(b)) for x, y, a, b in curve.points]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y, *_ in places)
    marks = "".join(
        f'<path d="M{x:.1f} {a:.1f}V{b:.1f}" stroke="{colour}" stroke-width="5" stroke-opacity=".35"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
        for x, y, a, b in places
    )
    sample = f'<path d="M{_LEFT} {_legend(line)}h26" {style}/>'
    return f'<polyline points="{points}" {style}/>{marks}{sample}'


def _texts(words: Iterable[tuple[float, float, str, str]]) -> str:
    return "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(text)}</text>'
        for x, y, anchor, text in words
    )


def _picture(width: int, height: int, title: str, content: str) -> str:
    return (
        f'<svg width="{width}" height="{height}" font-size="12" font-family="system-ui, sans-serif" '
        f'role="img" aria-label="{html.escape(title)}">{content}</svg>'
    )


def standalone(svg: str) -> str:
    """An `<svg>` element as a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _part(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5
