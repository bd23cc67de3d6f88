"""Algebras by name and from files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomlkit

from phnnify.algebras import Algebra, named_algebra
from phnnify.constants import read_algebra
from phnnify.errors import FileError, UsageError

DUAL = [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]]  # e² = 0


def test_a_name_is_its_algebra() -> None:
    assert read_algebra("quaternion") == named_algebra("quaternion")
    assert read_algebra("cyclic", 3) == named_algebra("cyclic", 3)
    assert read_algebra("cyclic").n == 4
    mine = Algebra.of("mine", DUAL)
    assert read_algebra(mine) is mine


@pytest.mark.parametrize("form", ["json", "json object", "toml", "npy"])
def test_every_form_of_file_gives_the_same_algebra(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"dual.{form.split()[0]}"
    if form == "npy":
        np.save(path, np.array(DUAL, np.float32))
    elif form == "toml":
        path.write_text(tomlkit.dumps({"constants": DUAL}))
    else:
        path.write_text(json.dumps(DUAL if form == "json" else {"constants": DUAL}))
    assert read_algebra(str(path)) == Algebra.of("dual", DUAL)


@pytest.mark.parametrize(("name", "n"), [("quaternion", 2), ("octonion", 4), ("real", 2)])
def test_a_name_with_another_dimension_is_wrong_usage(name: str, n: int) -> None:
    with pytest.raises(UsageError, match=f"{name} algebra has dimension") as caught:
        read_algebra(name, n)
    assert caught.value.hint == "leave n out"


def test_what_is_neither_name_nor_file_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'quaternions' is no algebra") as caught:
        read_algebra("quaternions")
    assert caught.value.hint
    assert "quaternion" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "cannot read .*gone.json"),
        ("a.json", b"[1, 2", "holds no algebra"),
        ("a.json", b"{}", "holds no algebra: .*needs numbers of shape"),
        ("a.json", b"[[[1, 0]]]", r"holds no algebra: .*got \(1, 1, 2\)"),
        ("a.json", b"[" * 100_000, "holds no algebra"),
        ("a.toml", b"constants = ", "holds no algebra"),
        ("a.npy", b"nothing", "holds no algebra"),
        ("a.npy", b"", "cannot read|holds no algebra"),
        ("complex.json", json.dumps(DUAL).encode(), "cannot be called 'complex'"),
        ("a.json", b"\xff\xfe", "not a text file"),
    ],
)
def test_a_file_without_an_algebra_is_refused(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_algebra(str(tmp_path / name))


def test_objects_in_a_numpy_file_stay_closed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([None, {}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="holds no algebra"):
        read_algebra(str(tmp_path / "a.npy"))
