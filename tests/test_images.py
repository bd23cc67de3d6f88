"""Samples in images."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from phnnify import data as data_module
from phnnify import images as images_module
from phnnify.data import read_data
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from tests.data_files import save_image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    save_image(folder / "dog" / "1.png", (255, 0, 0))
    save_image(folder / "cat" / "b.png", (0, 255, 0))
    save_image(folder / "cat" / "a.PNG", (0, 0, 255))
    (folder / "cat" / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_images_get_the_alphabetical_place_of_their_folder_as_class(pictures: Path, zipped: bool) -> None:
    if zipped:
        with zipfile.ZipFile(pictures.with_suffix(".zip"), "w") as archive:
            for path in sorted(pictures.rglob("*.*")):
                archive.write(path, f"train/{path.relative_to(pictures)}")
    (batch,) = read_data(str(pictures.with_suffix(".zip") if zipped else pictures))
    assert batch.args[0].shape == (3, 3, 4, 6)
    assert batch.args[0][:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert batch.targets is not None
    assert batch.targets.tolist() == [0, 0, 1]


def test_only_the_images_that_are_drawn_are_decoded(pictures: Path) -> None:
    (pictures / "dog" / "1.png").write_bytes(b"broken")
    drawn = next(s for s in range(20) if 2 not in data_module._draw(3, 2, s))
    (batch,) = read_data(str(pictures), samples=2, seed=drawn)
    assert batch.size == 2


def test_images_are_scaled_when_asked(pictures: Path) -> None:
    save_image(pictures / "dog" / "2.png", (1, 2, 3), (9, 9))
    with pytest.raises(FileError, match="different sizes") as caught:
        list(read_data(str(pictures)))
    assert "--size" in (caught.value.hint or "")
    (batch,) = read_data(str(pictures), DataOptions(size=5))
    assert batch.args[0].shape == (4, 3, 5, 5)


def test_an_image_that_cannot_be_read_is_named(pictures: Path) -> None:
    (pictures / "dog" / "1.png").write_bytes(b"broken")
    with pytest.raises(FileError, match=r"dog/1\.png cannot be read as an image: it is none$"):
        list(read_data(str(pictures)))


@pytest.mark.parametrize(("name", "words"), [("folder", "holds no images"), ("flat", "is in no class")])
def test_a_folder_without_images_in_classes_is_refused(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    save_image(tmp_path / "flat" / "1.png", (0, 0, 0))
    with pytest.raises(FileError, match=words):
        read_data(str(tmp_path / name))


def test_images_are_decoded_once_while_there_is_room(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    decode = images_module.Images._decode

    def counted(images: Any, name: str) -> torch.Tensor:
        seen.append(name)
        return decode(images, name)

    monkeypatch.setattr(images_module.Images, "_decode", counted)
    opened = read_data(str(pictures))
    first, again = ([batch.args[0] for batch in opened] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(seen) == len(set(seen))
    monkeypatch.setattr(images_module, "_REMEMBERED", 0)
    for _ in range(2):
        list(read_data(str(pictures)))
    assert len(seen) == 3 * len(set(seen))
