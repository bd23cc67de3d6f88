"""What a user has → batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from phnnify.data import read_data
from phnnify.errors import FileError, UsageError
from tests.data_files import WRITERS, X, Y, write_npz

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


def test_what_is_not_there_or_empty_or_of_no_known_form_is_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "empty.npz", x=X[:0])
    (tmp_path / "text.csv").write_text("1,2")
    for name, words in {"empty.npz": "holds no samples", "none.npz": "there is no file"}.items():
        with pytest.raises(FileError, match=words):
            read_data(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot tell what data"):
        read_data(str(tmp_path / "text.csv"))
