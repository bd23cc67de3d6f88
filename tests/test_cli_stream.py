"""`phnnify convert --stream`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phnnify
from tests.hub_networks import folder_of, llama
from tests.networks import Outcome, command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a llama in it."""
    monkeypatch.chdir(tmp_path)
    folder_of(llama(), Path("llama"), max_shard_size="20KB")
    return tmp_path


def stream(*arguments: object) -> Outcome:
    return command("convert", "llama", "--stream", *arguments)


def test_a_folder_is_written_beside_you_and_reported() -> None:
    outcome = stream("--n", 2, "--min-share", 0, "--report", "report.json", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(outcome.out)
    assert report == json.loads(Path("report.json").read_text())
    assert report["bytes"]["before"] == sum(f.stat().st_size for f in Path("llama").glob("*.safetensors"))
    assert report["bytes"]["after"] == Path("llama-n2/model.safetensors").stat().st_size
    assert type(phnnify.from_pretrained("llama-n2")).__name__ == "LlamaForCausalLM"
    assert {path.name for path in Path().iterdir()} == {"llama", "llama-n2", "report.json"}


def test_a_plan_and_patterns_are_followed() -> None:
    assert command("inspect", "llama", "--n", 2, "--plan", "plan.toml", "--quiet").code == 0
    assert stream("--plan", "plan.toml", "-o", "by-plan", "--quiet").code == 0
    assert stream("--n", 2, "-o", "by-n", "--workers", 2, "--quiet").code == 0
    one, other = (Path(name, "model.safetensors").read_bytes() for name in ("by-plan", "by-n"))
    assert one == other
    outcome = stream("--include", "*.q_proj", "--low-rank", 0.5, "--json")
    layers = [layer for layer in json.loads(outcome.out)["layers"] if layer["status"] == "converted"]
    assert [layer["name"].rpartition(".")[2] for layer in layers] == ["q_proj", "q_proj"]
    assert all(layer["rank"] for layer in layers)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data", "x.npz"], 2, "--stream and --data exclude each other: it never runs the network"),
        (["--input", "1x3"], 2, "--stream and --input exclude each other"),
        (["--budget", "25%"], 2, "--stream and --budget exclude each other"),
        (["--distill"], 2, "--stream and --distill exclude each other"),
        (["--low-rank", "auto"], 2, "--low-rank auto needs --data"),
        (["-o", "small.safetensors"], 2, "--stream writes a folder, not small.safetensors"),
        (["-o", "llama"], 1, "cannot write llama: it is a folder"),
        (["--n", 4, "--include", "none"], 1, "--include 'none' matches no weight"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[object], code: int, message: str) -> None:
    outcome = stream(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(f"error: {message}")
    assert {path.name for path in Path().iterdir()} == {"llama"}


def test_it_is_for_folders_and_workers_are_for_it() -> None:
    outcome = command("convert", "llama/config.json", "--stream")
    assert (outcome.code, "is for Hugging Face folders" in outcome.err) == (2, True)
    outcome = command("convert", "llama", "--workers", 2)
    assert outcome.err.startswith("error: --workers needs --stream")
