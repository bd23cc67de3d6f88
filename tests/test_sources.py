"""Reading networks from wherever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from phnnify.errors import FileError, ModelError, UntrustedError
from phnnify.pipeline import convert
from phnnify.sources import Source, name_beside, read_any, read_network
from phnnify.store import load, save
from tests.networks import ARCH, Small, same_tensors, sequence, small
from tests.refusals import refused


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A converted Small."""
    result = convert(small(), 2)
    save(result.model, tmp_path / "net.safetensors", result.plan)
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.safetensors"])
def test_weights_are_read_into_the_network_that_arch_names(name: str, tmp_path: Path) -> None:
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(small().state_dict(), tmp_path / name)
    else:
        torch.save(small().state_dict(), tmp_path / name)
    source = read_network(tmp_path / name, arch=ARCH)
    assert isinstance(source.model, Small)
    assert same_tensors(source.model.state_dict(), small().state_dict())
    assert (source.form, source.ending) == ("weights", ".safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_checkpoints_of_wrapped_networks_are_read(key: str, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in small().state_dict().items()}
    torch.save({key: state, "epoch": 1}, tmp_path / "net.pt")
    model = read_network(tmp_path / "net.pt", arch=ARCH).model
    assert same_tensors(model.state_dict(), small().state_dict())


def test_a_module_of_torchs_own_classes_is_read_without_trust(tmp_path: Path) -> None:
    torch.save(sequence(), tmp_path / "net.pt")
    source = read_network(tmp_path / "net.pt")
    assert repr(source.model) == repr(sequence())
    assert (source.form, source.ending) == ("module", ".pt")


def test_a_users_module_is_read_with_trust_only(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "net.pt")
    error = refused(lambda: read_network(tmp_path / "net.pt"), UntrustedError)
    assert "tests.networks.Small" in str(error)
    assert isinstance(read_network(tmp_path / "net.pt", trust=True).model, Small)


def test_weights_without_arch_are_refused_with_what_was_found(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "net.pt")
    error = refused(lambda: read_network(tmp_path / "net.pt"), FileError)
    assert "holds weights only: 9 tensors (hidden.weight, hidden.bias, norm.weight, ...)" in str(error)
    assert error.hint == "say which network they belong to with --arch file.py:callable"


@pytest.mark.parametrize(("names", "found"), [([], "none"), (["a"], "a"), (["a", "b"], "a, b")])
def test_few_weights_without_arch_are_all_named(names: list[str], found: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({name: torch.zeros(1) for name in names}, tmp_path / "net.safetensors")
    error = refused(lambda: read_network(tmp_path / "net.safetensors"), FileError)
    assert str(error).endswith(f"holds weights only: {found}")


def test_arch_for_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(sequence(), tmp_path / "net.pt")
    error = refused(lambda: read_network(tmp_path / "net.pt", arch=ARCH), FileError)
    assert (str(error).endswith("holds a whole module"), error.hint) == (True, "leave --arch out")


def test_weights_of_another_network_name_the_file(tmp_path: Path) -> None:
    torch.save(sequence().state_dict(), tmp_path / "net.pt")
    error = refused(lambda: read_network(tmp_path / "net.pt", arch=ARCH), ModelError)
    assert "net.pt does not fit Small" in str(error)


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_converted_file_is_not_converted_again(ending: str, tmp_path: Path) -> None:
    save(convert(sequence(), 2).model, tmp_path / f"net{ending}")
    error = refused(lambda: read_network(tmp_path / f"net{ending}", arch=ARCH), FileError)
    assert "is already converted" in str(error)
    assert "convert the original, with another n; inspect --algebra" in str(error.hint)


def test_read_any_reads_originals_and_converted_ones(saved: Path, tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    torch.save(sequence().train(), tmp_path / "module.pt")
    x = torch.randn(2, 16)
    assert torch.equal(read_any(saved, arch=ARCH)(x), load(saved, Small())(x))
    assert torch.equal(read_any(tmp_path / "weights.pt", arch=ARCH)(x), small()(x))
    assert torch.equal(read_any(tmp_path / "module.pt")(x), sequence()(x))


def test_read_any_of_weights_needs_arch(saved: Path) -> None:
    refused(lambda: read_any(saved), FileError)


@pytest.mark.parametrize(("form", "ending"), [("weights", ".safetensors"), ("module", ".pt"), ("folder", "")])
def test_like_in_like_out(form: str, ending: str) -> None:
    assert Source(nn.Identity(), form, 0).ending == ending


# What libraries have by name


def test_a_name_without_a_file_is_a_librarys_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("phnnify.sources.read_named", lambda name: small())
    source = read_network(Path("timm:small"))
    assert same_tensors(source.model.state_dict(), small().state_dict())
    assert (source.form, source.ending) == ("weights", ".safetensors")
    assert source.bytes == sum(t.numel() * t.element_size() for t in small().state_dict().values())
    assert isinstance(read_any(Path("timm:small")), Small)
    monkeypatch.chdir(tmp_path)
    torch.save(sequence(), "timm:small")
    assert repr(read_network(Path("timm:small")).model) == repr(sequence())


def test_arch_beside_a_librarys_network_is_refused() -> None:
    error = refused(lambda: read_network(Path("timm:small"), arch=ARCH), FileError)
    assert (str(error), error.hint) == ("timm:small is a whole network", "leave --arch out")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("some/net.pt", "net-n4.safetensors"),
        ("timm:resnet50.a1_in1k", "resnet50.a1_in1k-n4.safetensors"),
        ("timm:hf-hub:someone/net", "net-n4.safetensors"),
    ],
)
def test_what_is_written_is_named_after_what_was_read(path: str, name: str) -> None:
    assert name_beside(Path(path), "n4", ".safetensors") == Path(name)
