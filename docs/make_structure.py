"""Write docs/structure.md: what each file of the package alone does, in the words of its own first line.

    python docs/make_structure.py [--check]

With --check nothing is written; the exit code is 1 where the page is not what it would be.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "phnnify"
PAGE = Path(__file__).parent / "structure.md"
HEAD = """# Where things are

Data flows one way, and a file imports only from those before it in the order that
`tests/test_architecture.py` checks. This page is written by `python docs/make_structure.py` from the first
line of each file.

    read → open → trace → plan → (choose) → fit → rewrite → fit in sequence → (distil) → save, export, report

"""
GROUPS = {
    "The mathematics": "algebra factorization algebras alternate products cost",
    "The layers, and modules whose weights others hide": "layers opened bare_uses",
    "Reading files and names": "foreign archive weights programs folders hub hollow rebuild zoos offline "
    "references sources",
    "From a network to a plan": "inputs measure axes uses trace rules constants asked plan plan_file "
    "plan_shown",
    "Data": "batches data_options arrays images loaders data caller_data feed eval_data",
    "Fitting": "fit given fresh lockstep calibrate tables sequence rewrite conversion",
    "Choosing forms and sizes": "search survey losses evaluate sensitivity curves budget choose smallest",
    "Folders larger than memory": "pieces shards streaming",
    "Distillation": "distilling",
    "Writing files": "files store repeatable capture forms graphs export runtime quantizing",
    "Saying what was done": "report layer_report notes change strict pages chart learned heat",
    "Comparing two networks": "comparing",
    "Hypernetworks": "hyper",
    "Verbs and commands": "pipeline render cli errors watching quiet",
}


def first_line(path: Path) -> str:
    """Of the module's docstring, joined to one sentence."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def files_of(name: str) -> list[Path]:
    """A module, or a folder's files with its own line first."""
    folder = PACKAGE / name
    return (
        [folder / "__init__.py", *sorted(folder.glob("[!_]*.py"))]
        if folder.is_dir()
        else [PACKAGE / f"{name}.py"]
    )


def page() -> str:
    """The whole page.

    Raises:
        SystemExit: a file is in no group.
    """
    shown = {path for names in GROUPS.values() for name in names.split() for path in files_of(name)}
    rest = {path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name[0] != "_"} - shown
    if rest:
        raise SystemExit(f"docs/make_structure.py: in no group: {sorted(path.name for path in rest)}")
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n\n| file | what it alone does |\n|---|---|\n")
        for path in (path for name in names.split() for path in files_of(name)):
            inner = path.relative_to(PACKAGE).as_posix().replace("/__init__.py", "/")
            parts.append(f"| `{inner}` | {first_line(path)} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def main() -> None:
    """Write the page, or check it."""
    wanted = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        raise SystemExit("docs/structure.md is not what the files say: run python docs/make_structure.py")


if __name__ == "__main__":
    main()
