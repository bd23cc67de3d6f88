"""Heat maps of algebras, as SVG or PNG. Alone imports matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from phnnify.errors import UsageError
from phnnify.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS = (".svg", ".png")
_SIDE, _ROOM = 0.9, 0.4  # inches of a matrix, and of the words above a row
_NUMBERS = 6  # sides of matrices up to which each number is written


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be drawn, before any work is done.

    Raises:
        UsageError: an ending other than .svg and .png, or matplotlib is missing.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"cannot tell what to draw to {path}", hint=f"endings: {', '.join(ENDINGS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UsageError("--plot needs matplotlib", hint="pip install 'phnnify[plots]'") from None


def draw_matrices(rows: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Draw each row's matrices side by side, red above 0 and blue below, to the row's own scale.

    Args:
        rows: A title, and matrices (terms, n_out, n_in).
        path: .svg or .png. The same rows give the same bytes.

    Raises:
        UsageError: as `check_plot`.
        FileError: the path cannot be written.
    """
    check_plot(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = max(len(A) for _, A in rows)
    height = len(rows) * (_SIDE + _ROOM) + 0.1
    figure = Figure(figsize=(columns * (_SIDE + 0.15) + 0.3, height), dpi=150)
    for i, (title, A) in enumerate(rows):
        top = 1 - (i * (_SIDE + _ROOM) + 0.3) / height
        figure.text(0.15 / figure.get_figwidth(), top, title, fontsize=9, va="bottom")
        for r, matrix in enumerate(A.detach().double()):
            width = _SIDE / figure.get_figwidth()
            left = (0.15 + r * (_SIDE + 0.15)) / figure.get_figwidth()
            axes = figure.add_axes((left, top - (_SIDE + 0.06) / height, width, _SIDE / height))
            _draw(axes, matrix, float(A.detach().abs().max()) or 1.0)
    how = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "phnnify", "svg.fonttype": "none"}), replacing(path) as temporary:
        figure.savefig(temporary, metadata=how)


def _draw(axes: Axes, matrix: Tensor, scale: float) -> None:
    axes.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-scale, vmax=scale)
    axes.set_xticks([])
    axes.set_yticks([])
    if max(matrix.shape) > _NUMBERS:
        return
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            light = abs(value) > 0.6 * scale
            axes.text(j, i, f"{value:.1f}".replace("-0.0", "0.0"), ha="center", va="center", fontsize=5.5,
                      color="white" if light else "black")  # fmt: skip
