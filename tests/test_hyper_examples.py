"""The examples and tables about hypernetworks run, in a short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def rows_of(*command: object) -> list[list[str]]:
    """The cells of the tables that a script prints, without headings."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    marks = {i for i, row in enumerate(rows) if set(row[0]) == {"-"}}
    return [row for i, row in enumerate(rows) if not marks & {i, i + 1}]


@pytest.mark.slow
def test_a_bayesian_network_stays_nearer_to_its_prior_where_that_counts_more() -> None:
    rows = rows_of(EXAMPLES / "hypernet" / "bayes.py", 300)
    divergences = [float(row[1].replace(",", "")) for row in rows]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[0] > 1.1 * divergences[-1]


@pytest.mark.slow
def test_a_network_conditioned_on_scale_reads_images_of_all_sizes_and_converts() -> None:
    rows = rows_of(EXAMPLES / "hypernet" / "scale.py", 120)
    assert [row[0] for row in rows] == ["8", "12", "16", "24"]
    assert all(float(row[2].rstrip("%")) > 30 for row in rows)


@pytest.mark.slow
def test_film_reads_turned_digits_that_the_original_does_not() -> None:
    rows = rows_of(EXAMPLES / "hypernet" / "film.py", 100)
    at = {row[0]: [float(cell.rstrip("%")) for cell in row[1:]] for row in rows}
    assert at["60°"][1] > at["60°"][0] + 5


@pytest.mark.slow
def test_the_table_of_formulations_can_be_made_with_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHNNIFY_RESULTS", str(tmp_path))  # nothing is finished there
    figure = tmp_path / "mip.svg"
    script = EXAMPLES / "benchmarks" / "mip_table.py"
    rows = rows_of(script, "noise", "--quick", "--figure", figure)
    assert [(row[1], row[2]) for row in rows[:4]] == [
        (optimizer, formulation) for optimizer in ("SGD", "Adam") for formulation in ("default", "mip")
    ]
    proportions = {(row[1], row[2]): [float(cell) for cell in row[3:]] for row in rows[4:]}
    assert proportions["default", "weights"][0] < 0.1
    assert min(proportions["mip", "weights"]) > 0.95
    assert figure.read_text().startswith("<?xml")


def test_the_table_beside_hyperlight_says_where_that_is_missing() -> None:
    script = EXAMPLES / "benchmarks" / "hyperlight_table.py"
    blocked = f"import sys; sys.modules['hyperlight'] = None; sys.path.insert(0, {str(script.parent)!r})"
    code = f"{blocked}; import hyperlight_table; hyperlight_table.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "hyperlight is not installed: nothing to compare with (pip install hyperlight)\n"


@pytest.mark.slow
def test_hyperlight_computes_the_same_where_it_is_there() -> None:
    pytest.importorskip("hyperlight")
    rows = rows_of(EXAMPLES / "benchmarks" / "hyperlight_table.py", "--quick")
    assert all(max(float(row[1]), float(row[2])) < 1e-5 for row in rows[:2])
    assert rows[2][1:] == [
        "ValueError: Unexpected inputs: []",
        "UsageError: wrong conditioning inputs: g unknown",
    ]
