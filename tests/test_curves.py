"""Curves of weights, measured and kept."""

from __future__ import annotations

import json
from pathlib import Path

from phnnify import curves
from phnnify.batches import Batch
from phnnify.curves import contents_key, measure_curves, read_curves, write_curves
from tests.survey_network import Net


def test_curves_survive_their_file(model: Net, batches: list[Batch], tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    found = measure_curves(model, {"head": 256, "hidden": 6400}, batches)
    write_curves(path, "key", found)
    assert read_curves(path, "key") == found
    assert read_curves(path, "other") is None
    assert read_curves(tmp_path / "none.json", "key") is None
    for text in (
        "",
        "{}",
        "[]",
        json.dumps({"version": curves._VERSION, "key": "key", "curves": {"a": [[1]]}}),
    ):
        path.write_text(text)
        assert read_curves(path, "key") is None


def test_the_key_changes_with_everything_that_matters(model: Net, batches: list[Batch]) -> None:
    keys = {contents_key(model, batches, {"head": 256}), contents_key(model, batches[:2], {"head": 256})}
    keys.add(contents_key(model, batches, {"head": 256, "up": 4}))
    model.norm.get_buffer("running_mean").add_(1)
    keys.add(contents_key(model, batches, {"head": 256}))
    assert len(keys) == 4
