"""Reports as files: tables in Markdown and HTML, one page that needs nothing else, and the path's ending."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from phnnify.errors import UsageError
from phnnify.files import write_text

ENDINGS = (".json", ".md", ".html")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }}
td:nth-child(n+2) {{ font-variant-numeric: tabular-nums; }}
</style></head>
<body>{body}</body></html>
"""


class Described(Protocol):
    """A report that can be written in all forms."""

    def to_json(self) -> str:
        """As JSON."""

    def to_markdown(self) -> str:
        """As Markdown."""

    def to_html(self) -> str:
        """As one HTML page that needs nothing else."""


def write_report(report: Described, path: Path) -> None:
    """Write a report in the form that the path's ending names, all or nothing.

    Raises:
        UsageError: an ending other than .json, .md and .html.
        FileError: the path cannot be written.
    """
    check_ending(path)
    forms = {".json": report.to_json, ".md": report.to_markdown, ".html": report.to_html}
    write_text(path, forms[path.suffix]())


def check_ending(path: Path) -> None:
    """Refuse a report's path before any work is done.

    Raises:
        UsageError: an ending other than .json, .md and .html.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"cannot tell what to write to {path}", hint=f"endings: {', '.join(ENDINGS)}")


def markdown_page(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are Markdown already."""
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def html_page(title: str, paragraphs: Iterable[str], parts: Iterable[str]) -> str:
    """A page whose title and first paragraphs are escaped, and whose other parts are HTML already."""
    title = html.escape(title)
    words = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    return _PAGE.format(title=title, body=f"<h1>{title}</h1>{words}{''.join(parts)}")


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars in cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in HTML; cells are escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(headings, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
