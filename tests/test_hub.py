"""Hugging Face folders: read into networks, written for converted ones, opened again."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import phnnify
from phnnify import archive, files, folders, hub
from phnnify.errors import FileError, ModelError, PhnnifyError, UntrustedError, UsageError
from phnnify.folders import METADATA_KEY
from phnnify.layers import PHMLayer, PHMLinear
from phnnify.sources import read_any, read_converted, read_network
from phnnify.store import save, size_of
from tests.hub_networks import bert, describe, described, folder_of, gpt2, llama
from tests.networks import same_tensors, small
from tests.refusals import refused

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

TOKENS = torch.arange(2, 14).reshape(2, 6)
BUILDERS: dict[str, Callable[[], Any]] = {"bert": bert, "gpt2": gpt2, "llama": llama}


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    """What the tests themselves save is not talked about; and tiny products are faster on one thread."""
    talk, threads = transformers.utils.logging, torch.get_num_threads()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    talk.set_verbosity_warning()
    talk.enable_progress_bar()


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(params=BUILDERS)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    model = BUILDERS[request.param]()
    return model, folder_of(model, tmp_path / request.param)


def converted(folder: Path, target: Path, n: int = 2) -> nn.Module:
    result = phnnify.convert(read_network(folder).model, n)
    save(result.model, target, result.plan, original=folder)
    return result.model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A llama's."""
    return folder_of(llama(), tmp_path / "llama")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Reading originals


def test_a_folder_is_read_as_transformers_reads_it(original: tuple[Any, Path]) -> None:
    model, folder = original
    source = read_network(folder)
    assert type(source.model) is type(model)
    assert (source.form, source.ending) == ("folder", "")
    assert same_tensors(source.model.state_dict(), model.state_dict())
    assert torch.equal(source.model(TOKENS).logits, model(TOKENS).logits)
    assert not any(module.training for module in source.model.modules())


def test_a_folder_in_parts_is_read_whole(original: tuple[Any, Path], tmp_path: Path) -> None:
    model, _ = original
    folder = folder_of(model, tmp_path / "parts", max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert same_tensors(read_network(folder).model.state_dict(), model.state_dict())
    assert size_of(folder) == sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("said", ["float32", "bfloat16", None])
def test_the_precision_is_that_of_the_weights_whatever_the_description_says(
    dtype: torch.dtype, said: str | None, tmp_path: Path
) -> None:
    folder = folder_of(llama().to(dtype), tmp_path / "llama")
    describe(folder, dtype=said, torch_dtype=said)
    model: Any = read_network(folder).model
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    converted(folder, tmp_path / "small")
    again: Any = phnnify.from_pretrained(tmp_path / "small")
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert again.model.rotary_emb.inv_freq.dtype == torch.float32


def test_without_an_architecture_it_is_the_network_without_a_head(folder: Path) -> None:
    describe(folder, architectures=None)
    assert type(read_network(folder).model) is transformers.LlamaModel


def test_the_class_says_how_its_description_is_read(folder: Path) -> None:
    describe(folder, model_type=None)
    assert type(read_network(folder).model) is transformers.LlamaForCausalLM


def test_one_weight_file_of_another_name_is_found(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert same_tensors(read_network(folder).model.state_dict(), llama().state_dict())


def test_reading_is_silent_and_changes_nothing_of_the_callers(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    talk = transformers.utils.logging
    talk.set_verbosity_info()
    talk.enable_progress_bar()
    before = torch.random.get_rng_state()
    read_network(folder)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert talk.get_verbosity() == talk.INFO
    assert talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()


def test_generation_goes_by_the_folders_own_settings(folder: Path) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 3}))
    model: Any = read_network(folder).model
    assert model.generation_config.max_new_tokens == 3


# Round trips


def test_a_converted_folder_comes_back(original: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = original
    result: Any = converted(folder, tmp_path / "small")
    for again in (phnnify.from_pretrained(tmp_path / "small"), phnnify.load(str(tmp_path / "small"))):
        assert type(again) is type(model)
        assert sum(isinstance(module, PHMLinear) for module in again.modules()) > 3
        assert same_tensors(again.state_dict(), result.state_dict())
        assert torch.equal(again(TOKENS).logits, result(TOKENS).logits)
        assert not any(module.training for module in again.modules())
    assert size_of(tmp_path / "small") == (tmp_path / "small" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_converted_network_generates_the_same_tokens(build: Callable[[], Any], tmp_path: Path) -> None:
    folder = folder_of(build(), tmp_path / "net")
    result: Any = converted(folder, tmp_path / "small")
    again: Any = phnnify.from_pretrained(tmp_path / "small")
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    mask = torch.ones_like(TOKENS)
    expected = result.generate(TOKENS, attention_mask=mask, **options)
    assert torch.equal(again.generate(TOKENS, attention_mask=mask, **options), expected)
    assert again.config.to_dict() == result.config.to_dict()


def test_a_tie_is_kept(tmp_path: Path) -> None:
    converted(folder_of(gpt2(), tmp_path / "gpt2"), tmp_path / "small")
    again: Any = phnnify.from_pretrained(tmp_path / "small")
    assert again.lm_head.weight is again.transformer.wte.weight


@pytest.mark.parametrize("how", [{}, {"share_algebra": True}, {"algebra": "complex"}], ids=str)
def test_a_part_in_another_precision_stays_so(how: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    model: Any = read_network(folder).model.half()
    model.lm_head.float()
    model.model.norm.float()
    result = phnnify.convert(model, 2, **how)
    save(result.model, tmp_path / "small", result.plan)
    again = phnnify.from_pretrained(tmp_path / "small")
    assert {p.dtype for p in again.get_submodule("lm_head").parameters()} == {torch.float32}
    assert same_tensors(again.state_dict(), result.model.state_dict())


def test_the_folder_has_what_belongs_to_the_network_and_no_more(folder: Path, tmp_path: Path) -> None:
    for name in ("README.md", "merges.txt", "preprocessor_config.json", "tokenizer.model"):
        (folder / name).write_text(name)
    for name in ("model.onnx", "optimizer.pt", "tf_model.h5", "training_args.bin", "modeling.py", ".hidden"):
        (folder / name).write_text(name)
    (folder / "onnx").mkdir()
    converted(folder, tmp_path / "small")
    assert names(tmp_path / "small") == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md",
        "merges.txt", "preprocessor_config.json", "tokenizer.model",
    }  # fmt: skip
    for name in ("tokenizer.json", "README.md", "generation_config.json"):
        assert (tmp_path / "small" / name).read_bytes() == (folder / name).read_bytes()
    assert described(tmp_path / "small") == described(folder)
    with safetensors.safe_open(tmp_path / "small" / "model.safetensors", framework="pt") as file:
        assert list(file.metadata()) == [METADATA_KEY]
    assert names(tmp_path) == {"llama", "small"}


def test_a_link_out_of_the_folder_is_not_followed_but_into_the_cache_it_is(tmp_path: Path) -> None:
    cached = tmp_path / "models--x" / "snapshots" / "1"
    cached.parent.mkdir(parents=True)
    folder_of(bert(), cached)
    (tmp_path / "models--x" / "blobs").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (cached / name).rename(tmp_path / "models--x" / "blobs" / name)
        (cached / name).symlink_to(Path("../../blobs") / name)
    (tmp_path / "secret").write_text("secret")
    (cached / "vocab.txt").symlink_to(tmp_path / "secret")
    (cached / "gone.txt").symlink_to(tmp_path / "gone")
    converted(cached, tmp_path / "small")
    assert names(tmp_path / "small") == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not any(file.is_symlink() for file in (tmp_path / "small").iterdir())


def test_a_network_in_memory_goes_into_a_folder_too(tmp_path: Path) -> None:
    result = phnnify.convert(llama(), 2)
    phnnify.save(result.model, tmp_path / "small", result.plan)
    assert names(tmp_path / "small") == {"config.json", "generation_config.json", "model.safetensors"}
    assert described(tmp_path / "small")["architectures"] == ["LlamaForCausalLM"]
    again = phnnify.from_pretrained(tmp_path / "small")
    assert torch.equal(again(TOKENS).logits, result.model.eval()(TOKENS).logits)


def test_the_same_network_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        converted(folder, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_files_are_written_from_folders_too(name: str, folder: Path, tmp_path: Path) -> None:
    result: Any = converted(folder, tmp_path / name)
    again = phnnify.load(tmp_path / name, llama(), trust=True)
    assert torch.equal(again(TOKENS).logits, result(TOKENS).logits)


def test_a_network_may_be_given_for_a_folder(folder: Path, tmp_path: Path) -> None:
    result: Any = converted(folder, tmp_path / "small")
    again = phnnify.load(tmp_path / "small", llama())
    assert torch.equal(again(TOKENS).logits, result(TOKENS).logits)


def test_any_folder_is_read_for_export_and_only_converted_ones_as_students(
    folder: Path, tmp_path: Path
) -> None:
    result: Any = converted(folder, tmp_path / "small")
    assert torch.equal(read_any(folder)(TOKENS).logits, llama()(TOKENS).logits)
    assert torch.equal(read_any(tmp_path / "small")(TOKENS).logits, result(TOKENS).logits)
    assert any(isinstance(module, PHMLayer) for module in read_converted(tmp_path / "small").modules())
    refused(lambda: read_converted(folder), FileError)
    error = refused(lambda: read_network(tmp_path / "small"), FileError)
    assert "small is already converted" in str(error)
    error = refused(lambda: phnnify.from_pretrained(folder), FileError)
    assert "llama holds a network that is not converted" in str(error)


def test_a_language_model_is_exported_without_its_cache_and_keeps_it(folder: Path, tmp_path: Path) -> None:
    model: Any = converted(folder, tmp_path / "small")
    exported = phnnify.export_onnx(model, tmp_path / "small.onnx", ["int64:1x6"])
    assert exported.max_rel_diff < 1e-5
    assert model.config.use_cache
    assert model(TOKENS).past_key_values is not None


# Writing


@pytest.mark.parametrize("name", ["llama-n4", "llama-3.2-1b-n4", "Qwen2.5"])
def test_a_name_without_an_ending_is_a_folders(name: str, tmp_path: Path) -> None:
    phnnify.save(phnnify.convert(llama(), 2).model, tmp_path / name)
    assert folders.is_converted(tmp_path / name)


def test_other_endings_and_other_networks_are_wrong_usage(tmp_path: Path) -> None:
    refused(lambda: save(phnnify.convert(llama(), 2).model, tmp_path / "net.onnx"), UsageError)
    refused(lambda: save(phnnify.convert(small(), 2).model, tmp_path / "net"), UsageError)
    assert names(tmp_path) == set()


def test_a_class_that_transformers_lacks_is_wrong_usage(tmp_path: Path) -> None:
    class Mine(transformers.LlamaForCausalLM):  # type: ignore[misc]
        pass

    model = Mine(llama().config)
    error = refused(lambda: save(phnnify.convert(model, 2).model, tmp_path / "net"), UsageError)
    assert "transformers has no such network" in str(error)
    assert names(tmp_path) == set()


def test_only_a_converted_folder_is_replaced(folder: Path, tmp_path: Path) -> None:
    converted(folder, tmp_path / "small", n=2)
    (tmp_path / "small" / "note.txt").write_text("of the old one")
    converted(folder, tmp_path / "small", n=4)
    assert "note.txt" not in names(tmp_path / "small")
    again: Any = phnnify.from_pretrained(tmp_path / "small")
    assert again.lm_head.order.terms == 4
    before = names(folder)
    for name in ("llama", "empty"):
        (tmp_path / name).mkdir(exist_ok=True)
        error = refused(
            lambda name=name: save(phnnify.convert(llama(), 2).model, tmp_path / name),  # type: ignore[misc]
            FileError,
        )
        assert "it is a folder" in str(error)
    assert names(folder) == before
    assert names(tmp_path) == {"llama", "small", "empty"}


def test_a_failed_write_keeps_the_old_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(folder, tmp_path / "small")
    before = {file.name: file.read_bytes() for file in (tmp_path / "small").iterdir()}

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    error = refused(lambda: converted(folder, tmp_path / "small", n=4), FileError)
    assert "No space left on device" in str(error)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in (tmp_path / "small").iterdir()} == before
    assert names(tmp_path) == {"llama", "small"}


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "old").touch()
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.parent.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    def fail() -> None:
        with files.replacing_folder(tmp_path / "small", lambda path: True) as fresh:
            (fresh / "new").touch()

    monkeypatch.setattr(Path, "rename", refuse)
    assert "Permission denied" in str(refused(fail, FileError))
    assert names(tmp_path) == {"small"}
    assert names(tmp_path / "small") == {"old"}


# Folders that are not what they should be


def drop(folder: Path, *names: str, **changed: torch.Tensor) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors = {name: value for name, value in tensors.items() if name not in names}
    safetensors.torch.save_file({**tensors, **changed}, folder / "model.safetensors", {"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda f: (f / "config.json").unlink(), "is a folder without config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: no model.safetensors"),
    "half a description": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is damaged"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json is damaged: it holds a list"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), "it is not a text file"),
    "empty": (lambda f: (f / "config.json").write_text("{}"), "it names no network"),
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "is a damaged safetensors file",
    ),
    "several": (
        lambda f: [
            (f / "model.safetensors").rename(f / "a.safetensors"),
            (f / "b.safetensors").write_bytes((f / "a.safetensors").read_bytes()),
        ],
        "has several weight files (a.safetensors, b.safetensors) and no model.safetensors.index.json",
    ),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
    "quantized": (lambda f: describe(f, quantization_config={"bits": 4}), "holds quantized weights"),
    "unknown network": (lambda f: describe(f, architectures=["NoNet"]), "asks for NoNet, no network"),
    "no network": (lambda f: describe(f, architectures=["Trainer"]), "asks for Trainer, no network"),
    "no names": (lambda f: describe(f, architectures="LlamaModel"), "architectures is no list of names"),
    "unknown type": (lambda f: describe(f, model_type="no-type"), "config.json cannot be used"),
    "another type": (lambda f: describe(f, model_type="gpt2"), "is no network of its model_type"),
    "a size as text": (lambda f: describe(f, hidden_size="big"), "llama"),
    "a negative size": (lambda f: describe(f, num_hidden_layers=-1, vocab_size=-3), "llama"),
    "bad generation": (lambda f: (f / "generation_config.json").write_text("{"), "generation_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_an_error(case: str, folder: Path) -> None:
    damage, message = BROKEN[case]
    damage(folder)
    with pytest.raises((FileError, ModelError)) as caught:
        read_network(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MISFITS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda f: drop(f, "lm_head.weight", "model.norm.weight"),
        "2 missing (lm_head.weight, model.norm.weight)",
    ),
    "another shape": (
        lambda f: drop(f, **{"model.norm.weight": torch.ones(7)}),
        "1 of another shape (model.norm.weight)",
    ),
    "another size": (lambda f: describe(f, vocab_size=50), "2 of another shape (lm_head.weight, model.embed"),
    "more layers": (lambda f: describe(f, num_hidden_layers=3), "9 missing (model.layers.2."),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_the_description_are_refused(case: str, folder: Path) -> None:
    damage, message = MISFITS[case]
    damage(folder)
    error = refused(lambda: read_network(folder), ModelError)
    assert "do not fit LlamaForCausalLM: " in str(error)
    assert message in str(error)


def test_a_tied_weight_need_not_be_there_but_its_partner_must(tmp_path: Path) -> None:
    folder = folder_of(gpt2(), tmp_path / "gpt2")
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    read_network(folder)
    drop(folder, "transformer.wte.weight")
    assert "transformer.wte.weight" in str(refused(lambda: read_network(folder), ModelError))


INDEXES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no map": (lambda index: index.pop("weight_map"), "it has no weight_map"),
    "an empty map": (lambda index: index.update(weight_map={}), "it has no weight_map"),
    "a list": (lambda index: index.update(weight_map=["a"]), "it has no weight_map"),
    "a way out": (lambda index: index["weight_map"].update(x="../a.safetensors"), "is no .safetensors file"),
    "a number": (lambda index: index["weight_map"].update(x=3), "is no .safetensors file"),
    "a pickle": (lambda index: index["weight_map"].update(x="a.bin"), "is no .safetensors file"),
    "too many": (lambda index: index["weight_map"].update(x="a.safetensors"), "a.safetensors is missing"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_a_damaged_index_is_an_error(case: str, tmp_path: Path) -> None:
    damage, message = INDEXES[case]
    folder = folder_of(llama(), tmp_path / "llama", max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    damage(index)
    path.write_text(json.dumps(index))
    assert message in str(refused(lambda: read_network(folder), FileError))


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = folder_of(llama(), tmp_path / "llama", max_shard_size="20KB")
    part = sorted(folder.glob("model-*.safetensors"))[1]
    part.unlink()
    assert f"is not complete: {part.name} is missing" in str(refused(lambda: read_network(folder), FileError))


def test_arch_for_a_folder_is_refused(folder: Path) -> None:
    error = refused(lambda: read_network(folder, arch="a.py:b"), FileError)
    assert error.hint == "leave --arch out"


@pytest.mark.parametrize("damage", ["plan", "tensor", "size"])
def test_a_damaged_converted_folder_is_an_error(damage: str, folder: Path, tmp_path: Path) -> None:
    converted(folder, tmp_path / "small")
    path = tmp_path / "small" / "model.safetensors"
    tensors, metadata = safetensors.torch.load_file(path), archive.read_metadata(path)
    if damage == "plan":
        metadata[METADATA_KEY] = "{"
    elif damage == "tensor":
        del tensors["lm_head.A"]
    else:
        describe(tmp_path / "small", intermediate_size=48)
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(PhnnifyError) as caught:
        phnnify.from_pretrained(tmp_path / "small")
    assert "Traceback" not in str(caught.value)


def test_without_transformers_the_cure_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = refused(lambda: read_network(folder), FileError)
    assert str(error).endswith("need transformers 4.48 or newer; it is not installed")
    assert error.hint == "pip install 'phnnify[transformers]'"


def test_an_old_transformers_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_OLDEST", (99, 1))
    message = str(refused(lambda: read_network(folder), FileError))
    assert message.endswith(
        f"need transformers 99.1 or newer; version {transformers.__version__} is installed"
    )


# Code in folders

CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnNet(LlamaForCausalLM):
    config_class = OwnConfig

    def greet(self):
        return "hello"
"""


@pytest.fixture
def coded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with its class in Python code that leaves a mark."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    (folder / "own.py").write_text(CODE.format(marker=str(tmp_path / "marker")))
    places = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnNet"}
    describe(folder, auto_map=places, architectures=["OwnNet"], model_type="own")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        {"auto_map": None, "sub": [{"auto_map": {"AutoModel": "own.OwnNet"}}]},
        {"auto_map": None, "custom_pipelines": {"x": {"impl": "own.OwnNet"}}},
        {"auto_map": None, "attn_implementation": "some/kernel"},
        {"auto_map": None, "_attn_implementation": {"": "some/kernel"}},
    ],
    ids=str,
)
def test_code_in_a_folder_never_runs_untrusted(changes: dict[str, Any], coded: Path, tmp_path: Path) -> None:
    describe(coded, **changes)
    for call in (read_network, read_any, read_converted):
        error = refused(lambda call=call: call(coded), UntrustedError)  # type: ignore[misc]
        assert "llama needs code that is not part of transformers: " in str(error)
        assert "--trust" in str(error.hint)
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "cache").exists()


def test_trusted_code_runs_and_goes_along(coded: Path, tmp_path: Path) -> None:
    source = read_network(coded, trust=True)
    assert (tmp_path / "marker").exists()
    assert type(source.model).__name__ == "OwnNet"
    result = phnnify.convert(source.model, 2)
    save(result.model, tmp_path / "small", result.plan, original=coded)
    assert "own.py" in names(tmp_path / "small")
    (tmp_path / "marker").unlink()
    refused(lambda: phnnify.from_pretrained(tmp_path / "small"), UntrustedError)
    assert not (tmp_path / "marker").exists()
    again: Any = phnnify.from_pretrained(tmp_path / "small", trust=True)
    assert again.greet() == "hello"
    assert torch.equal(again(TOKENS).logits, result.model.eval()(TOKENS).logits)


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import no_such_module_anywhere", "x = (", "x = 1"])
def test_trusted_code_that_fails_is_an_error(code: str, coded: Path) -> None:
    (coded / "own.py").write_text(code)
    refused(lambda: read_network(coded, trust=True), FileError)


def test_code_elsewhere_is_not_fetched_even_if_trusted(coded: Path) -> None:
    describe(coded, auto_map={"AutoConfig": "someone/net--own.OwnConfig"})
    refused(lambda: read_network(coded, trust=True), FileError)


def test_a_part_that_would_be_fetched_is_an_error(folder: Path) -> None:
    document = {"model_type": "detr", "architectures": ["DetrModel"], "use_timm_backbone": False}
    document |= {"backbone": "someone/resnet", "use_pretrained_backbone": True}
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises((FileError, ModelError)):
        read_network(folder)


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("parts", [False, True])
def test_pickled_weights_are_read_with_trust_only(parts: bool, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    name = "pytorch_model-1.bin" if parts else "pytorch_model.bin"
    state: dict[str, Any] = llama().state_dict()
    torch.save(state, folder / name)
    if parts:
        index = {"weight_map": dict.fromkeys(state, name)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    error = refused(lambda: read_network(folder), UntrustedError)
    assert "has only pickled weights (pytorch_model.bin)" in str(error)
    assert "safetensors" in str(error.hint)
    assert "--trust" in str(error.hint)
    assert same_tensors(read_network(folder, trust=True).model.state_dict(), llama().state_dict())
    torch.save({**state, "bomb": Bomb(tmp_path / "marker")}, folder / name)
    refused(lambda: read_network(folder), UntrustedError)
    assert not (tmp_path / "marker").exists()


def test_pickles_beside_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin"):
        torch.save({"bomb": Bomb(tmp_path / "marker")}, folder / name)
    read_network(folder, trust=True)
    assert not (tmp_path / "marker").exists()


def test_only_networks_of_transformers_have_a_description() -> None:
    assert hub.is_described(llama())
    assert not hub.is_described(small())
