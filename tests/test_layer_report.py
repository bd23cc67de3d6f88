"""What happened to one weight, in one row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from phnnify.layer_report import LAYER_HEADINGS, LayerReport, form_of, layer_cells

CONVERTED = LayerReport(
    name="a.b",
    kind="Linear",
    shape=(64, 32),
    status="converted",
    reason=None,
    order=(8, 4),
    terms=6,
    rank=2,
    algebra="learned",
    params_before=2048,
    params_after=1024,
    params_share=0.5,
    calls=1,
    flops=4096,
    flops_share=0.25,
)


def test_a_weight_that_stays_says_why() -> None:
    kept = replace(CONVERTED, status="kept", reason="too small", order=None, terms=None, rank=None)
    assert layer_cells(kept) == ("a.b", "64×32", "2,048", "kept", "too small")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (CONVERTED, "order 8×4, 6 terms, rank 2; 25.0% of FLOPs"),
        (replace(CONVERTED, flops_share=None), "order 8×4, 6 terms, rank 2"),
        (replace(CONVERTED, predicted_error=0.3), "30.0% of its output expected; order 8×4, 6 terms, rank 2"),
        (replace(CONVERTED, weight_error=0.2), "20.0% of the weight; order 8×4, 6 terms, rank 2"),
        (
            replace(CONVERTED, weight_error=0.2, output_error=0.1),
            "10.0% of its output; order 8×4, 6 terms, rank 2",
        ),
    ],
)
def test_the_error_that_says_most_is_shown(layer: LayerReport, words: str) -> None:
    cells = layer_cells(layer)
    assert len(cells) == len(LAYER_HEADINGS)
    assert cells[2:] == ("2,048", "1,024", words)


def test_a_form_names_what_the_weight_is_made_of() -> None:
    fixed = replace(CONVERTED, algebra="quaternion", rank=0)
    assert form_of(fixed) == "order 8×4, 6 terms, quaternion algebra"
    assert form_of(replace(CONVERTED, terms=0)) == "rank 2"
