"""What a user has → batches."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from phnnify import data as data_module
from phnnify.data import DataOptions, read_data
from phnnify.errors import FileError, UsageError

X = torch.arange(300 * 2, dtype=torch.float32).reshape(300, 2)
Y = torch.arange(300) % 7


def write_npz(path: Path, **arrays: Any) -> None:
    named: Any = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, **named)


def write_safetensors(path: Path, **arrays: Any) -> None:
    safetensors.torch.save_file({name: torch.as_tensor(array) for name, array in arrays.items()}, path)


def write_torch(path: Path, **arrays: Any) -> None:
    torch.save({name: torch.as_tensor(array) for name, array in arrays.items()}, path)


WRITERS = {".npz": write_npz, ".safetensors": write_safetensors, ".pt": write_torch}
every_form = pytest.mark.parametrize("ending", WRITERS)


def joined(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found = list(batches)
    return torch.cat([b.args[0] for b in found]), torch.cat([b.targets for b in found])


@every_form
def test_arrays_come_back_in_their_order_in_batches(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"d{ending}", x=X, y=Y)
    data = read_data(str(tmp_path / f"d{ending}"))
    for _ in range(2):  # again and again
        x, y = joined(data)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
    assert [batch.size for batch in data] == [128, 128, 44]


@every_form
def test_samples_are_drawn_with_the_seed_and_keep_their_labels(ending: str, tmp_path: Path) -> None:
    WRITERS[ending](tmp_path / f"d{ending}", x=X, y=Y)
    first, again, other = (
        joined(read_data(str(tmp_path / f"d{ending}"), samples=50, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    rows = (first[0][:, 0] / 2).long()
    assert len(set(rows.tolist())) == 50
    assert torch.equal(first[1], Y[rows])


def test_bytes_are_scaled_and_normalized_and_other_integers_are_not(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    write_npz(tmp_path / "d.npz", x=images)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    (batch,) = read_data(str(tmp_path / "d.npz"), DataOptions(mean=mean, std=std))
    wanted = (images.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(batch.args[0].numpy(), wanted, atol=1e-6)
    assert batch.targets is None
    write_npz(tmp_path / "t.npz", x=Y)
    (tokens,) = (b for i, b in enumerate(read_data(str(tmp_path / "t.npz"))) if i == 0)
    assert tokens.args[0].dtype == torch.int64


def save_image(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


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
    with pytest.raises(FileError, match=r"dog/1\.png cannot be read as an image"):
        list(read_data(str(pictures)))


LOADER = """
import torch
def tensors():
    return (torch.full((3, 2), float(i)) for i in range(4))
def pairs():
    return [(torch.zeros(3, 2), torch.ones(3).long())]
def named():
    return [{"a": torch.zeros(3, 2), "b": torch.ones(3), "labels": torch.ones(3)}]
def broken():
    yield torch.zeros(3, 2)
    raise RuntimeError("no more")
def odd():
    return [{"a": "text"}]
def nothing():
    return []
"""


@pytest.fixture
def loader(tmp_path: Path) -> str:
    (tmp_path / "my_loader.py").write_text(LOADER)
    return str(tmp_path / "my_loader.py")


def test_a_loader_gives_tensors_pairs_or_keyword_arguments(loader: str) -> None:
    assert [b.args[0][0, 0].item() for b in read_data(f"{loader}:tensors")] == [0, 1, 2, 3]
    (pair,) = read_data(f"{loader}:pairs")
    assert pair.targets is not None
    assert pair.targets.tolist() == [1, 1, 1]
    (named,) = read_data(f"{loader}:named")
    assert set(named.kwargs) == {"a", "b"}
    assert named.targets is not None


def test_a_loader_is_read_no_further_than_needed(loader: str) -> None:
    assert [b.size for b in read_data(f"{loader}:tensors", samples=7)] == [3, 3, 1]
    assert [b.size for b in read_data(f"{loader}:broken", samples=3)] == [3]


@pytest.mark.parametrize(
    ("name", "words"), [("broken", "failed: RuntimeError: no more"), ("odd", "gave a dict")]
)
def test_a_loader_that_fails_says_why(loader: str, name: str, words: str) -> None:
    with pytest.raises(FileError, match=words):
        list(read_data(f"{loader}:{name}"))


def test_bad_files_are_refused_with_what_was_found(tmp_path: Path) -> None:
    write_npz(tmp_path / "no_x.npz", images=X)
    write_npz(tmp_path / "short.npz", x=X, y=Y[:5])
    write_npz(tmp_path / "empty.npz", x=X[:0])
    write_npz(tmp_path / "scalar.npz", x=3.0)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{")
    (tmp_path / "text.csv").write_text("1,2")
    np.save(tmp_path / "array.npy", X.numpy())
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    save_image(tmp_path / "flat" / "1.png", (0, 0, 0))
    for name, words in {
        "no_x.npz": "has no x",
        "short.npz": "x has 300 samples and y has shape",
        "empty.npz": "holds no samples",
        "scalar.npz": "single number",
        "broken.npz": "cannot be read as data",
        "broken.safetensors": "cannot be read as data",
        "array.npz": "a single array",
        "none.npz": "there is no file",
        "folder": "holds no images",
        "flat": "is in no class",
    }.items():
        with pytest.raises(FileError, match=words):
            read_data(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot tell what data"):
        read_data(str(tmp_path / "text.csv"))


def test_pickles_in_data_files_do_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileError, match="cannot be read as data"):
        read_data(str(tmp_path / "objects.npz"))


@pytest.mark.parametrize(
    "options",
    [{"mean": (0.5,)}, {"mean": (0.5,), "std": (0.0,)}, {"size": 0}, {"std": (1.0, 1.0), "mean": (1.0,)}],
)
def test_options_check_themselves(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        DataOptions(**options)


def test_a_mean_for_other_channels_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "d.npz", x=X)
    with pytest.raises(FileError, match="--mean has 3 numbers; x has shape"):
        list(read_data(str(tmp_path / "d.npz"), DataOptions(mean=(0.0,) * 3, std=(1.0,) * 3)))


def test_images_are_decoded_once_while_there_is_room(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    decode = data_module._Images._decode

    def counted(images: Any, name: str) -> torch.Tensor:
        seen.append(name)
        return decode(images, name)

    monkeypatch.setattr(data_module._Images, "_decode", counted)
    opened = read_data(str(pictures))
    first, again = ([batch.args[0] for batch in opened] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(seen) == len(set(seen))
    monkeypatch.setattr(data_module, "_REMEMBERED", 0)
    for _ in range(2):
        list(read_data(str(pictures)))
    assert len(seen) == 3 * len(set(seen))
