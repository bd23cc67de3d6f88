"""Being told how far it is."""

from __future__ import annotations

from phnnify.watching import nobody, saying


def test_a_watcher_is_told_of_a_weight_by_its_name() -> None:
    told: list[tuple[str, int, int]] = []
    saying(lambda *what: told.append(what), "fitting {} to data")(3, 9, "block.{0}.head")
    assert told == [("fitting block.{0}.head to data", 3, 9)]


def test_nobody_can_be_told_too() -> None:
    saying(nobody, "fitting {}")(0, 1, "head")
