"""Reports as files."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from phnnify.errors import FileError, UsageError
from phnnify.pages import html_page, html_table, markdown_page, markdown_table, write_report


class Fixed:
    """A report that says its form."""

    def to_json(self) -> str:
        return '"json"'

    def to_markdown(self) -> str:
        return "markdown"

    def to_html(self) -> str:
        return "html"


@pytest.mark.parametrize(("ending", "text"), [(".json", '"json"'), (".md", "markdown"), (".html", "html")])
def test_a_report_is_written_in_the_form_of_its_ending(ending: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"report{ending}"
    write_report(Fixed(), path)
    assert path.read_text(encoding="utf-8") == text


def test_other_endings_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot tell what to write"):
        write_report(Fixed(), tmp_path / "report.pdf")
    with pytest.raises(FileError, match="there is no folder"):
        write_report(Fixed(), tmp_path / "none" / "report.json")


def test_a_bar_in_a_cell_does_not_end_it_in_markdown() -> None:
    assert markdown_table(("a", "b"), [("x|y", "z")]) == "| a | b |\n| --- | --- |\n| x\\|y | z |"


def test_the_parts_of_a_page_in_markdown_are_apart() -> None:
    assert markdown_page("a", ["b", "## c"]) == "# a\n\nb\n\n## c\n"


class Words(HTMLParser):
    """The words of a page, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_titles_paragraphs_and_cells_are_text_in_html_whatever_they_hold() -> None:
    page = Words(html_page("<a&b>", ["<u>"], [html_table(("<i>",), [("<script>",)])]))
    assert not {"script", "i", "a", "u"} & {*page.tags}
    assert {"<a&b>", "<u>", "<i>", "<script>"} <= {*page.words}
