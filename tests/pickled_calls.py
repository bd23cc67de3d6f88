"""Torch files that would run something."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.networks import sequence

FORMATS = {"zip": True, "legacy": False}


def stored(value: Any, path: Path, form: str = "zip") -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[form])
    return path


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


_load: Any = torch.load  # itself, also where a test stands in for it
DISGUISES: dict[str, tuple[Callable[[Path], Call], str]] = {
    "os.system": (lambda p: Call(os.system, f"touch {p}"), "posix.system"),
    "open": (lambda p: Call(open, str(p), "w"), "io.open"),
    "exec": (lambda p: Call(exec, f"open({str(p)!r}, 'w')"), "builtins.exec"),
    "eval": (lambda p: Call(eval, f"open({str(p)!r}, 'w')"), "builtins.eval"),
    "subprocess": (lambda p: Call(subprocess.check_call, ["touch", str(p)]), "subprocess.check_call"),
    "getattr": (lambda p: Call(getattr, Call(importlib.import_module, "os"), "mkdir"), "builtins.getattr"),
    "mkdir": (lambda p: Call(os.mkdir, str(p)), "posix.mkdir"),
    "pathlib": (lambda p: Call(Path.touch, Call(Path, str(p))), "pathlib."),
    "map": (lambda p: Call(list, Call(map, exec, [f"open({str(p)!r}, 'w')"])), "builtins.map"),
    "pickle in a pickle": (
        lambda p: Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(p)))),
        "pickle.loads",
    ),
    "torch's own loader": (
        lambda p: Call(torch.storage._load_from_bytes, _saved(Call(os.mkdir, str(p)))),
        "torch.storage._load_from_bytes",
    ),
    "torch.load": (
        lambda p: Call(_load, Call(io.BytesIO, _saved(Call(os.mkdir, str(p)))), None, None),
        "torch.serialization.load",
    ),
    "import": (lambda p: Call(importlib.import_module, "antigravity"), "importlib.import_module"),
    "import, by name": (lambda p: Call(builtins.__import__, "antigravity"), "builtins.__import__"),
}


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _with_hook(call: Call) -> nn.Module:
    model = sequence()
    model[0]._forward_hooks[0] = call  # type: ignore[assignment]
    return model


def _with_attribute(call: Call) -> nn.Module:
    model = sequence()
    model.note = call  # type: ignore[assignment]
    return model


def _with_child(call: Call) -> nn.Module:
    model = sequence()
    model._modules["0"] = call  # type: ignore[assignment]
    return model


def _with_noted_weight(call: Call) -> nn.Module:
    model = sequence()
    model[0].weight.note = call  # type: ignore[union-attr]
    return model


PLACES: dict[str, Callable[[Call], Any]] = {
    "alone": lambda call: call,
    "in a state dict": lambda call: {**sequence().state_dict(), "extra": call},
    "in place of a weight": lambda call: {**sequence().state_dict(), "0.weight": call},
    "as metadata": lambda call: _with_metadata(call),
    "in a checkpoint": lambda call: {"state_dict": sequence().state_dict(), "epoch": [{"1": (call,)}]},
    "as an attribute": _with_attribute,
    "as a hook": _with_hook,
    "as a child": _with_child,
    "on a parameter": _with_noted_weight,
}


def _with_metadata(call: Call) -> Any:
    state: Any = sequence().state_dict()
    state._metadata = call
    return state
