"""torch.export programs (.pt2), read without running anything inside them.

torch runs parts of such a file when it loads it: pickled tensors, objects and example inputs; guards, which
are Python source; symbolic sizes, which sympy evaluates; and any function of torch that a graph names. So
torch is only ever given a copy of the archive that has none of these: what a file needs of them is refused,
what it does not need is left out. With `trust` the file itself is loaded.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phnnify.errors import FileError, UntrustedError
from phnnify.inputs import InputSpec
from phnnify.measure import first_line
from phnnify.opened.graph import with_layers
from phnnify.quiet import quiet

_HINT = "export it again with torch.export.save, or, if you trust the file's origin, --trust"
_PLAIN = re.compile(r"archive_format|archive_version|byteorder|\.data/\w+|data/weights/\w+(\.json)?")
_CONSTANTS = re.compile(r"data/constants/\w+(\.json)?")
_MODEL = re.compile(r"models/\w+\.json")
_SAMPLES = re.compile(r"data/sample_inputs/\w+\.pt")
_COMPILED = "data/aotinductor/"
_TARGETS = re.compile(  # not aten.from_file, which writes files, nor what calls things by their names
    r"torch\.ops\.(aten\.(?!from_file)|prims\.)\w+(\.\w+)?|torch\.sym_\w+|torch\._sym_sqrt|math\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|scan|map_impl)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|lt|le|gt|ge|eq|ne|and_|or_|xor"
    r"|not_|invert|lshift|rshift|index)"
)
_NAMES = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_KNOWN = re.compile(  # symbols, and what torch's own symbolic sizes are made of
    r"[a-z]+\d+|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|Where|PowByNatural|IntTrueDiv"
    r"|FloatTrueDiv|FloatPow|TruncToInt|TruncToFloat|CeilToInt|FloorToInt|RoundToInt|RoundDecimal|ToFloat"
    r"|Identity|LShift|RShift|Eq|Ne|Gt|Ge|Lt|Le|And|Or|Not|Abs|floor|ceiling|sqrt|true|false|True|False|oo|int_oo"
    r"|Integer|Rational|Float|Add|Mul|Pow"
)
_SYMBOL = re.compile(r"Symbol\('[a-z]+\d+'(, [a-z]+=(True|False))*\)")
_ARITHMETIC = re.compile(r"[\w\s+\-*/%(),.<>=&|~]*")


@dataclass(frozen=True)
class Program:
    """A program as a network whose weights are in layers, and what it takes."""

    model: nn.Module
    inputs: tuple[InputSpec, ...]


def read_program(path: Path, *, trust: bool = False) -> Program:
    """Read a program.

    Args:
        path: A .pt2 file of torch.export.save.
        trust: Let code stored in the file run.

    Raises:
        FileError: it is damaged, or of another version of torch.
        UntrustedError: it can only be read by running code stored inside it.
    """
    source: Any = str(path) if trust else io.BytesIO(_checked_copy(path))
    try:
        with quiet():
            program = torch.export.load(source)
            model = with_layers(program.module())
    except Exception as error:  # torch raises whatever a damaged program makes it stumble over
        raise FileError(
            f"{path} cannot be read as a torch.export program: {first_line(error)}",
            hint=f"it may be of another version of torch; this is {torch.__version__}",
        ) from None
    return Program(model, _inputs_of(program))


def _checked_copy(path: Path) -> bytes:
    """The archive with nothing in it that could run.

    Raises:
        FileError: it is damaged, or an older kind.
        UntrustedError: it needs something that could run.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as clean:
            entries = {name.split("/", 1)[-1]: name for name in archive.namelist()}
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise FileError(f"{path} is compressed, which torch.export.save never does")
            if any(name.startswith(_COMPILED) for name in entries):
                raise FileError(f"{path} holds compiled code, whose layers cannot be exchanged")
            for name, entry in entries.items():
                if _MODEL.fullmatch(name):
                    clean.writestr(entry, _checked_model(path, archive.read(entry)))
                elif _SAMPLES.fullmatch(name):
                    clean.writestr(entry, _checked_samples(path, archive.read(entry)))
                elif _PLAIN.fullmatch(name) or _CONSTANTS.fullmatch(name):
                    content = archive.read(entry)
                    if name.endswith("_config.json"):
                        sizes = {key: archive.getinfo(entry).file_size for key, entry in entries.items()}
                        _check_payloads(path, content, name.rpartition("/")[0], sizes)
                    clean.writestr(entry, content)
    except (FileError, UntrustedError):
        raise
    except Exception as error:  # zipfile and json hand on whatever goes wrong in them
        raise FileError(f"{path} is a damaged torch.export program: {first_line(error)}") from None
    return copy.getvalue()


def _checked_samples(path: Path, content: bytes) -> bytes:
    """Example inputs, if they are tensors; torch would unpickle anything else too."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # a damaged or hostile pickle may raise anything
        raise UntrustedError(
            f"{path} holds example inputs that cannot be read without running code", hint=_HINT
        ) from None
    return content


def _check_payloads(path: Path, content: bytes, folder: str, sizes: Mapping[str, int]) -> None:
    """Tensors must be stored as numbers, not as pickles, and be there: torch takes an empty one for zeros."""
    for name, entry in json.loads(content)["config"].items():
        if entry.get("use_pickle") is not False:
            raise UntrustedError(f"{path} holds {str(name)[:80]} as a pickle, which may run code", hint=_HINT)
        numbers = math.prod(size["as_int"] for size in entry["tensor_meta"]["sizes"])
        if numbers and not sizes.get(f"{folder}/{entry['path_name']}"):
            raise FileError(f"{path} is damaged: the numbers of {str(name)[:80]} are missing")


def _checked_model(path: Path, content: bytes) -> bytes:
    """The program's JSON without guards; all in it that torch would look up or evaluate is harmless."""
    model = json.loads(content)
    model["guards_code"] = []
    for key, value in _texts(model["graph_module"], model.get("range_constraints")):
        if key == "target" and not _TARGETS.fullmatch(value):
            raise UntrustedError(f"{path} calls {value[:80]!r}, which is no operator", hint=_HINT)
        if key == "expr_str" and not _is_arithmetic(value):
            raise UntrustedError(f"{path} has the size {value[:80]!r}, which is no arithmetic", hint=_HINT)
    for key in model.get("range_constraints") or {}:
        if not _is_arithmetic(key):
            raise UntrustedError(f"{path} has the size {key[:80]!r}, which is no arithmetic", hint=_HINT)
    for custom in _objects(model["graph_module"]):
        raise UntrustedError(f"{path} holds an object of its own ({custom[:80]})", hint=_HINT)
    _drop_history(model["graph_module"])
    return json.dumps(model).encode()


def _texts(*values: Any) -> Iterator[tuple[str, str]]:
    """All (key, text) of nested JSON."""
    for value in values:
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, str):
                    yield key, inner
                else:
                    yield from _texts(inner)
        elif isinstance(value, list):
            yield from _texts(*value)


def _objects(value: Any) -> Iterator[str]:
    """The names of custom objects that a graph holds."""
    for key, text in _texts(value):
        if key in ("class_fqn", "custom_obj_name"):
            yield text


def _drop_history(value: Any) -> None:
    """Take out of all nodes where they came from in the source; torch would look that up. Paths stay."""
    if isinstance(value, dict):
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and "target" in value:
            value["metadata"] = {key: metadata[key] for key in metadata if key == "nn_module_stack"}
        for inner in value.values():
            _drop_history(inner)
    elif isinstance(value, list):
        for inner in value:
            _drop_history(inner)


def _is_arithmetic(text: str) -> bool:
    text = _SYMBOL.sub("s0", text)
    known = all(_KNOWN.fullmatch(name) for name in _NAMES.findall(text))
    return known and bool(_ARITHMETIC.fullmatch(text)) and not re.search(r"\.\s*[A-Za-z_(]", text)


def _inputs_of(program: torch.export.ExportedProgram) -> tuple[InputSpec, ...]:
    """What the program takes, with its free axes; none where an input is no tensor."""
    wanted = set(program.graph_signature.user_inputs)
    specs = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                return ()
            sizes = tuple(size if isinstance(size, int) else 2 for size in value.shape)
            free = frozenset(axis for axis, size in enumerate(value.shape) if not isinstance(size, int))
            specs.append(InputSpec(sizes, value.dtype, None, free))
    return tuple(specs)
