"""`phnnify hyper`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import phnnify
from phnnify.hyper.network import HyperNetwork
from tests.networks import ARCH, Small, command, same_tensors, sequence, small


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_file(small().state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def loaded(path: Path) -> HyperNetwork:
    hyper = phnnify.load(path, model=Small())
    assert isinstance(hyper, HyperNetwork)
    return hyper


def test_it_writes_a_hypernetwork_that_starts_as_the_network(weights: Path) -> None:
    done = command(
        "hyper", weights, "--arch", ARCH, "--inputs", "lambda:1", "--inputs", "scale:2", "--layers", "h*"
    )
    assert (done.code, "wrote net-hyper.safetensors" in done.err) == (0, True)
    assert "hidden.weight, hidden.bias, head.weight, head.bias" in done.out
    hyper, x = loaded(Path("net-hyper.safetensors")), torch.randn(3, 16)
    assert torch.equal(hyper(x, lambda_=0.5, scale=[0, 1]), small()(x))


def test_the_options_are_those_of_python_and_the_seed_decides(weights: Path) -> None:
    made = phnnify.hypernetize(
        small(), {"lam": 1}, ["head"], hidden=(8,), activation="Tanh", norm="LayerNorm", spread=0.5, seed=3
    )
    done = command(
        "hyper", weights, "--arch", ARCH, "--inputs", "lam:1", "--layers", "head", "--hidden", "8",
        "--activation", "Tanh", "--norm", "LayerNorm", "--spread", "0.5", "--seed", "3",
        "-o", "h.safetensors", "--quiet",
    )  # fmt: skip
    assert (done.code, done.out, done.err) == (0, "", "")
    assert same_tensors(loaded(Path("h.safetensors")).state_dict(), made.state_dict())


def test_json_says_what_is_predicted_and_how_many_numbers_that_takes(weights: Path) -> None:
    command("convert", weights, "--arch", ARCH, "--n", "2", "--min-share", "0", "--quiet")
    sizes = {}
    for model in ("net.safetensors", "net-n2.safetensors"):
        done = command("hyper", model, "--arch", ARCH, "--inputs", "lam:1", "--layers", "h*", "--json")
        assert (done.code, done.err) == (0, "")
        found = json.loads(done.out)
        sizes[model] = found["params"]["predictor"]
        assert found["bytes"] == Path(found["path"]).stat().st_size
        hyper = loaded(Path(found["path"]))
        assert found["params"]["predicted"] == hyper.predictor.output.out_features
    assert sizes["net-n2.safetensors"] < 0.65 * sizes["net.safetensors"]


def test_a_pickled_network_of_torchs_classes_needs_no_arch(weights: Path) -> None:
    torch.save(sequence(), "pickled.pt")
    assert command("hyper", "pickled.pt", "--inputs", "lam:1", "--quiet").code == 0
    hyper, x = phnnify.load("pickled-hyper.safetensors", model=sequence()), torch.randn(3, 16)
    assert torch.equal(hyper(x, lam=0.5), sequence()(x))


def test_it_is_frozen_exported_and_converted_like_any_other(weights: Path) -> None:
    common = ("--arch", ARCH, "--quiet")
    assert command("hyper", weights, *common, "--inputs", "lam:2", "--spread", "0.5").code == 0
    hyper = Path("net-hyper.safetensors")
    assert command("hyper", hyper, *common, "--at", "lam=0.25,1", "-o", "at.safetensors").code == 0
    wanted = loaded(hyper).at(lam=[0.25, 1])
    assert same_tensors(load_file("at.safetensors"), wanted.state_dict())
    assert command("convert", "at.safetensors", *common, "--n", "2").code == 0
    refused = command("convert", hyper, *common)
    assert (refused.code, "is a hypernetwork" in refused.err, "--at" in refused.err) == (1, True, True)


@pytest.mark.slow
def test_its_onnx_file_and_program_take_the_conditioning(weights: Path) -> None:
    command("hyper", weights, "--arch", ARCH, "--quiet", "--inputs", "lam:1", "--spread", "0.5")
    done = command(
        "export", "net-hyper.safetensors", "--arch", ARCH, "--input", "1x16",
        "--onnx", "h.onnx", "--pt2", "h.pt2", "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    program, x = torch.export.load("h.pt2").module(), torch.randn(5, 16)
    wanted = loaded(Path("net-hyper.safetensors"))(x, lam=0.7)
    torch.testing.assert_close(program(x, lam=torch.tensor([0.7])), wanted)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give --inputs or --at"),
        (["--inputs", "lam:1", "--at", "lam=1"], 2, "give --inputs or --at"),
        (["--inputs", "lam"], 2, "--inputs 'lam' cannot be read"),
        (["--inputs", "lam:0"], 2, "lam has the size 0"),
        (["--inputs", "lam:1", "--inputs", "lam:2"], 2, "--inputs names lam twice"),
        (["--inputs", "lam:1", "--layers", "tail*"], 2, "'tail*' matches no parameter"),
        (["--inputs", "lam:1", "--hidden", "a"], 2, "--hidden 'a' is not a list"),
        (["--inputs", "lam:1", "--formulation", "mine"], 2, "the formulation is 'mine'"),
        (["--inputs", "lam:1", "-o", "out.pt"], 2, "out.pt must end in .safetensors"),
        (["--inputs", "lam:1", "-o", "net.safetensors"], 2, "would overwrite the original"),
        (["--at", "lam"], 2, "--at 'lam' cannot be read"),
        (["--at", "lam=much"], 2, "--at lam 'much' is not a list of numbers"),
        (["--at", "lam=1", "--spread", "0.1"], 2, "--spread needs --inputs"),
        (["--at", "lam=1"], 1, "net.safetensors is no hypernetwork"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    arguments: list[str], code: int, words: str, weights: Path
) -> None:
    done = command("hyper", weights, "--arch", ARCH, *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert [path.name for path in weights.parent.iterdir()] == ["net.safetensors"]


def test_a_conditioning_outside_of_the_interval_is_refused(weights: Path) -> None:
    command("hyper", weights, "--arch", ARCH, "--quiet", "--inputs", "lam:1")
    done = command("hyper", "net-hyper.safetensors", "--arch", ARCH, "--at", "lam=1.5")
    assert (done.code, "lam is 1.5; it must be from 0 to 1" in done.err) == (2, True)
