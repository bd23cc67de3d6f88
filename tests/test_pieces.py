"""A checkpoint's pieces, converted one by one, are the converted network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from phnnify.errors import ModelError
from phnnify.opened import open_modules
from phnnify.pieces import pieces_of
from phnnify.pipeline import convert
from phnnify.plan import PlanOptions, make_plan
from phnnify.trace import trace
from tests.networks import Small, same_tensors


class Tied(nn.Module):
    """A table and a head of one weight, the head with a bias."""

    base_model_prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        table = nn.Embedding(32, 16)
        self.body = nn.Sequential(table, nn.Linear(16, 16))
        self.head = nn.Linear(16, 32)
        self.head.weight = table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, length) → (batch, length, 32)."""
        logits: Tensor = self.head(self.body(ids))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers": Small,
    "attention": lambda: nn.TransformerEncoderLayer(16, 2, 32),
    "recurrent": lambda: nn.Sequential(nn.LSTM(16, 16, 2)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 8, 2)
    ),
    "ties": Tied,
    "one layer": lambda: nn.Linear(16, 8),
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Linear(16, 8)), nn.Linear(8, 16)),
    "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(16, 8)), nn.Linear(8, 16)),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def options(low_rank: float = 0.0) -> PlanOptions:
    return PlanOptions(2, min_share=0, low_rank=low_rank, embeddings=True)


def empty(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name]().eval()


def in_pieces(name: str, chosen: PlanOptions, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    model = empty(name)
    pieces = pieces_of(model, make_plan(trace(open_modules(model)), chosen), stored)
    given: dict[str, Tensor] = {}
    for piece in pieces:
        tensors, _ = piece.convert(stored.__getitem__)
        assert piece.entries == sum(tensor.numel() for tensor in tensors.values())
        assert not given.keys() & tensors.keys()
        given |= tensors
    return given


@pytest.mark.parametrize("low_rank", [0.0, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_pieces_together_are_the_converted_network(name: str, low_rank: float) -> None:
    model = network(name)
    plan = make_plan(trace(open_modules(model)), options(low_rank))
    whole = convert(model, plan=plan).model.state_dict()
    given = in_pieces(name, options(low_rank), model.state_dict())
    assert same_tensors({**whole, **given}, whole)
    tied = {"head.A", "head.S", "head.U", "head.V"} if name == "ties" else set()
    assert whole.keys() - given.keys() <= tied


@pytest.mark.parametrize("way", ["without its base", "ties once", "ties by their other name"])
def test_names_of_checkpoints_are_found(way: str) -> None:
    model = network("ties")
    stored = dict(model.state_dict())
    if way == "without its base":
        stored = {name.removeprefix("body."): value for name, value in stored.items()}
    else:
        del stored["body.0.weight" if way == "ties by their other name" else "head.weight"]
    assert same_tensors(
        in_pieces("ties", options(), stored), in_pieces("ties", options(), model.state_dict())
    )


def test_a_checkpoint_with_other_names_is_refused() -> None:
    stored = {f"other.{name}": value for name, value in network("layers").state_dict().items()}
    with pytest.raises(ModelError, match=r"has no hidden\.weight, hidden\.bias, norm\.weight of") as error:
        in_pieces("layers", options(), stored)
    assert "leave --stream out" in str(error.value.hint)


def test_a_piece_forgets_its_tensors() -> None:
    model = empty("layers")
    stored = dict(network("layers").state_dict())
    for piece in pieces_of(model, make_plan(trace(model), options()), stored):
        piece.convert(stored.__getitem__)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = network("attention")
    with torch.no_grad():
        model.get_parameter("self_attn.in_proj_weight")[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"self_attn\.in_proj"):
        in_pieces("attention", options(), model.state_dict())


def test_what_cannot_be_opened_alone_is_refused() -> None:
    model = nn.TransformerDecoderLayer(16, 2, 32, device="meta")
    with pytest.raises(ModelError, match=r"multihead_attn\.q_proj cannot be converted apart") as error:
        pieces_of(model, make_plan(trace(open_modules(model)), options()), model.state_dict())
    assert "--exclude 'multihead_attn.q_proj'" in str(error.value.hint)
