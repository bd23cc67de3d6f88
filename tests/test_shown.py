"""The course of a distillation as a table and as curves."""

from __future__ import annotations

from phnnify.distilling.shown import course_charts, moment_rows
from tests.courses import course


def test_the_table_has_the_moments_at_which_the_student_was_measured() -> None:
    rows = moment_rows(course({0: 0.5, 20: 0.86, 40: 0.85}))
    assert rows[0] == ("0", "0.0", "", "1.0e-03", "50.0%")
    assert rows[1] == ("20", "2.0", "0.1429", "1.0e-03", "86.0%")
    assert [row[0] for row in rows] == ["0", "20", "40"]


def test_without_evaluation_ten_moments_show_the_way() -> None:
    rows = moment_rows(course({}))
    assert len(rows) == 10
    assert (rows[0][0], rows[-1][0]) == ("0", "40")
    assert {row[-1] for row in rows} == {""}


def test_there_is_a_curve_for_all_that_was_measured() -> None:
    drawn = course_charts(course({0: 0.5, 20: 0.86, 40: 0.85}))
    assert drawn.count("<svg") == 3
    assert "top-1 on the evaluation data" in drawn
    assert course_charts(course({})).count("<svg") == 2
