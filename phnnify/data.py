"""What a user has → batches: arrays, folders of images, or a loader of their own.

| reference | holds |
| --- | --- |
| `.npz`, `.safetensors`, `.pt` | `x` (samples, ...) and perhaps `y` (samples,); uint8 is scaled to [0, 1] |
| a folder or `.zip` of `class/name.jpg` (or png) | images; the class is the folder's place in the alphabet |
| `file.py:callable` | called without arguments, gives an iterable of batches |

A loader gives tensors, tuples (inputs, targets), or dicts of keyword arguments, perhaps with `labels`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import torch
from torch import Tensor

from phnnify.archive import read_content
from phnnify.batches import Batch, as_batch
from phnnify.errors import FileError, UsageError
from phnnify.measure import first_line
from phnnify.references import load_callable

IMAGES = (".jpg", ".jpeg", ".png")
BATCH = 128
_REMEMBERED = 1 << 30  # bytes of decoded images that are kept: what is learned on is read many times


@dataclass(frozen=True)
class DataOptions:
    """How images and arrays become inputs.

    Attributes:
        size: Height and width to which images are scaled; None keeps theirs.
        mean, std: Per channel, of values in [0, 1]; x becomes (x − mean)/std.

    Raises:
        UsageError: mean and std have different lengths, a std is not above 0, or the size is not.
    """

    size: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(f"--mean has {len(self.mean)} numbers and --std has {len(self.std)}")
        if any(value <= 0 for value in self.std):
            raise UsageError("--std must be above 0")
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size is {self.size}; it must be at least 1")

    def normalized(self, x: Tensor, where: str) -> Tensor:
        """uint8 scaled to [0, 1], then (x − mean)/std along axis 1; other integers are left alone."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if not self.mean:
            return x
        if not x.is_floating_point() or x.dim() < 2 or x.shape[1] != len(self.mean):
            raise FileError(f"{where}: --mean has {len(self.mean)} numbers; x has shape {tuple(x.shape)}")
        shape = (1, -1, *[1] * (x.dim() - 2))
        return (x - torch.tensor(self.mean).view(shape)) / torch.tensor(self.std).view(shape)


class Data(Protocol):
    """Batches that can be gone through again and again."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches, in the same order each time."""


class _Samples(Protocol):
    """A source of which any samples can be read."""

    def __len__(self) -> int: ...
    def read(self, rows: Sequence[int]) -> Batch: ...


def read_data(
    reference: str, options: DataOptions | None = None, *, samples: int | None = None, seed: int = 0
) -> Data:
    """Open data.

    Args:
        reference: A file, a folder, or a loader (the module's text).
        options: How images and arrays become inputs.
        samples: How many to use, drawn with the seed; None takes all, in their order. Of a loader's batches
            the first so many.
        seed: For the draw.

    Raises:
        UsageError: the reference has no known form.
        FileError: there is nothing there, or it is damaged, empty or of the wrong kind.
    """
    options = options or DataOptions()
    path = Path(reference)
    if not path.exists() and ":" in reference:
        return _Loader(load_callable(reference, "--data"), reference, samples)
    source = _open(path, options)
    if not len(source):
        raise FileError(f"{path} holds no samples")
    return _Drawn(source, _draw(len(source), samples, seed))


def _draw(count: int, samples: int | None, seed: int) -> list[int]:
    if samples is None:
        return list(range(count))
    drawn: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    return sorted(drawn)


def _open(path: Path, options: DataOptions) -> _Samples:
    readers: dict[str, Callable[[Path, DataOptions], _Samples]] = {
        ".npz": _open_npz, ".safetensors": _open_safetensors, ".pt": _open_torch, ".zip": _Images.from_zip,
    }  # fmt: skip
    if path.is_dir():
        return _Images.from_folder(path, options)
    if not path.exists():
        raise FileError(f"there is no file {path}")
    if path.suffix not in readers:
        raise UsageError(
            f"cannot tell what data {path} holds",
            hint="give .npz, .safetensors or .pt with x, a folder or .zip of images, or file.py:callable",
        )
    try:
        return readers[path.suffix](path, options)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        raise FileError(f"{path} cannot be read as data: {first_line(error)}") from None


@dataclass(frozen=True)
class _Drawn:
    """Batches of chosen samples, read when they are needed."""

    source: _Samples
    rows: list[int]

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.rows), BATCH):
            yield self.source.read(self.rows[start : start + BATCH])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int]) -> Batch:
        """The samples of these places among the chosen ones."""
        return self.source.read([self.rows[row] for row in rows])


@dataclass(frozen=True)
class _Arrays:
    """x and perhaps y; `take` reads rows of one of them."""

    path: Path
    options: DataOptions
    shapes: dict[str, tuple[int, ...]]
    take: Callable[[str, Sequence[int]], Tensor]

    def __post_init__(self) -> None:
        if "x" not in self.shapes:
            raise FileError(f"{self.path} has no x; it has {', '.join(self.shapes) or 'nothing'}")
        if not self.shapes["x"]:
            raise FileError(f"{self.path}: x is a single number, not samples")
        if "y" in self.shapes and self.shapes["y"][:1] != self.shapes["x"][:1]:
            raise FileError(
                f"{self.path}: x has {self.shapes['x'][0]} samples and y has shape {self.shapes['y']}"
            )

    def __len__(self) -> int:
        return self.shapes["x"][0]

    def read(self, rows: Sequence[int]) -> Batch:
        x = self.options.normalized(self.take("x", rows), str(self.path))
        y = self.take("y", rows) if "y" in self.shapes else None
        return Batch((x,), targets=y if y is None or y.is_floating_point() else y.long())


def _in_memory(path: Path, options: DataOptions, arrays: dict[str, Tensor]) -> _Arrays:
    def take(name: str, rows: Sequence[int]) -> Tensor:
        return arrays[name][torch.as_tensor(rows)]

    return _Arrays(path, options, {name: tuple(a.shape) for name, a in arrays.items()}, take)


def _open_npz(path: Path, options: DataOptions) -> _Arrays:
    with path.open("rb") as opened:
        file = np.load(opened, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FileError(f"{path} is a single array, not an archive of x and y")
        arrays = {name: torch.from_numpy(file[name]) for name in ("x", "y") if name in file}
    return _in_memory(path, options, arrays)


def _open_torch(path: Path, options: DataOptions) -> _Arrays:
    tensors = read_content(path).tensors
    return _in_memory(
        path, options, {n: tensors[n] for n in ("x", "y") if isinstance(tensors.get(n), Tensor)}
    )


def _open_safetensors(path: Path, options: DataOptions) -> _Arrays:
    file: Any = safetensors.safe_open(path, framework="pt")
    names = [name for name in ("x", "y") if name in file.keys()]  # noqa: SIM118 (it is no mapping)
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def take(name: str, rows: Sequence[int]) -> Tensor:
        part = file.get_slice(name)
        return torch.stack([part[row] for row in rows])

    return _Arrays(path, options, shapes, take)


@dataclass(frozen=True)
class _Images:
    """Images by class, decoded when they are needed."""

    path: Path
    options: DataOptions
    names: list[str]
    labels: list[int]
    load: Callable[[str], bytes]
    decoded: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, path: Path, options: DataOptions) -> _Images:
        """Images of a folder with one folder for each class."""
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in IMAGES]
        return cls._labelled(path, options, names, lambda name: (path / name).read_bytes())

    @classmethod
    def from_zip(cls, path: Path, options: DataOptions) -> _Images:
        """The same in a zip archive."""
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(IMAGES) and "__MACOSX" not in n]
        opened = zipfile.ZipFile(path)
        return cls._labelled(path, options, names, opened.read)

    @classmethod
    def _labelled(
        cls, path: Path, options: DataOptions, names: list[str], load: Callable[[str], bytes]
    ) -> _Images:
        names = sorted(names)
        folders = [name.split("/")[-2] if "/" in name else "" for name in names]
        if not names:
            raise FileError(f"{path} holds no images ({', '.join(IMAGES)})")
        if "" in folders:
            lone = names[folders.index("")]
            raise FileError(
                f"{path}: {lone} is in no class", hint="put images into one folder for each class"
            )
        classes = {name: i for i, name in enumerate(sorted(set(folders)))}
        return cls(path, options, names, [classes[folder] for folder in folders], load)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, rows: Sequence[int]) -> Batch:
        images = [self._image(self.names[row]) for row in rows]
        if len({image.shape for image in images}) > 1:
            raise FileError(f"{self.path} holds images of different sizes", hint="give --size")
        x = self.options.normalized(torch.stack(images), str(self.path))
        return Batch((x,), targets=torch.tensor([self.labels[row] for row in rows]))

    def _image(self, name: str) -> Tensor:
        """As `_decode`; remembered while there is room."""
        if name in self.decoded:
            return self.decoded[name]
        image = self._decode(name)
        if (1 + len(self.decoded)) * image.numel() <= _REMEMBERED:
            self.decoded[name] = image
        return image

    def _decode(self, name: str) -> Tensor:
        """One image as uint8 (3, height, width)."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self.load(name))) as file:
                image = file.convert("RGB")
                if self.options.size:
                    image = image.resize((self.options.size, self.options.size), Image.Resampling.BICUBIC)
                return torch.from_numpy(np.array(image)).permute(2, 0, 1)
        except Exception as error:  # Pillow's decoders raise many things
            raise FileError(f"{self.path}: {name} cannot be read as an image: {first_line(error)}") from None


@dataclass(frozen=True)
class _Loader:
    """Batches that the user's own function gives."""

    build: Callable[[], Any]
    reference: str
    samples: int | None

    def __iter__(self) -> Iterator[Batch]:
        left = self.samples
        for item in self._items():
            batch = as_batch(item, self.reference)
            if left is not None:
                batch = batch.head(left)
                left -= batch.size
            if batch.size:
                yield batch
            if left == 0:
                return

    def _items(self) -> Iterator[Any]:
        try:
            loaded: Iterable[Any] = self.build()
            yield from loaded
        except Exception as error:  # whatever the user's own code may raise
            raise FileError(f"--data {self.reference} failed: {first_line(error)}") from None
