"""Python objects named on the command line: `file.py:callable`, `package.module:callable`, `timm:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from phnnify.errors import FileError, ModelError, UsageError
from phnnify.measure import first_line
from phnnify.zoos import build_named, is_named

_FORM = "the form is file.py:callable or package.module:callable"


def build_network(reference: str) -> nn.Module:
    """Call what `--arch` names, without arguments: it must give a network; or build a library's (`zoos`).

    Raises:
        UsageError: the reference has another form.
        FileError: there is no such file, module or name, or it cannot be imported.
        ModelError: the call fails, or gives something that is not a network.
    """
    if is_named(reference):
        return build_named(reference)
    build = load_callable(reference, "--arch")
    try:
        network = build()
    except (Exception, SystemExit) as error:  # whatever the user's own code may raise
        raise ModelError(
            f"--arch {reference}: the call failed: {first_line(error)}",
            hint="it is called without arguments; write a small function that builds the network",
        ) from None
    if not isinstance(network, nn.Module):
        raise ModelError(f"--arch {reference} gave a {type(network).__name__}, not a torch.nn.Module")
    return network


def load_callable(reference: str, option: str) -> Callable[[], Any]:
    """The callable that a reference names. Importing its file runs that file: the user asked for it.

    Raises:
        UsageError: the reference has another form.
        FileError: there is no such file, module or name, or it cannot be imported.
    """
    place, colon, name = reference.rpartition(":")
    if not (colon and place and name):
        raise UsageError(f"{option} {reference!r} cannot be read", hint=_FORM)
    module = _import(place, option)
    target = getattr(module, name, None)
    if not callable(target):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        own = [key for key in names if getattr(vars(module)[key], "__module__", None) == module.__name__]
        raise FileError(
            f"{option} {reference}: {place} has no callable {name!r}",
            hint=f"it has {', '.join(own[:8]) or 'none of its own'}",
        )

    def call() -> Any:
        with importable(_folder(place)):  # it may import more only now
            return target()

    return call


def _import(place: str, option: str) -> ModuleType:
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not path.is_file():
        raise FileError(f"{option}: there is no file {place}", hint=_FORM)
    try:
        with importable(_folder(place)):
            return _import_file(path) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever the user's own code may raise
        raise FileError(f"{option}: {place} cannot be imported: {first_line(error)}") from None


def _folder(place: str) -> Path:
    """Where a reference's own imports are looked for: its file's folder, or the current one."""
    return Path(place).parent if place.endswith(".py") else Path()


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name, so that its classes can be pickled and found again.

    Where that name belongs to another module, loaded or installed, its folder's name is put in front.
    """
    path = path.resolve()
    name = f"{path.parent.name}_{path.stem}" if _is_taken(path) else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_taken(path: Path) -> bool:
    """Whether the name of a file is that of another module."""
    if path.stem in sys.modules:
        other = getattr(sys.modules[path.stem], "__file__", None) or ""
    else:
        spec = PathFinder.find_spec(path.stem, sys.path[1:])  # without the file's own folder in front
        other = (spec and spec.origin) or str(path)
    return Path(other).resolve() != path


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let imports find modules in a folder, as `python file.py` would."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code that was imported may have changed it
            sys.path.remove(place)
