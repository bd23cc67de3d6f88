"""Which dense layer becomes which PHM layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from phnnify.layers import PHMLinear
from phnnify.rules import RULES, rule_for

DENSE = [
    nn.Embedding(8, 8),
    nn.Linear(8, 8),
    nn.Conv1d(8, 8, 3),
    nn.Conv2d(8, 8, 3, groups=2),
    nn.Conv3d(8, 8, 3),
    nn.ConvTranspose1d(8, 8, 3),
    nn.ConvTranspose2d(8, 8, 3),
    nn.ConvTranspose3d(8, 8, 3),
]


class MyLinear(nn.Linear):
    pass


class MyEmbedding(nn.Embedding):
    pass


class MyConv(nn.Conv2d):
    pass


@pytest.mark.parametrize("dense", DENSE, ids=lambda dense: type(dense).__name__)
def test_each_dense_layer_becomes_the_phm_layer_of_its_name(dense: nn.Module) -> None:
    becomes = rule_for(dense, "weight").becomes
    assert becomes is not None
    assert becomes.__name__ == f"PHM{type(dense).__name__}"
    assert becomes.twin is type(dense)


@pytest.mark.parametrize(
    ("module", "parameter", "reason"),
    [
        (MyLinear(8, 8), "weight", "unsupported kind: MyLinear, a subclass of Linear"),
        (MyConv(8, 8, 3), "weight", "unsupported kind: MyConv, a subclass of a convolution"),
        (nn.Bilinear(8, 8, 8), "weight", "unsupported kind: weight of Bilinear"),
        (nn.Conv2d(8, 8, 3, groups=8), "weight", "depthwise: each output has a filter of its own"),
        (nn.Conv2d(8, 16, 3, groups=8), "weight", "depthwise: each output has a filter of its own"),
        (nn.Embedding(8, 8, max_norm=1.0), "weight", "an embedding with max_norm"),
        (MyEmbedding(8, 8), "weight", "unsupported kind: MyEmbedding, a subclass of Embedding"),
        (nn.LSTM(8, 8), "weight_ih_l0", "unsupported kind: weight_ih_l0 of a recurrent layer"),
        (nn.MultiheadAttention(8, 2), "in_proj_weight", "unsupported kind: in_proj_weight of attention"),
        (nn.MultiheadAttention(8, 2).out_proj, "weight", "used outside its module: attention reads"),
        (nn.Linear(8, 8, dtype=torch.complex64), "weight", "its numbers are complex"),
        (PHMLinear(8, 8, n=2), "S", "already a PHM weight"),
        (
            parametrizations.weight_norm(nn.Linear(8, 8)).parametrizations.weight,
            "original1",
            "its weight is computed",
        ),
    ],
)
def test_everything_else_stays_with_a_reason(module: nn.Module, parameter: str, reason: str) -> None:
    rule = rule_for(module, parameter)
    assert rule.becomes is None
    assert rule.reason.startswith(reason)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_old_weight_norm_stays_too() -> None:
    rule = rule_for(torch.nn.utils.weight_norm(nn.Linear(8, 8)), "weight_v")
    assert rule.becomes is None
    assert rule.reason.startswith("its weight is computed")


def test_a_single_input_channel_is_not_depthwise() -> None:
    assert rule_for(nn.Conv2d(1, 8, 3), "weight").becomes is not None


def test_the_last_rule_applies_to_anything() -> None:
    assert RULES[-1].applies(nn.Module(), "anything")
    assert all(rule.becomes or rule.reason for rule in RULES)
