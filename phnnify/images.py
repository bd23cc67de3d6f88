"""Samples in images: a folder or .zip with one folder of .jpg or .png files for each class."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phnnify.batches import Batch
from phnnify.data_options import DataOptions
from phnnify.errors import FileError
from phnnify.measure import first_line

_ENDINGS = (".jpg", ".jpeg", ".png")
_REMEMBERED = 1 << 30  # bytes of decoded images that are kept: what is learned on is read many times


@dataclass(frozen=True)
class Images:
    """Images by class, decoded when they are needed."""

    path: Path
    options: DataOptions
    names: list[str]
    labels: list[int]
    load: Callable[[str], bytes]
    decoded: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, path: Path, options: DataOptions) -> Images:
        """Images of a folder with one folder for each class."""
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in _ENDINGS]
        return cls._labelled(path, options, names, lambda name: (path / name).read_bytes())

    @classmethod
    def from_zip(cls, path: Path, options: DataOptions) -> Images:
        """The same in a zip archive."""
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(_ENDINGS) and "__MACOSX" not in n]
        opened = zipfile.ZipFile(path)
        return cls._labelled(path, options, names, opened.read)

    @classmethod
    def _labelled(
        cls, path: Path, options: DataOptions, names: list[str], load: Callable[[str], bytes]
    ) -> Images:
        names = sorted(names)
        folders = [name.split("/")[-2] if "/" in name else "" for name in names]
        if not names:
            raise FileError(f"{path} holds no images ({', '.join(_ENDINGS)})")
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
        """The samples of these places, as one batch."""
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
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.load(name))) as file:
                image = file.convert("RGB")
                if self.options.size:
                    image = image.resize((self.options.size, self.options.size), Image.Resampling.BICUBIC)
                return torch.from_numpy(np.array(image)).permute(2, 0, 1)
        except UnidentifiedImageError:
            raise FileError(f"{self.path}: {name} cannot be read as an image: it is none") from None
        except Exception as error:  # Pillow's decoders raise many things
            raise FileError(f"{self.path}: {name} cannot be read as an image: {first_line(error)}") from None
