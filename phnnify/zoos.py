"""Networks that libraries have by name, `timm:resnet18` and `torchvision:resnet18`. Alone imports these.

The name stands for the architecture, or for the network with the library's pretrained weights. Those are read
from the library's own cache, without unpickling anything; nothing is fetched.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from phnnify.errors import FileError
from phnnify.measure import first_line
from phnnify.offline import offline
from phnnify.quiet import quiet

LIBRARIES = ("timm", "torchvision")
_FETCH = {
    "timm": "timm.create_model({name!r}, pretrained=True)",
    "torchvision": "torchvision.models.get_model({name!r}, weights='DEFAULT')",
}


def is_named(reference: str) -> bool:
    """Whether a reference has the form of a library's network."""
    library, colon, name = reference.partition(":")
    return bool(colon and name) and library in LIBRARIES


def build_named(reference: str) -> nn.Module:
    """The architecture, with random weights.

    Raises:
        FileError: the library is not installed or has no such network, or cannot build it.
    """
    return _build(reference, pretrained=False)


def read_named(reference: str) -> nn.Module:
    """The network with the library's pretrained weights, in eval mode.

    Raises:
        FileError: the library is not installed or has no such network, or the weights are not in its cache.
    """
    return _build(reference, pretrained=True).eval()


def _build(reference: str, *, pretrained: bool) -> nn.Module:
    library, _, name = reference.partition(":")
    builder: Callable[[Any, str, bool], Any] = {"timm": _timm, "torchvision": _torchvision}[library]
    try:
        with quiet():
            module = importlib.import_module(library)
    except Exception as error:  # missing, or made for another torch, which it finds out in its own ways
        installed = not (isinstance(error, ModuleNotFoundError) and error.name == library)
        raise FileError(
            f"{reference} needs {library}, which {'cannot be imported' if installed else 'is not installed'}"
            + (f": {first_line(error)}" if installed else ""),
            hint=None if installed else f"pip install {library}",
        ) from None
    try:
        with quiet(), offline():
            network: nn.Module = builder(module, name, pretrained)
    except FileError:
        raise
    except Exception as error:  # each network's constructor, and each reader of weights, fails in its own way
        own = f"give weights of your own as MODEL, with --arch {reference}"
        if not isinstance(error, OSError):
            wanted = f"{name} with pretrained weights" if pretrained else name
            raise FileError(f"{library} cannot give {wanted}: {first_line(error)}", hint=own) from None
        raise FileError(
            f"the cache of {library} on this machine does not hold the pretrained weights of {name}",
            hint="nothing is downloaded; fetch them once in Python, with "
            f"{_FETCH[library].format(name=name)}; or {own}",
        ) from None
    return network


def _timm(timm: Any, name: str, pretrained: bool) -> Any:
    if not (":" in name or timm.is_model(name)):  # a colon: from a folder or the cache of Hugging Face's hub
        raise _unknown(timm, name, timm.list_models())
    return timm.create_model(name, pretrained=pretrained)


def _torchvision(torchvision: Any, name: str, pretrained: bool) -> Any:
    models = torchvision.models
    if name.lower() not in models.list_models():
        raise _unknown(torchvision, name, models.list_models())
    if pretrained:
        chosen = models.get_model_weights(name).DEFAULT
        with patch.object(type(chosen), "get_state_dict", _state_dict, create=True):
            return models.get_model(name, weights=chosen)
    # What a detector's backbone starts from is fetched unless it is said that it starts from nothing.
    parts = inspect.signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in parts else {}
    return models.get_model(name, weights=None, **backbone)


def _state_dict(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of torchvision's own, which unpickles whatever is in the file."""
    return torch.hub.load_state_dict_from_url(
        weights.url, map_location="cpu", progress=False, weights_only=True
    )


def _unknown(library: Any, name: str, known: Iterable[str]) -> FileError:
    near = difflib.get_close_matches(name, list(known), n=3)
    return FileError(
        f"{library.__name__} {library.__version__} has no network {name[:80]!r}",
        hint=f"it has {', '.join(near)}" if near else None,
    )
