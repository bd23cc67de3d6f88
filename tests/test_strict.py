"""JSON that any reader takes."""

from __future__ import annotations

import json

import pytest

from phnnify.strict import json_text

INF = float("inf")


def refused(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def test_numbers_that_are_not_finite_are_null_at_any_depth() -> None:
    value = {"a": float("nan"), "b": [1.5, INF, {"c": (-INF, 2)}], "d": "NaN", "e": True}
    found = json.loads(json_text(value), parse_constant=refused)
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": "NaN", "e": True}


@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_finite_is_as_json_has_it(indent: int | None) -> None:
    value = {"a": [1, 2.5, None, "ä"], "b": {"c": False}}
    assert json_text(value, indent) == json.dumps(value, indent=indent)
