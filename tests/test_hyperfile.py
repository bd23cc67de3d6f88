"""Hypernetworks go to a file and come back the same, without unpickling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import phnnify
from phnnify.archive import read_metadata
from phnnify.errors import FileError, ModelError, UsageError
from phnnify.hyper.file import HYPER_KEY, inner_network
from phnnify.hyper.network import HyperNetwork, hypernetize
from tests.networks import Small, Tied, same_tensors, small


def dense() -> HyperNetwork:
    return hypernetize(
        small(), {"lam": 1, "scale": 2}, ["h*"], spread=0.5, norm="LayerNorm", activation="Tanh"
    )


def default() -> HyperNetwork:
    return hypernetize(small(), {"lam": 1}, formulation="default", hidden=(8, 4))


def factored() -> HyperNetwork:
    converted = phnnify.convert(small(), n=2, min_share=0).model
    return hypernetize(converted, {"lam": 1}, formulation="default")


def quaternion() -> HyperNetwork:
    converted = phnnify.convert(small(), n=4, min_share=0, algebra="quaternion").model
    return hypernetize(converted, {"lam": 1}, spread=0.1)


def shared() -> HyperNetwork:
    converted = phnnify.convert(small(), n=2, min_share=0, share_algebra=True).model
    return hypernetize(converted, {"lam": 1}, formulation="default")


def low_rank() -> HyperNetwork:
    converted = phnnify.convert(small(), n=2, min_share=0, low_rank="0.5").model
    return hypernetize(converted, {"lam": 1}, ["hidden.U", "hidden.V"], spread=0.1)


def nested() -> HyperNetwork:
    return hypernetize(default(), {"mu": 1}, ["predictor.*"], spread=0.2)


MAKERS: tuple[Callable[[], HyperNetwork], ...] = (
    dense,
    default,
    factored,
    quaternion,
    shared,
    low_rank,
    nested,
)


@pytest.mark.parametrize("make", MAKERS)
def test_a_hypernetwork_comes_back_the_same(make: Callable[[], HyperNetwork], tmp_path: Path) -> None:
    hyper, path = make().eval(), tmp_path / "hyper.safetensors"
    phnnify.save(hyper, path)
    back = phnnify.load(path, model=Small())
    assert isinstance(back, HyperNetwork)
    assert same_tensors(back.state_dict(), hyper.state_dict())
    assert back.options == hyper.options
    values: dict[str, Any] = {"lam": 0.3, "scale": [0.1, 0.9], "mu": 0.5}
    taken = {name: value for name, value in values.items() if name in str(hyper)}
    x = torch.randn(4, 16)
    assert torch.equal(back(x, **taken), hyper(x, **taken))


def test_ties_and_sameness_of_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        phnnify.save(
            hypernetize(Tied().eval(), {"lam": 1}, ["head"], seed=1), tmp_path / f"{name}.safetensors"
        )
    back = phnnify.load(tmp_path / "one.safetensors", model=Tied())
    frozen = back.at(lam=0.5) if isinstance(back, HyperNetwork) else back
    assert isinstance(frozen, Tied)
    assert frozen.head.weight is frozen.table.weight
    hyper = dense()
    phnnify.save(hyper, tmp_path / "a.safetensors")
    phnnify.save(hyper, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_frozen_network_goes_out_as_plain_weights(tmp_path: Path) -> None:
    frozen = default().at(lam=0.5)
    phnnify.save(frozen, tmp_path / "frozen.safetensors")
    assert read_metadata(tmp_path / "frozen.safetensors") == {}
    back = Small()
    back.load_state_dict(load_file(tmp_path / "frozen.safetensors"))
    assert same_tensors(back.state_dict(), frozen.state_dict())


def test_the_network_inside_is_found() -> None:
    assert type(inner_network(nested())) is Small


@pytest.mark.parametrize("name", ["hyper.pt", "hyper.bin", "hyper"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write a hypernetwork"):
        phnnify.save(default(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hyper.safetensors"
    phnnify.save(factored(), path)
    for other in (nn.Linear(4, 4), Tied()):
        with pytest.raises(ModelError, match=f"does not fit {type(other).__name__}"):
            phnnify.load(path, model=other)


def damaged(document: Any) -> list[Any]:
    made = document["made"][0]
    return [
        [],
        {"made": []},
        {**document, "made": []},
        {**document, "made": [{}]},
        {**document, "made": [7]},
        {**document, "made": [{**made, "formulation": "mine"}]},
        {**document, "made": [{**made, "inputs": 3}]},
        {**document, "made": [{**made, "inputs": {"lam": "much"}}]},
        {**document, "made": [{**made, "hidden": [10**9, "x"]}]},
        {**document, "made": [{**made, "activation": ["ReLU"]}]},
        {**document, "made": [{**made, "layers": ["nothing"]}]},
        {**document, "plan": 3},
        {**document, "plan": {"n": 2}},
    ]


@pytest.mark.parametrize("case", range(13))
def test_damaged_metadata_are_refused(case: int, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    phnnify.save(factored(), good)
    document = damaged(json.loads(read_metadata(good)[HYPER_KEY]))[case]
    save_file(load_file(good), bad, {HYPER_KEY: json.dumps(document)})
    with pytest.raises(phnnify.PhnnifyError):
        phnnify.load(bad, model=Small())


def test_text_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for text in ("", "{", "[" * 100_000):
        save_file({"x": torch.zeros(1)}, path, {HYPER_KEY: text})
        with pytest.raises(FileError, match="is damaged: what it says"):
            phnnify.load(path, model=Small())
