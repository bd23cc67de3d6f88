"""A number before and after."""

from __future__ import annotations

from phnnify.change import Change


def test_a_change_knows_what_is_kept() -> None:
    assert Change(200, 50).kept == 0.25
    assert Change(200, 0).kept == 0
    assert Change(0, 50).kept is None


def test_a_change_knows_how_many_times_smaller_it_became() -> None:
    assert Change(200, 50).ratio == 4
    assert Change(0, 50).ratio == 0
    assert Change(200, 0).ratio is None


def test_what_was_not_measured_has_no_ratio() -> None:
    for change in (Change(), Change(200), Change(after=50)):
        assert change.kept is None
        assert change.ratio is None
