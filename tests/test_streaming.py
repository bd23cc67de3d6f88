"""Folders converted tensor by tensor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

import phnnify
from phnnify.algebras import SHARED
from phnnify.errors import FileError, ModelError, PhnnifyError, PlanError, UntrustedError, UsageError
from phnnify.folders import METADATA_KEY
from phnnify.pipeline import convert, inspect
from phnnify.plan import PlanOptions
from phnnify.sources import read_network
from phnnify.store import save
from phnnify.streaming import convert_folder
from tests.hub_networks import bert, describe, folder_of, gpt2, llama
from tests.networks import same_tensors

TOKENS = torch.tensor([[1, 5, 9, 2]])
OPTIONS = PlanOptions(2, min_share=0, embeddings=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A llama's, in several files."""
    return folder_of(llama(), tmp_path / "llama", max_shard_size="20KB")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("make", [bert, gpt2, llama])
@pytest.mark.parametrize("size", ["20KB", "1GB"])
def test_it_is_what_convert_makes_of_the_whole(make: Callable[[], Any], size: str, tmp_path: Path) -> None:
    folder = folder_of(make(), tmp_path / "net", max_shard_size=size)
    report = convert_folder(folder, tmp_path / "small", OPTIONS, most=4000)
    whole = convert(read_network(folder).model, 2, min_share=0, embeddings=True)
    streamed = phnnify.from_pretrained(tmp_path / "small")
    assert type(streamed) is type(whole.model)
    assert same_tensors(streamed.state_dict(), whole.model.state_dict())
    assert report.params == whole.report.params
    assert [layer.weight_error for layer in report.layers] == [
        layer.weight_error for layer in whole.report.layers
    ]
    assert report.bytes is not None
    assert "tokenizer.json" in names(tmp_path / "small")
    assert not (tmp_path / "small.partial").exists()


def test_one_small_file_is_as_save_writes_it(folder: Path, tmp_path: Path) -> None:
    convert_folder(folder, tmp_path / "small", OPTIONS)
    whole = convert(read_network(folder).model, 2, min_share=0, embeddings=True)
    save(whole.model, tmp_path / "whole", whole.plan, original=folder)
    assert files(tmp_path / "small") == files(tmp_path / "whole")


def test_half_precision_stays(tmp_path: Path) -> None:
    folder = folder_of(llama().to(torch.bfloat16), tmp_path / "llama")
    convert_folder(folder, tmp_path / "small", OPTIONS)
    assert {p.dtype for p in phnnify.from_pretrained(tmp_path / "small").parameters()} == {torch.bfloat16}


def test_two_processes_write_the_same_bytes_as_one(folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        convert_folder(folder, tmp_path / f"by{workers}", OPTIONS, workers=workers, most=8000)
    assert len(list((tmp_path / "by2").glob("*.safetensors"))) > 1
    assert files(tmp_path / "by1") == files(tmp_path / "by2")


def test_a_run_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_folder(folder, tmp_path / "whole", OPTIONS, most=4000)

    def stopped(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_folder(folder, tmp_path / "small", OPTIONS, most=4000, watch=stopped)
    assert not (tmp_path / "small").exists()
    told: list[int] = []
    convert_folder(folder, tmp_path / "small", OPTIONS, most=4000, watch=lambda w, done, t: told.append(done))
    assert told[:3] == [0, 2, 3]  # of looking, and of converting
    assert files(tmp_path / "small") == files(tmp_path / "whole")


def test_what_another_run_left_is_not_taken(folder: Path, tmp_path: Path) -> None:
    def stopped(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_folder(folder, tmp_path / "small", PlanOptions(4, min_share=0), most=4000, watch=stopped)
    convert_folder(folder, tmp_path / "small", OPTIONS, most=4000)
    convert_folder(folder, tmp_path / "whole", OPTIONS, most=4000)
    assert files(tmp_path / "small") == files(tmp_path / "whole")


def test_a_converted_folder_in_parts_is_known_as_one(folder: Path, tmp_path: Path) -> None:
    convert_folder(folder, tmp_path / "small", OPTIONS, most=4000)
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert METADATA_KEY in index["metadata"]
    for name, file in index["weight_map"].items():
        with safetensors.safe_open(tmp_path / "small" / file, framework="pt") as part:
            assert name in part.keys()  # noqa: SIM118 - it is no dict
    convert_folder(folder, tmp_path / "small", OPTIONS)  # replaces it
    assert (tmp_path / "small" / "model.safetensors").exists()
    convert_folder(folder, tmp_path / "small", OPTIONS, most=4000)
    with pytest.raises(FileError, match="is already converted"):
        convert_folder(tmp_path / "small", tmp_path / "again", OPTIONS)
    with pytest.raises(FileError, match="is already converted"):
        read_network(tmp_path / "small")


def test_a_plan_is_followed(folder: Path, tmp_path: Path) -> None:
    plan, _ = inspect(read_network(folder).model, 4, min_share=0)
    report = convert_folder(folder, tmp_path / "small", plan=plan)
    assert {layer.order for layer in report.layers if layer.order} == {(4, 4)}


def refused(folder: Path, target: Path, **options: Any) -> PhnnifyError:
    with pytest.raises(PhnnifyError) as caught:
        convert_folder(folder, target, options.pop("options", OPTIONS), **options)
    assert not target.exists()
    return caught.value


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "small"
    shared, _ = inspect(read_network(folder).model, 2, min_share=0, share_algebra=True)
    assert set(shared.algebras.values()) == {SHARED}
    assert isinstance(refused(folder, target, plan=shared), UsageError)
    assert isinstance(refused(folder, target, workers=0), UsageError)
    assert isinstance(refused(folder, target, options=PlanOptions(2, min_share=1)), PlanError)
    assert isinstance(refused(folder, tmp_path / "none" / "small"), FileError)
    describe(folder, num_hidden_layers=3)
    assert isinstance(refused(folder, target), ModelError)
    describe(folder, num_hidden_layers=2, auto_map={"AutoModel": "own.Net"})
    assert isinstance(refused(folder, target), UntrustedError)


def test_a_weight_that_is_not_finite_is_an_error_that_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    file = sorted(folder.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("proj.weight"))
    tensors[name][0, 0] = torch.inf
    save_file(tensors, file)
    for workers in (1, 2):
        error = refused(folder, tmp_path / "small", workers=workers, most=8000)
        assert name.removesuffix(".weight") in str(error)


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from phnnify.pipeline import convert
from phnnify.plan import PlanOptions
from phnnify.sources import read_network
from phnnify.streaming import convert_folder

if __name__ == "__main__":
    folder, more = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    convert_folder(folder / "tiny", folder / "warm", PlanOptions(2, min_share=0))
    used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + more,) * 2)
    convert_folder(folder / "net", folder / "small", PlanOptions(4, min_share=0), most=2**19)
    try:
        convert(read_network(folder / "net").model, 4, min_share=0)
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit of data segments")
def test_memory_is_bounded_by_a_tensor_not_by_the_checkpoint(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, vocab_size=64
    )
    folder_of(LlamaForCausalLM(config), tmp_path / "net", max_shard_size="5MB")
    folder_of(llama(), tmp_path / "tiny")
    size = sum(file.stat().st_size for file in (tmp_path / "net").glob("*.safetensors"))
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    command = [sys.executable, str(script), str(tmp_path), str(size // 3)]
    # Freed memory goes back at once, so that the limit is about what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "allocate memory" in done.stdout  # the whole network does not fit
    assert len(list((tmp_path / "small").glob("*.safetensors"))) > 5
