"""What a torch file names beyond what is known to be safe."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from phnnify.archive import read_content
from phnnify.errors import UntrustedError
from phnnify.foreign import SAFE_CLASSES, foreign_globals
from tests.networks import small
from tests.pickled_calls import DISGUISES, FORMATS, PLACES, Call, stored
from tests.refusals import refused


def test_only_modules_of_torch_and_phnnify_are_safe() -> None:
    homes = {kind.__module__.split(".")[0] for kind in SAFE_CLASSES}
    assert homes == {"torch", "phnnify"}
    assert NonDynamicallyQuantizableLinear in SAFE_CLASSES
    assert not any(issubclass(kind, LazyModuleMixin) for kind in SAFE_CLASSES)


@pytest.mark.parametrize("form", FORMATS)
def test_weights_and_modules_of_torch_name_nothing_foreign(form: str, tmp_path: Path) -> None:
    assert foreign_globals(stored(small().state_dict(), tmp_path / "a.pt", form)) == []
    assert foreign_globals(stored(nn.Sequential(nn.LSTM(4, 4), nn.ReLU()), tmp_path / "b.pt", form)) == []


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_what_a_file_would_call_is_named_and_not_called(disguise: str, form: str, tmp_path: Path) -> None:
    call, name = DISGUISES[disguise]
    found = foreign_globals(stored(call(tmp_path / "canary"), tmp_path / "net.pt", form))
    assert any(one.startswith(name) for one in found)
    assert not (tmp_path / "canary").exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("place", PLACES)
def test_no_pickle_protocol_hides_a_name(place: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(PLACES[place](Call(os.mkdir, str(tmp_path / "canary"))), path, pickle_protocol=protocol)
    assert foreign_globals(path) == ["posix.mkdir"]
    assert not (tmp_path / "canary").exists()


def test_what_is_no_file_names_nothing(tmp_path: Path) -> None:
    assert foreign_globals(tmp_path) == foreign_globals(tmp_path / "none.pt") == []


def test_many_foreign_names_are_counted(tmp_path: Path) -> None:
    functions = [os.system, os.mkdir, os.rmdir, os.remove, os.rename, os.link, os.getcwd]
    path = stored([Call(f) for f in functions], tmp_path / "net.pt")
    error = refused(lambda: read_content(path), UntrustedError)
    assert "posix.system, posix.mkdir, posix.rmdir, posix.remove, posix.rename and 2 more" in str(error)
