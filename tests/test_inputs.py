"""Example inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phnnify.errors import UsageError
from phnnify.inputs import InputSpec, describe, random_example, read_inputs
from tests.graph_networks import Tied

specs = st.builds(
    InputSpec,
    shape=st.lists(st.integers(1, 999), min_size=1, max_size=5).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool]),
    name=st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1x3x32x32", InputSpec((1, 3, 32, 32))),
        ("7", InputSpec((7,))),
        ("?1x3", InputSpec((1, 3))),
        ("int64:1x128", InputSpec((1, 128), torch.int64)),
        ("int64:1x?128", InputSpec((1, 128), torch.int64, dynamic=frozenset({0, 1}))),
        ("x=float32:1x80x100", InputSpec((1, 80, 100), name="x")),
        ("mask=bool:1x5", InputSpec((1, 5), torch.bool, "mask")),
        (" 2x2 ", InputSpec((2, 2))),
    ],
)
def test_a_spec_is_read(text: str, wanted: InputSpec) -> None:
    assert InputSpec.parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1x",
        "1xax3",
        "1,3",
        "int64",
        "=1x3",
        "int64:",
        "nn:1x3",
        "load:1x3",
        "1x0x3",
        "1x-3",
        "a=b=1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        InputSpec.parse(text)


@settings(deadline=None)
@given(specs)
def test_a_spec_is_written_as_it_is_read(spec: InputSpec) -> None:
    assert InputSpec.parse(str(spec)) == spec


def test_texts_tensors_and_specs_may_be_mixed() -> None:
    read = read_inputs(["1x3", torch.zeros(2, 5), InputSpec((4,))])
    assert read == (InputSpec((1, 3)), InputSpec((2, 5)), InputSpec((4,)))
    assert read_inputs("1x3") == (InputSpec((1, 3)),)
    assert read_inputs(torch.tensor([[3, 7]]))[0].high == 8
    assert read_inputs(None) == ()
    assert describe(read_inputs(["1x3", "a=int8:2"])) == "1x3, a=int8:2"


def test_other_things_and_equal_names_are_refused() -> None:
    with pytest.raises(UsageError, match="not int"):
        read_inputs([3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="same name"):
        read_inputs(["a=1x3", "a=1x4"])


def test_a_random_example_is_seeded_and_named() -> None:
    taken = read_inputs(["1x3", "int64:1x4", "mask=bool:1x5", "half=float16:2x2"])
    model = nn.Identity()
    first, again = (random_example(taken, model, seed=1) for _ in range(2))
    other = random_example(taken, model, seed=2, batch=7)
    assert [x.shape[0] for x in (*other.args, *other.kwargs.values())] == [7, 7, 7, 7]
    assert list(first.kwargs) == ["mask", "half"]
    assert [x.dtype for x in (*first.args, *first.kwargs.values())] == [
        torch.float32, torch.int64, torch.bool, torch.float16,
    ]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(first.args, again.args, strict=True))
    assert not torch.equal(first.args[0], other.args[0][:1])


def test_integers_stay_below_the_shortest_embedding_table() -> None:
    (tokens,), _ = random_example(read_inputs("int64:64x64"), Tied(), seed=0)
    assert tokens.max() == 19
    assert tokens.min() == 0
