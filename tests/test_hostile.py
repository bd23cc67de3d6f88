"""Damaged and hostile files: whatever comes in, one clear message goes out and nothing else happens.

Every strict case must be refused. A byte changed among the numbers of a safetensors or an old torch file
gives another valid file (neither format has checksums): those cases, in `SILENT`, may also convert.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phnnify.archive import read_content
from phnnify.errors import PhnnifyError
from tests.networks import ARCH, Outcome, command, sequence, small

CANARY = Path("canary")
State = dict[str, Any]
Cases = Iterator[tuple[str, bytes]]


def torch_bytes(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(value: Any) -> bytes:
    return torch_bytes(value)


def legacy(value: Any) -> bytes:
    return torch_bytes(value, _use_new_zipfile_serialization=False)


def tensors(value: Any) -> bytes:
    return safetensors.torch.save(value)


FORMATS: dict[str, Callable[[Any], bytes]] = {"zip": zipped, "legacy": legacy, "safetensors": tensors}


@cache
def valid(form: str) -> bytes:
    """The weights of a network in one of the formats; 'module': a pickled network."""
    return zipped(sequence()) if form == "module" else FORMATS[form](small().state_dict())


def header_end(data: bytes) -> int:
    """Where the numbers of a safetensors file begin."""
    return 8 + int.from_bytes(data[:8], "little")


def with_byte(data: bytes, position: int, value: int) -> bytes:
    assert data[position] != value
    return data[:position] + bytes([value]) + data[position + 1 :]


def flipped(data: bytes, position: int, mask: int = 1) -> bytes:
    return with_byte(data, position, data[position] ^ mask)


def spread(count: int, end: int, start: int = 0) -> list[int]:
    """Positions all over a range."""
    return sorted({start + (end - start) * i // count for i in range(count)})


# Truncated, changed and mixed files


def truncated() -> Cases:
    for form in ("zip", "legacy", "safetensors", "module"):
        for length in (*spread(12, len(valid(form)), start=1), len(valid(form)) - 1):
            yield f"{form} cut at {length}", valid(form)[:length]


def entry_positions(data: bytes) -> list[int]:
    """Some places inside of each entry of a zip file."""
    positions = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            names, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
            start = entry.header_offset + 30 + names + extra
            positions += spread(3, start + entry.file_size, start=start)
    return sorted(set(positions))


def changed_in_zip() -> Cases:
    for form in ("zip", "module"):
        data = valid(form)
        for position in entry_positions(data):
            yield f"{form} entry, byte {position}", flipped(data, position, 0x10)
        for signature in (b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"):
            for offset in range(4):
                name = f"{form} signature {signature!r}, byte {offset}"
                yield name, flipped(data, data.find(signature) + offset, 0xFF)


def changed_in_legacy() -> Cases:
    data = valid("legacy")
    for name in small().state_dict():
        position = data.find(name.encode())
        assert position > 0
        yield f"legacy name {name}", flipped(data, position)
        yield f"legacy name {name}, no text", with_byte(data, position, 0xFF)
    for position in range(2, 14):
        yield f"legacy magic number, byte {position}", flipped(data, position, 0x40)
    for part in (b"_rebuild_tensor_v2", b"FloatStorage", b"storage", b"OrderedDict"):
        yield f"legacy {part!r}", flipped(data, data.find(part) + 2)


def changed_in_safetensors() -> Cases:
    data = valid("safetensors")
    solid = [p for p in range(8, header_end(data)) if data[p : p + 1].strip()]  # spaces may change
    for position in solid[::11]:
        yield f"safetensors header, byte {position}", flipped(data, position)
        yield f"safetensors header, no text, byte {position}", with_byte(data, position, 0xFF)
    for length in (0, 1, 8, len(data), 2**31, 2**40, 2**63 - 1, 2**64 - 1):
        yield f"safetensors header of {length}", struct.pack("<Q", length) + data[8:]


def changed_header(change: Callable[[dict[str, Any]], None]) -> bytes:
    data = valid("safetensors")
    header = json.loads(data[8 : header_end(data)])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[header_end(data) :]


HEADERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "emptied": lambda h: h.clear(),
    "dtype unknown": lambda h: h["head.bias"].update(dtype="F31"),
    "dtype other": lambda h: h["head.bias"].update(dtype="I32"),
    "dtype wider": lambda h: h["head.bias"].update(dtype="F64"),
    "shape negative": lambda h: h["head.bias"].update(shape=[-8]),
    "shape huge": lambda h: h["head.bias"].update(shape=[2**62, 2**62]),
    "shape fraction": lambda h: h["head.bias"].update(shape=[0.5]),
    "shape text": lambda h: h["head.bias"].update(shape="8"),
    "shape nested": lambda h: h["head.bias"].update(shape=[[8]]),
    "offsets swapped": lambda h: h["head.bias"]["data_offsets"].reverse(),
    "offsets beyond": lambda h: h["head.bias"].update(data_offsets=[0, 2**60]),
    "offsets negative": lambda h: h["head.bias"].update(data_offsets=[-32, 0]),
    "offsets overlapping": lambda h: h["head.bias"].update(data_offsets=h["hidden.bias"]["data_offsets"]),
    "offsets missing": lambda h: h["head.bias"].pop("data_offsets"),
    "tensor as text": lambda h: h.update({"head.bias": "zeros"}),
    "metadata as list": lambda h: h.update(__metadata__=[1]),
    "metadata nested": lambda h: h.update(__metadata__={"phnnify.plan": {"n": 2}}),
    "metadata converted": lambda h: h.update(__metadata__={"phnnify.plan": "{}"}),
}


def changed_headers() -> Cases:
    for name, change in HEADERS.items():
        yield f"safetensors header, {name}", changed_header(change)


def mixed() -> Cases:
    for head in FORMATS:
        for body in FORMATS:
            if head != body:
                yield f"{body} with the head of {head}", valid(head)[:16] + valid(body)[16:]
    for form in FORMATS:
        data = valid(form)
        yield f"{form} without its first byte", data[1:]
        yield f"{form} after a line", b"\n" + data
        yield f"{form} reversed", data[::-1]
        yield f"{form} of zeros", data[:9] + bytes(len(data) - 9)


def noise() -> Cases:
    for head in (b"", b"PK\x03\x04", b"\x80\x02", struct.pack("<Q", 64) + b"{"):
        for seed in range(5):
            yield f"noise {seed} after {head!r}", head + random.Random(seed).randbytes(600)


# Zip files that torch did not write so


def rezipped(change: Callable[[str, bytes], bytes | None], form: str = "zip", **options: Any) -> bytes:
    """The same file with fresh checksums, its entries changed; None drops one."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid(form))) as old, zipfile.ZipFile(out, "w", **options) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out.getvalue()


def with_entry(name: str) -> bytes:
    file = io.BytesIO(valid("zip"))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


def changing(ending: str, change: Callable[[bytes], bytes | None]) -> Callable[[str, bytes], bytes | None]:
    """Change the entries with such a name."""
    return lambda name, data: change(data) if name.endswith(ending) else data


def in_pickle(old: bytes, new: bytes, form: str = "zip") -> bytes:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return rezipped(changing("data.pkl", change), form)


def in_directory(field: int, value: bytes) -> bytes:
    """The zip file with a field of its first entry in the directory at its end replaced."""
    data, start = valid("zip"), valid("zip").find(b"PK\x01\x02") + field
    return data[:start] + value + data[start + len(value) :]


def odd_zips() -> Cases:
    yield "zip, compressed", rezipped(lambda name, data: data, compression=zipfile.ZIP_DEFLATED)
    yield "zip without its pickle", rezipped(changing("data.pkl", lambda data: None))
    yield "zip with an empty pickle", rezipped(changing("data.pkl", lambda data: b""))
    deep = b"\x80\x02}N" + 2000 * b"\x85" + b"K\x01s."  # {((((...None...,),),),): 1}
    yield "zip with a key nested deeply", rezipped(changing("data.pkl", lambda data: deep))
    yield "zip with half a number", rezipped(changing("data.pkl", lambda data: b"\x80\x02J\x01"))
    yield "zip with half a pickle", rezipped(changing("data.pkl", lambda data: data[: len(data) // 2]))
    yield "zip without a tensor", rezipped(changing("/data/0", lambda data: None))
    yield "zip with half a tensor", rezipped(changing("/data/0", lambda data: data[: len(data) // 2]))
    yield "zip with a wrong byte order", rezipped(changing("byteorder", lambda data: b"middle"))
    yield "zip without entries", b"PK\x03\x04" + rezipped(lambda name, data: None)
    for name in ("x/constants.pkl", "x/code/net.py", "x/archive_format", "serialized_exported_program.json"):
        yield f"zip with {name}", with_entry(name)
    fields = {"flags": 8, "method": 10, "checksum": 16, "compressed size": 20, "size": 24, "offset": 42}
    for what, field in fields.items():
        for value in (b"\x01\x00", b"\x09\x00", b"\xff\xff"):
            yield f"zip entry's {what} {value!r}", in_directory(field, value)
    yield "zip, a shape too large", in_pickle(b"K\x10K\x10\x86", b"K\xffK\xff\x86")
    yield (
        "zip, a shape beyond memory",
        in_pickle(b"K\x10K\x10\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    )
    yield "zip, a shape negative", in_pickle(b"K\x10K\x10\x86", b"J\xff\xff\xff\xffK\x10\x86")
    yield "zip, a storage type unknown", in_pickle(b"FloatStorage", b"FloatingThing")
    for old in (b"training", b"_parameters", b"_modules", b"_buffers", b"linear\nLinear", b"ReLU"):
        yield f"module without {old!r}", in_pickle(old, old.swapcase(), "module")
    yield "module of another class", in_pickle(b"linear\nLinear", b"rnn\nLSTM", "module")


# Weights that do not fit the network


def misfits() -> Iterator[tuple[str, State]]:
    state = small().state_dict()
    for name in ("hidden.weight", "norm.running_var", "head.bias"):
        yield f"{name} missing", {key: value for key, value in state.items() if key != name}
    for name in ("extra", "head.weight.A", "module.head.bias", " head.bias", "", "\x1b[2Jhead"):
        yield f"{name!r} unexpected", {**state, name: torch.zeros(1)}
    wrong = {
        "turned": torch.zeros(16, 8),
        "flat": torch.zeros(128),
        "empty": torch.zeros(0, 16),
        "a number": torch.tensor(1.0),
        "of whole numbers": torch.zeros(8, 16, dtype=torch.int64),
        "of truth values": torch.zeros(8, 16, dtype=torch.bool),
        "complex": torch.zeros(8, 16, dtype=torch.complex64),
    }
    for what, tensor in wrong.items():
        yield f"head.weight {what}", {**state, "head.weight": tensor}
    for name in ("hidden.weight", "head.weight"):
        for value in (float("nan"), float("inf"), float("-inf")):
            spoilt = state[name].clone()
            spoilt[2, 3] = value
            yield f"{name} with {value}", {**state, name: spoilt}
    yield "other weights", {"unrelated": torch.zeros(3)}


def no_weights() -> Iterator[tuple[str, Any]]:
    """What torch.save can hold and safetensors cannot."""
    state: State = small().state_dict()
    ring: State = {}
    ring["state_dict"] = {"model": ring}
    alone: list[Any] = [None, 3, "text", 0.5, (1,), [], {}, {"epoch": 1}, {1: 2}, {"state_dict": {}}]
    for value in alone:
        yield f"{value!r} alone", value
    instead: list[Any] = [None, 3, "text", [1.0]]
    for value in instead:
        yield f"{value!r} for a weight", {**state, "head.bias": value}
    yield "a tensor alone", torch.zeros(8, 16)
    yield "tensors in a list", [torch.zeros(8, 16)]
    yield "a sparse weight", {**state, "head.weight": torch.eye(8, 16).to_sparse()}
    yield "a weight without data", {**state, "head.bias": torch.zeros(8, device="meta")}
    yield "a dict in itself", ring
    yield "keys of many kinds", {1: torch.zeros(1), (2, "a"): torch.zeros(1), None: torch.zeros(1)}
    yield "a key with a second error", {FAKE: torch.zeros(1)}
    yield "a key of a megabyte", {"k" * 2**20: torch.zeros(1)}
    yield "half a character", {"\ud800": torch.zeros(1)}


FAKE = "a\nerror: b\nTraceback (most recent call last)"


def misfit_files() -> Cases:
    for name, state in misfits():
        for form, write in FORMATS.items():
            yield f"{form}, {name}", write(state)
    for name, value in no_weights():
        for form in ("zip", "legacy"):
            yield f"{form}, {name}", FORMATS[form](value)


MODULES: dict[str, Callable[[Any], Any]] = {
    "forward replaced": lambda m: vars(m[0]).update(forward=nn.Linear),
    "state_dict replaced": lambda m: vars(m).update(state_dict=nn.Identity),
    "parameters replaced": lambda m: vars(m[3]).update(_parameters=3),
    "a parameter replaced": lambda m: m[0]._parameters.update(weight=3),
    "a buffer replaced": lambda m: m[1]._buffers.update(running_mean="no"),
    "a child replaced": lambda m: m._modules.update({"0": [1]}),
    "its mode replaced": lambda m: vars(m[0]).update(training=None),
    "weights not finite": lambda m: m[0].weight.data.fill_(float("inf")),
    "nothing inside": lambda m: m._modules.clear(),
    "nothing to convert": lambda m: m._modules.update({"0": nn.Tanh(), "3": nn.Tanh()}),
}


def changed_module(change: Callable[[Any], Any]) -> nn.Module:
    model = sequence()
    change(model)
    return model


def damaged_modules() -> Cases:
    for name, change in MODULES.items():
        yield f"module, {name}", zipped(changed_module(change))


# Pickles that would do something


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


WRITE = f"open({str(CANARY)!r}, 'w')"
MKDIR = Call(os.mkdir, str(CANARY))
CALLS: dict[str, Call] = {
    "mkdir": MKDIR,
    "os.system": Call(os.system, f"touch {CANARY}"),
    "open": Call(open, str(CANARY), "w"),
    "exec": Call(exec, WRITE),
    "eval": Call(eval, WRITE),
    "subprocess": Call(subprocess.check_call, ["touch", str(CANARY)]),
    "a pickle": Call(pickle.loads, pickle.dumps(MKDIR)),
    "torch's loader": Call(torch.storage._load_from_bytes, zipped(MKDIR)),
    "map": Call(list, Call(map, exec, [WRITE])),
    "an attribute": Call(getattr, Path(CANARY), "touch"),
    "an exit": Call(sys.exit, 0),
}
PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda call: call,
    "for a weight": lambda call: {**small().state_dict(), "head.bias": call},
    "in a checkpoint": lambda call: {"state_dict": small().state_dict(), "epoch": [call]},
    "deep inside": lambda call: {"state_dict": small().state_dict(), "x": {(1, 2): {"a": (call,)}}},
    "as an attribute": lambda call: changed_module(lambda m: vars(m[0]).update(note=call)),
    "as a hook": lambda call: changed_module(lambda m: m[0]._forward_hooks.update({0: call})),
    "as a child": lambda call: changed_module(lambda m: m._modules.update({"0": call})),
}


def pickles() -> Cases:
    for name, call in CALLS.items():
        for form in ("zip", "legacy"):
            yield f"{form}, {name} alone", FORMATS[form](call)
        for protocol in (2, 4):
            yield f"pickle {protocol}, {name}", pickle.dumps(call, protocol)
    for place, put in PLACES.items():
        for form in ("zip", "legacy"):
            yield f"{form}, mkdir {place}", FORMATS[form](put(MKDIR))
        yield f"protocol 4, mkdir {place}", torch_bytes(put(MKDIR), pickle_protocol=4)


# Files of other kinds


def tarred(first: str) -> bytes:
    file, payload = io.BytesIO(), pickle.dumps(MKDIR, 2)
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in (first, "storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(payload)
            archive.addfile(entry, io.BytesIO(payload))
    return file.getvalue()


def others() -> Cases:
    npz = io.BytesIO()
    np.savez(npz, weight=np.zeros(3))
    yield "NumPy zip", npz.getvalue()
    yield "empty", b""
    yield "one byte", b"\x80"
    yield "zeros", bytes(1000)
    yield "text", b"hello world, this is no model\n"
    yield "JSON", b'{"state_dict": {}}'
    yield "a failed download", b"<!doctype html><title>404</title>"
    yield "git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    for magic in (
        b"\x89PNG\r\n\x1a\n",
        b"\x1f\x8b\x08",
        b"\x7fELF",
        b"\x89HDF\r\n\x1a\n",
        b"\x93NUMPY\x01\x00",
    ):
        yield f"magic {magic!r}", magic + bytes(100)
    yield "ONNX", b"\x08\x08\x12\x07pytorch\x1a\x05"
    yield "tar", tarred("pickle")
    yield "tar that begins as a pickle", tarred("\x80\x02")
    yield "zip's last record alone", b"PK\x05\x06" + bytes(18)
    yield "pickle of nothing", pickle.dumps(None, 2)
    yield "pickle that never ends", b"\x80\x02" + b"]" * 10_000
    yield "pickle that recurses", b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."
    yield "pickle of a giant text", b"\x80\x02X\xff\xff\xff\x7fabc."
    yield "pickle of a giant number", b"\x80\x02\x8b\xff\xff\xff\x7f1."
    yield "pickle that pops nothing", b"\x80\x02000."
    yield "pickle that recalls nothing", b"\x80\x02h\x07."
    yield "pickle from the future", b"\x80\x63N."
    yield "pickle of a persistent name", b"\x80\x02X\x01\x00\x00\x00aQ."
    yield "safetensors without an end", b"\xff" * 7 + b"\x7f{"
    yield "safetensors nested deeply", struct.pack("<Q", 10_000) + b'{"a":' * 2000
    yield "safetensors of no tensors", struct.pack("<Q", 2) + b"{}"


SOURCES = (
    truncated,
    changed_in_zip,
    changed_in_legacy,
    changed_in_safetensors,
    changed_headers,
    mixed,
    noise,
    odd_zips,
    misfit_files,
    damaged_modules,
    pickles,
    others,
)
STRICT: dict[str, bytes] = {name: data for source in SOURCES for name, data in source()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(data: bytes, *, module: bool) -> Outcome:
    """Convert a file of these bytes; the folder must hold nothing more afterwards if that failed."""
    Path("net.bin").write_bytes(data)
    arch = [] if module else ["--arch", ARCH]
    outcome = command("convert", "net.bin", *arch, "--n", 2, "-o", "out.pt", "--report", "r.md")
    assert not CANARY.exists(), "the file was run"
    if outcome.code:
        assert [path.name for path in Path().iterdir()] == ["net.bin"]
    return outcome


def assert_one_message(outcome: Outcome) -> None:
    assert outcome.code == 1
    assert outcome.out == ""
    err = outcome.err.replace(FAKE.encode("unicode_escape").decode(), "a name")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert "a fault of phnnify" not in err
    assert len(lines) == 1 or (lines[1] == "" and lines[2].startswith("hint: ") and len(lines) == 3)
    assert 20 < len(lines[0]) < 2100
    assert all(line.isprintable() for line in lines)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", STRICT)
def test_a_bad_file_ends_with_one_message_and_nothing_else(case: str) -> None:
    assert_one_message(converted(STRICT[case], module=case.startswith("module")))


def test_there_are_enough_bad_files() -> None:
    assert len(set(STRICT.values())) >= 200
    assert not set(STRICT.values()) & {valid(form) for form in (*FORMATS, "module")}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("form", [*FORMATS, "module"])
def test_the_same_files_undamaged_convert(form: str) -> None:
    assert converted(valid(form), module=form == "module").code == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("place", PLACES)
def test_the_hostile_pickles_would_do_harm(place: str) -> None:
    torch.load(io.BytesIO(zipped(PLACES[place](MKDIR))), weights_only=False)
    assert CANARY.exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("verb", ["inspect", "export"])
@pytest.mark.parametrize("case", ["zip, os.system alone", "legacy, mkdir for a weight", "zip, compressed"])
def test_the_other_commands_are_no_less_careful(verb: str, case: str) -> None:
    Path("net.bin").write_bytes(STRICT[case])
    wanted = ["--onnx", "x.onnx", "--input", "1x16"] if verb == "export" else ["--plan", "p.toml"]
    assert_one_message(command(verb, "net.bin", "--arch", ARCH, *wanted))
    assert [path.name for path in Path().iterdir()] == ["net.bin"]


def silent() -> Cases:
    """Changes anywhere; among them of numbers that have no checksum."""
    data = valid("safetensors")
    for position in spread(20, len(data), start=header_end(data)):
        yield f"safetensors number at {position}", flipped(data, position, 0x80)
    for form in ("legacy", "zip"):
        for position in spread(60, len(valid(form))):
            yield f"{form} byte at {position}", flipped(valid(form), position, 0x20)


SILENT = dict(silent())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", SILENT)
def test_a_change_that_no_reader_could_notice_converts_or_ends_with_one_message(case: str) -> None:
    outcome = converted(SILENT[case], module=False)
    if outcome.code:
        assert_one_message(outcome)


# Any bytes at all


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "net.bin"


def only_our_errors(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        read_content(path)
    except PhnnifyError as error:
        assert str(error)  # noqa: PT017 - both outcomes are fine


HEADS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", struct.pack("<Q", 30) + b"{"]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(head=st.sampled_from(HEADS), body=st.binary(max_size=400))
def test_any_bytes_raise_only_our_errors(scratch: Path, head: bytes, body: bytes) -> None:
    only_our_errors(scratch, head + body)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8), st.integers(0, 8)), max_size=6
)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(form=st.sampled_from(["zip", "legacy", "safetensors", "module"]), edits=EDITS)
def test_any_change_of_a_valid_file_raises_only_our_errors(
    scratch: Path, form: str, edits: list[tuple[float, bytes, int]]
) -> None:
    data = valid(form)
    for place, new, removed in edits:
        position = int(place * len(data))
        data = data[:position] + new + data[position + removed :]
    only_our_errors(scratch, data)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(form=st.sampled_from(["zip", "module"]), edits=EDITS)
def test_any_change_of_a_pickle_with_right_checksums_raises_only_our_errors(
    scratch: Path, form: str, edits: list[tuple[float, bytes, int]]
) -> None:
    def change(name: str, data: bytes) -> bytes:
        for place, new, removed in edits if name.endswith("data.pkl") else []:
            position = int(place * len(data))
            data = data[:position] + new + data[position + removed :]
        return data

    only_our_errors(scratch, rezipped(change, form))
