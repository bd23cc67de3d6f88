"""Draw docs/convert.svg, the README's picture: the main job on the digits, and what it prints.

python docs/make_picture.py
"""

from __future__ import annotations

import io
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from phnnify.change import Change
from phnnify.export import export_onnx
from phnnify.pipeline import convert
from phnnify.render import show_report
from phnnify.sources import read_network
from phnnify.store import save

HERE = Path(__file__).parent
MODEL = HERE.parent / "examples" / "digits" / "model.pt"
COMMAND = "phnnify convert model.pt --n 4 --data calibration.npz --eval test.npz --onnx small.onnx"


def main() -> None:
    """Convert the digits network and draw the terminal."""
    console = Console(record=True, width=90, file=io.StringIO())
    console.print(Text(f"$ {COMMAND}", "bold"), "", sep="\n")
    model = read_network(MODEL).model
    data, test = (str(MODEL.with_name(name)) for name in ("calibration.npz", "test.npz"))
    result = convert(model, 4, data=data, eval_data=test)
    with tempfile.TemporaryDirectory() as folder:
        small, onnx = Path(folder, "small.pt"), Path(folder, "small.onnx")
        save(result.model, small)
        checked = replace(export_onnx(result.model, onnx, result.inputs), path=onnx.name)
        sizes = Change(MODEL.stat().st_size, small.stat().st_size)
    report = result.report.with_files(sizes, checked)
    show_report(report, console)
    # The fonts of the reader's machine, none from the network.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code", "ui-monospace, Menlo, Consolas")
    svg = console.export_svg(title="phnnify", code_format=form, unique_id="phnnify")
    (HERE / "convert.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
