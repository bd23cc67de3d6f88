"""Heat maps as files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnnify.algebras import named_algebra
from phnnify.errors import FileError, UsageError
from phnnify.heat import draw_matrices

ROWS = [("one & all", named_algebra("quaternion").A()), ("wide", torch.arange(24.0).view(2, 4, 3) - 12)]


def test_an_svg_has_every_title_and_number(tmp_path: Path) -> None:
    draw_matrices(ROWS, tmp_path / "a.svg")
    words = re.findall(r">([^<>]+)</text>", (tmp_path / "a.svg").read_text())
    assert {"one &amp; all", "wide"} <= set(words)
    numbers = [word for word in words if re.fullmatch(r"-?\d+\.\d", word.replace("\N{MINUS SIGN}", "-"))]
    assert len(numbers) == 4 * 16 + 24
    assert (numbers.count("1.0"), numbers.count("-1.0"), numbers.count("-12.0")) == (11, 7, 1)


def test_a_png_is_red_where_numbers_are_above_zero_and_blue_below(tmp_path: Path) -> None:
    A = torch.zeros(1, 8, 8)
    A[0, :, :4], A[0, :, 4:] = 1.0, -1.0
    draw_matrices([("", A)], tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), dtype=int)
    red = (picture[..., 0] > picture[..., 2] + 60).nonzero()[1]
    blue = (picture[..., 2] > picture[..., 0] + 60).nonzero()[1]
    assert len(red) > 1000
    assert len(blue) > 1000
    assert red.max() <= blue.min()


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_same_rows_give_the_same_bytes(ending: str, tmp_path: Path) -> None:
    for name in "ab":
        draw_matrices(ROWS, tmp_path / f"{name}.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot tell what to draw to"):
        draw_matrices(ROWS, tmp_path / "a.jpeg")
    with pytest.raises(FileError, match="there is no folder"):
        draw_matrices(ROWS, tmp_path / "gone" / "a.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="--plot needs matplotlib") as caught:
        draw_matrices(ROWS, tmp_path / "a.svg")
    assert caught.value.hint == "pip install 'phnnify[plots]'"
    assert list(tmp_path.iterdir()) == []
