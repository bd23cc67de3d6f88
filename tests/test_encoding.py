"""Conditioning inputs: what they may be, and their encoding of constant norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phnnify.errors import UsageError
from phnnify.hyper.encoding import Encoding, encode

LIKE = torch.empty(0)
shares = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5)


@given(shares)
def test_an_encoded_row_has_the_root_of_its_length_as_norm(numbers: list[float]) -> None:
    row = encode(torch.tensor([numbers], dtype=torch.float64))
    assert float(row.norm()) == pytest.approx(math.sqrt(len(numbers)), abs=1e-12)


@given(shares)
def test_the_encoding_is_a_quarter_of_a_circle_as_numpy_has_it(numbers: list[float]) -> None:
    angles = np.pi * np.array(numbers) / 2
    wanted = np.concatenate([np.cos(angles), np.sin(angles)])[None]
    np.testing.assert_allclose(
        encode(torch.tensor([numbers], dtype=torch.float64)).numpy(), wanted, atol=1e-12
    )


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (0.5, 1),
        (1, 1),
        (torch.tensor(0.5), 1),
        (torch.tensor([0.5]), 1),
        (torch.zeros(3), 3),
        ([0.0, 0.1], 2),
    ],
)
def test_an_input_of_one_number_is_for_the_batch_or_one_per_sample(value: Any, rows: int) -> None:
    assert Encoding({"lam": 1})({"lam": value}, LIKE).shape == (rows, 2)


def test_an_input_of_the_whole_batch_goes_with_one_per_sample() -> None:
    encoding = Encoding({"lam": 1, "scale": 2}, circular=False)
    row = encoding({"lam": torch.tensor([0.1, 0.2]), "scale": [0.3, 0.4]}, LIKE)
    torch.testing.assert_close(row, torch.tensor([[0.1, 0.3, 0.4], [0.2, 0.3, 0.4]]))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lam": 1.5, "scale": [0, 0]}, "lam is 1.5; it must be from 0 to 1"),
        ({"lam": torch.tensor([0.5, -0.25]), "scale": [0, 0]}, "lam is -0.25; it must be from 0 to 1"),
        ({"lam": float("nan"), "scale": [0, 0]}, "lam is nan"),
        ({"lam": 0.5, "scale": [0.5]}, r"scale has the shape \(1,\); needed \(2,\), or \(samples, 2\)"),
        (
            {"lam": torch.zeros(3), "scale": torch.zeros(2, 2)},
            "scale has rows for 2 samples; another input for 3",
        ),
        ({"lam": 0.5}, "scale missing"),
        ({"lam": 0.5, "scale": [0, 0], "mu": 1}, "mu unknown"),
        ({"mu": 1}, "lam, scale missing; mu unknown"),
        ({"lam": "much", "scale": [0, 0]}, "lam is a str; needed numbers"),
    ],
)
def test_wrong_inputs_are_refused_by_name_and_value(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        Encoding({"lam": 1, "scale": 2})(values, LIKE)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("sizes", [{}, {"a b": 1}, {"lambda": 1}, {"lam": 0}, {"lam": 1.5}, {"lam": True}])
def test_inputs_that_cannot_be_given_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Encoding(sizes)


def test_gradients_flow_to_the_inputs() -> None:
    lam = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    like: Tensor = torch.empty(0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda lam: Encoding({"lam": 1})({"lam": lam}, like), (lam,))
