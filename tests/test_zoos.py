"""Networks that libraries have by name: stand-ins for the libraries, and the libraries where installed."""

from __future__ import annotations

import enum
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from phnnify.errors import FileError
from phnnify.references import build_network
from phnnify.zoos import build_named, is_named, read_named
from tests.networks import same_tensors

URL = "https://example.invalid/weights/net-0123.pth"


class Net(nn.Linear):
    """What the stand-ins build."""

    def __init__(self, backbone: object = None) -> None:
        super().__init__(3, 2)
        self.backbone = backbone


class Weights(enum.Enum):
    """As torchvision describes pretrained weights."""

    DEFAULT = "v1"

    @property
    def url(self) -> str:
        return URL

    def get_state_dict(self) -> Any:
        raise AssertionError("torchvision's own reader unpickles what is in the file")


def timm_create(name: str, pretrained: bool) -> nn.Module:
    sys.stdout.write("chatter")
    net = Net()
    if name == "fails":
        raise TypeError("no such size")
    if pretrained:
        net.load_state_dict(torch.hub.load_state_dict_from_url(URL, weights_only=True))
    return net


def plain(*, weights: Weights | None = None) -> nn.Module:
    net = Net()
    if weights:
        net.load_state_dict(weights.get_state_dict())
    return net


def detector(*, weights: Weights | None = None, weights_backbone: str | None = "fetched") -> nn.Module:
    return Net(weights_backbone)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"plain": plain, "detector": detector}
TIMM = SimpleNamespace(
    __name__="timm", __version__="1.2", create_model=timm_create, list_models=lambda: ["plain", "fails"],
    is_model=lambda name: name in ("plain", "fails"),
)  # fmt: skip
TORCHVISION = SimpleNamespace(
    __name__="torchvision",
    __version__="0.9",
    models=SimpleNamespace(
        list_models=lambda: list(BUILDERS),
        get_model_builder=BUILDERS.get,
        get_model=lambda name, **config: BUILDERS[name](**config),
        get_model_weights=lambda name: Weights,
    ),
)
both = pytest.mark.parametrize("library", ["timm", "torchvision"])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-ins, with an empty cache, where torch.hub keeps its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "timm", TIMM)
    monkeypatch.setitem(sys.modules, "torchvision", TORCHVISION)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def refused(reference: str, *, pretrained: bool = True) -> FileError:
    with pytest.raises(FileError) as caught:
        (read_named if pretrained else build_named)(reference)
    return caught.value


@pytest.mark.parametrize(
    ("reference", "named"),
    [
        ("timm:resnet18", True),
        ("torchvision:resnet18", True),
        ("timm:hf-hub:someone/net", True),
        ("timm:", False),
        ("timm", False),
        ("torchvision.models:resnet18", False),
        ("timm.py:build", False),
        ("folder/timm:net", False),
    ],
)
def test_a_librarys_network_is_told_by_its_form(reference: str, named: bool) -> None:
    assert is_named(reference) is named


@both
def test_the_architecture_is_built_without_its_weights(library: str, cache: Path) -> None:
    assert isinstance(build_network(f"{library}:plain"), Net)


@both
def test_pretrained_weights_come_from_the_cache(
    library: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = Net().state_dict()
    torch.save(state, cache / "net-0123.pth")
    model = read_named(f"{library}:plain")
    assert same_tensors(model.state_dict(), state)
    assert not model.training
    assert capsys.readouterr() == ("", "")


@both
def test_weights_that_are_not_in_the_cache_are_not_fetched(library: str, cache: Path) -> None:
    error = refused(f"{library}:plain")
    wanted = f"the cache of {library} on this machine does not hold the pretrained weights of plain"
    assert str(error) == wanted
    assert f"--arch {library}:plain" in str(error.hint)
    assert f"{library}." in str(error.hint)


@both
def test_nothing_in_cached_weights_runs(library: str, cache: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Evil()}, cache / "net-0123.pth")
    assert str(refused(f"{library}:plain")).startswith(
        f"{library} cannot give plain with pretrained weights: "
    )
    assert not (tmp_path / "ran").exists()


def test_a_detectors_backbone_starts_from_nothing(cache: Path) -> None:
    model = build_named("torchvision:detector")
    assert isinstance(model, Net)
    assert model.backbone is None


@both
@pytest.mark.parametrize("pretrained", [True, False])
def test_an_unknown_name_is_answered_with_near_ones(library: str, pretrained: bool, cache: Path) -> None:
    error = refused(f"{library}:plane", pretrained=pretrained)
    assert str(error).startswith(f"{library} ")
    assert str(error).endswith("has no network 'plane'")
    assert error.hint == "it has plain"


def test_what_a_constructor_says_is_told(cache: Path) -> None:
    assert str(refused("timm:fails", pretrained=False)) == "timm cannot give fails: TypeError: no such size"


@both
def test_a_missing_library_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, library, raising=False)
    error = refused(f"{library}:resnet18")
    assert str(error) == f"{library}:resnet18 needs {library}, which is not installed"
    assert error.hint == f"pip install {library}"


def test_a_broken_library_says_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('made for another torch')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    error = refused("timm:resnet18")
    assert str(error).endswith("which cannot be imported: RuntimeError: made for another torch")


@both
def test_the_librarys_own_networks_are_built_where_it_is_installed(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    model = build_named(f"{library}:resnet18")
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 1000)
