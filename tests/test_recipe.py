"""How a student learns, as values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phnnify.batches import Batch
from phnnify.distilling.augment import Augmentation
from phnnify.distilling.recipe import Length, Recipe
from phnnify.errors import UsageError

parts = st.floats(0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 5, "minutes": 1.0}, "--steps and --minutes exclude each other"),
        ({"steps": 0}, "--steps is 0; it must be above 0"),
        ({"minutes": -1.0}, "--minutes is -1.0"),
        ({"epochs": math.nan}, "--epochs is nan"),
        ({"rate": math.inf}, "--rate is inf"),
        ({"batch": 0}, "--batch is 0"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"labels": 1.5}, "--labels is 1.5; it must be from 0 to 1"),
        ({"average": -0.1}, "--average"),
        ({"hidden": -1.0}, "--hidden is -1.0; it must not be negative"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes"),
        ({"optimizer": "adam"}, "--optimizer is 'adam'"),
        ({"loss": "l1"}, "--loss is 'l1'"),
        ({"precision": "fp16"}, "--precision is 'fp16'"),
    ],
)
def test_a_value_that_cannot_mean_anything_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        Recipe(**values)
    assert message in str(refused.value)


def test_the_length_is_steps_epochs_or_minutes() -> None:
    assert Recipe().length(10) == Length(steps=1000)
    assert Recipe(steps=7).length(10) == Length(steps=7)
    assert Recipe(epochs=2.5).length(10) == Length(steps=25)
    assert Recipe(epochs=0.01).length(10) == Length(steps=1)
    assert Recipe(minutes=2).length(10) == Length(minutes=2)


@given(st.integers(1, 500), st.integers(0, 1000))
def test_a_run_by_steps_is_over_after_them_whatever_the_time(steps: int, done: int) -> None:
    assert Length(steps=steps).done(done, 1e9) == min(1, done / steps)


@given(st.floats(0.01, 100), st.floats(0, 1e4))
def test_a_run_by_minutes_is_over_after_them_whatever_the_steps(minutes: float, seconds: float) -> None:
    assert Length(minutes=minutes).done(10**6, seconds) == pytest.approx(min(1, seconds / 60 / minutes))


@given(parts, parts)
def test_the_rate_rises_to_its_highest_then_falls_and_never_is_zero(warmup: float, done: float) -> None:
    recipe = Recipe(warmup=warmup)
    share = recipe.share_of_rate(done)
    assert 0 < share <= 1
    step = min(1.0, done + 1e-3)
    if step < warmup:
        assert recipe.share_of_rate(step) >= share
    if done >= warmup:
        assert recipe.share_of_rate(step) <= share
    if warmup < 1:
        assert recipe.share_of_rate(warmup) == pytest.approx(1)


def test_recipes_that_lead_to_other_weights_have_other_texts() -> None:
    recipe = Recipe(steps=5)
    assert recipe.to_json() == Recipe(steps=5).to_json()
    assert recipe.to_json() == replace(recipe, device="cpu", checkpoint_minutes=1.0).to_json()
    for values in ({"steps": 6}, {"seed": 1}, {"augment": Augmentation(flip=True)}, {"average": 0.5}):
        assert replace(recipe, **values).to_json() != recipe.to_json()


def test_labels_that_are_to_be_learned_must_be_there() -> None:
    x, y = torch.zeros(4, 2), torch.zeros(4)
    Recipe(labels=0.5).check_labels(Batch((x,), targets=y))
    Recipe().check_labels(Batch((x,)))
    with pytest.raises(UsageError, match=r"--labels 0\.5 needs data with labels; the data has inputs only"):
        Recipe(labels=0.5).check_labels(Batch((x,)))
