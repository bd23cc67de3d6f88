"""Other tensors in place of a network's parameters: per batch, and per sample without a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phnnify.errors import ModelError, UsageError
from phnnify.hyper.functional import call_with
from phnnify.layers import PHMConv2d, PHMConvTranspose1d, PHMLinear
from tests.networks import Tied

SAMPLES = 3
NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (6,)),
    "sequence": (nn.Linear(6, 4), (5, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2), (4, 8)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 8, 8)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
    "layer norm": (nn.LayerNorm(6), (6,)),
    "batch norm, eval": (nn.BatchNorm2d(4).eval(), (4, 5, 5)),
    "group norm": (nn.GroupNorm(2, 4), (4, 5)),
    "phm linear": (PHMLinear(6, 4, n=2), (6,)),
    "phm conv": (PHMConv2d(4, 4, 3, n=2).eval(), (4, 6, 6)),
    "phm conv, fixed algebra": (PHMConv2d(4, 4, 3, n=2, algebra="complex").eval(), (4, 6, 6)),
    "phm pointwise": (PHMConv2d(4, 4, 1, n=2), (4, 6, 6)),
    "phm transposed": (PHMConvTranspose1d(4, 4, 3, n=2).eval(), (4, 6)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), (5, 8)),
}


def tensors_for(model: nn.Module, samples: int) -> dict[tuple[str, ...], Tensor]:
    torch.manual_seed(1)
    named = model.named_parameters()
    return {(name,): p.detach() + torch.randn(samples, *p.shape) for name, p in named}


@pytest.mark.parametrize("case", NETWORKS)
def test_one_set_per_sample_is_what_a_loop_over_samples_computes(case: str) -> None:
    model, shape = NETWORKS[case]
    tensors, x = tensors_for(model, SAMPLES), torch.randn(SAMPLES, *shape)
    got = call_with(model, tensors, (x,), {})
    for i in range(SAMPLES):
        mine = {names[0]: tensor[i] for names, tensor in tensors.items()}
        wanted = torch.func.functional_call(model, mine, (x[i : i + 1],))
        torch.testing.assert_close(got[i : i + 1], wanted, rtol=1e-4, atol=1e-5)


def test_one_set_for_the_batch_is_a_plain_call() -> None:
    model = nn.Linear(6, 4)
    tensors, x = tensors_for(model, 1), torch.randn(SAMPLES, 6)
    wanted = x @ tensors["weight",][0].t() + tensors["bias",][0]
    torch.testing.assert_close(call_with(model, tensors, (x,), {}), wanted)


def test_a_tied_tensor_is_replaced_under_all_its_names() -> None:
    model = Tied()
    tables, tokens = torch.randn(SAMPLES, 12, 16), torch.randint(0, 12, (SAMPLES, 5))
    tied: dict[tuple[str, ...], Tensor] = {("table.weight", "head.weight"): tables}
    got = call_with(model, tied, (), {"tokens": tokens})
    for i in range(SAMPLES):
        hidden = model.hidden(tables[i][tokens[i]])
        torch.testing.assert_close(got[i], hidden @ tables[i].t())


def test_inputs_and_outputs_may_be_nested_and_shared() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, parts: dict[str, Tensor], *, shift: Tensor, times: int) -> dict[str, Any]:
            return {"y": [self.layer(parts["x"]) * times + shift]}

    model, x, shift = Nested(), torch.randn(SAMPLES, 4), torch.randn(1, 4)
    tensors = tensors_for(model, SAMPLES)
    got = call_with(model, tensors, ({"x": x},), {"shift": shift, "times": 2})["y"][0]
    wanted = torch.einsum("bi,boi->bo", x, tensors["layer.weight",]) + tensors["layer.bias",]
    torch.testing.assert_close(got, 2 * wanted + shift)


def test_samples_of_the_inputs_and_of_the_tensors_must_be_the_same() -> None:
    model = nn.Linear(6, 4)
    with pytest.raises(UsageError, match="rows for 3 samples; an input has 4"):
        call_with(model, tensors_for(model, 3), (torch.randn(4, 6),), {})


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False).eval(),
     nn.InstanceNorm1d(6, track_running_stats=True)],
)  # fmt: skip
def test_norms_that_mix_samples_are_refused_by_name(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(6, 6), norm)
    tensors: dict[tuple[str, ...], Tensor] = {("0.weight",): torch.randn(3, 6, 6)}
    with pytest.raises(ModelError, match=rf"1 \({type(norm).__name__}\) takes statistics from the whole"):
        call_with(model, tensors, (torch.randn(3, 6),), {})


def test_batch_norm_in_training_mode_learns_its_statistics_from_one_set_for_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6))
    call_with(model, {("0.weight",): torch.ones(1, 6)}, (torch.full((3, 6), 2.0),), {})
    torch.testing.assert_close(model[0].running_mean, torch.full((6,), 0.2))
