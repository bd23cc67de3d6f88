"""Which parameters patterns choose, and that each can be taken out and put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phnnify.errors import ModelError, UsageError
from phnnify.hyper.targets import find_targets
from phnnify.layers import PHMLinear
from tests.networks import Small, Tied, small


def chosen(model: nn.Module, *patterns: str) -> list[str]:
    return [name for target in find_targets(model, patterns) for name in target.names]


def test_a_pattern_is_a_name_of_a_module_or_of_a_parameter() -> None:
    assert chosen(small(), "h*") == ["hidden.weight", "hidden.bias", "head.weight", "head.bias"]
    assert chosen(small(), "*.bias") == ["hidden.bias", "norm.bias", "head.bias"]
    assert chosen(small(), "norm", "head.weight") == ["norm.weight", "norm.bias", "head.weight"]
    assert len(chosen(small(), "*")) == 6


def test_a_tied_parameter_is_one_target_under_all_its_names() -> None:
    (table,) = find_targets(Tied(), ["head"])
    assert table.names == ("table.weight", "head.weight")
    assert (table.shape, table.size) == ((12, 16), 192)


def test_the_factors_of_a_phm_layer_are_parameters_too() -> None:
    assert chosen(nn.Sequential(PHMLinear(8, 8, n=2)), "0.A", "0.S") == ["0.A", "0.S"]


@pytest.mark.parametrize(
    ("patterns", "words"), [((), "nothing is to be"), (("*", "tail.*"), "'tail.\\*' matches no")]
)
def test_patterns_that_choose_nothing_are_refused(patterns: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_targets(Small(), patterns)


def test_numbers_that_are_not_real_are_refused_by_name() -> None:
    model = nn.ParameterDict({"c": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
    with pytest.raises(ModelError, match=r"c is torch.complex64"):
        find_targets(model, ["*"])


def test_what_is_taken_out_is_no_parameter_any_more_and_can_be_put_back() -> None:
    model, original = Tied(), Tied()
    model.load_state_dict(original.state_dict())
    (target,) = find_targets(model, ["table"])
    target.take_out_(model)
    assert list(model.state_dict()) == ["hidden.weight", "hidden.bias"]
    assert target.read(model).shape == (12, 16)
    target.put_(model, original.table.weight.detach())
    assert model.head.weight is model.table.weight
    assert set(model.state_dict()) == set(original.state_dict())
    tokens = torch.arange(12)
    assert torch.equal(model(tokens), original(tokens))


def test_the_memory_layout_of_a_phm_factor_stays() -> None:
    model = nn.Sequential(PHMLinear(8, 8, n=2))
    (target,) = find_targets(model, ["0.S"])
    strides, value = target.read(model).stride(), torch.rand(2, 4, 4)
    target.take_out_(model)
    target.put_(model, value)
    assert target.read(model).stride() == strides
    assert torch.equal(target.read(model), value)
