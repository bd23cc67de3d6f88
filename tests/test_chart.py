"""Curves as SVG."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from phnnify.chart import line_chart

values = st.floats(-1e9, 1e9)


def polyline(svg: str) -> list[tuple[float, float]]:
    found = ElementTree.fromstring(svg).find("polyline")
    assert found is not None
    return [(float(x), float(y)) for x, y in (p.split(",") for p in found.attrib["points"].split())]


@given(st.lists(values, min_size=1, max_size=20))
def test_every_curve_stays_inside_and_higher_values_are_higher_up(heights: list[float]) -> None:
    svg = line_chart("loss", "steps", [(float(i), y) for i, y in enumerate(heights)])
    places = polyline(svg)
    assert all(0 <= x <= 460 and 0 <= y <= 180 and math.isfinite(y) for x, y in places)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    drawn = [places[i][1] for i in order]
    assert all(later <= earlier for earlier, later in pairwise(drawn))
    assert [x for x, _ in places] == sorted(x for x, _ in places)


def test_words_are_escaped_and_the_extremes_are_written() -> None:
    svg = line_chart("<b>", "a & b", [(0, 0.25), (300, 2.5)])
    words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert words == ["<b>", "2.5", "0.25", "0", "300 a & b"]
