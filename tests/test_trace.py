"""From a network to its sites."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from phnnify.errors import ModelError
from phnnify.inputs import read_inputs
from phnnify.layers import PHMLinear
from phnnify.references import load_callable
from phnnify.trace import Site, Trace, trace
from tests.graph_networks import Branching, Careless, Locked, Outside, Plain, Tied, Twice


def sites(traced: Trace) -> dict[str, Site]:
    return {site.name: site for site in traced.sites}


@pytest.mark.parametrize("spec", [None, "1x4x8x8"])
def test_sites_come_in_the_order_in_which_they_run(spec: str | None) -> None:
    traced = trace(Plain(), read_inputs(spec))
    assert traced.method == "torch.fx"
    assert traced.note is None
    assert [s.name for s in traced.sites] == ["stem", "grouped", "up", "point", "head"]
    assert all(s.calls == 1 and s.obstacle is None for s in traced.sites)


def test_a_site_knows_shape_matrix_share_and_flops() -> None:
    model = Plain()
    traced = trace(model, read_inputs("1x4x8x8"))
    up, grouped = sites(traced)["up"], sites(traced)["grouped"]
    assert (up.kind, up.shape, up.matrix) == ("ConvTranspose2d", (32, 16, 2, 2), (16, 32, 2, 2))
    assert (grouped.shape, grouped.matrix) == ((32, 8, 3, 3), (32, 8, 3, 3))
    assert traced.parameters == sum(p.numel() for p in model.parameters())
    assert up.share == up.parameters / traced.parameters
    assert up.flops == 2 * (32 * 16 * 4) * 16
    assert grouped.flops == 2 * (32 * 8 * 9) * 16


def test_without_an_input_flops_are_unknown() -> None:
    assert all(site.flops is None for site in trace(Plain()).sites)


@pytest.mark.parametrize("spec", [None, "1x16"])
def test_a_module_called_three_times_under_two_names_is_one_site(spec: str | None) -> None:
    (site,) = trace(Twice(), read_inputs(spec)).sites
    assert (site.name, site.calls) == ("layer", 3)


def test_a_tied_weight_is_one_site_that_names_the_other() -> None:
    found = sites(trace(Tied(), read_inputs("int64:1x5")))
    assert set(found) == {"table", "body"}
    assert (found["table"].obstacle, found["table"].ties, found["table"].table) == (None, ("head",), True)
    assert (found["table"].calls, found["table"].flops) == (2, 2 * 20 * 16 * 5)


def test_a_weight_that_is_tied_to_something_else_than_a_layer_has_an_obstacle() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Bilinear(8, 8, 1))
    model.register_parameter("bare", model[0].weight)
    found = sites(trace(model))
    assert found["bare"].obstacle == "tied: the same parameter as 0"


@pytest.mark.parametrize("spec", [None, "1x16"])
def test_weights_used_outside_their_module_or_never_have_an_obstacle(spec: str | None) -> None:
    found = sites(trace(Outside(), read_inputs(spec)))
    assert found["used"].obstacle is None
    assert found["read"].obstacle == "used outside its module"
    assert found["never"].obstacle == "not used by the traced forward pass"
    assert found["bare"].obstacle == "unsupported kind: bare of Outside"


def test_where_the_symbolic_trace_fails_one_sentence_says_where_and_why() -> None:
    traced = trace(Branching())
    assert traced.method == "module tree"
    assert [s.name for s in traced.sites] == ["layer"]
    assert traced.sites[0].obstacle is None
    assert traced.sites[0].calls is None
    assert "cannot trace Branching symbolically at graph_networks.py line" in (traced.note or "")
    assert "control flow" in (traced.note or "")
    assert "\n" not in (traced.note or "")


def test_a_run_shows_what_the_module_tree_cannot() -> None:
    class Lazy(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(16, 16)

    found = sites(trace(Lazy(), read_inputs("1x16")))
    assert found["layer"].calls == 1
    assert found["spare"].obstacle == "not run as a module with the example input"


def test_layers_inside_torchs_own_blocks_are_sites_too() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.LSTM(16, 8))
    found = sites(trace(model))
    assert found["0.linear1"].obstacle is None
    assert found["0.self_attn.in_proj_weight"].obstacle == "unsupported kind: in_proj_weight of attention"
    assert (found["0.self_attn.out_proj"].obstacle or "").startswith("used outside its module")
    assert found["1.weight_hh_l0"].obstacle == "unsupported kind: weight_hh_l0 of a recurrent layer"


def test_a_branch_of_training_alone_is_not_used() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.spare = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Any:
            return (self.main(x), self.spare(x)) if self.training else self.main(x)

    found = sites(trace(Auxiliary().train()))
    assert found["spare"].obstacle == "not used by the traced forward pass"


def test_computed_weights_stay_and_their_neighbours_do_not() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Linear(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sites(trace(model, read_inputs("1x16")))
    assert [s.obstacle is None for s in found.values()] == [False, True]
    assert (found["0.parametrizations.weight.original"].obstacle or "").startswith("its weight is computed")


def test_converted_layers_are_recognised() -> None:
    found = sites(trace(nn.Sequential(PHMLinear(16, 16, n=4))))
    assert {site.obstacle for site in found.values()} == {"already a PHM weight"}


def test_a_network_that_is_one_layer_has_one_site() -> None:
    (site,) = trace(nn.Linear(16, 16), read_inputs("1x16")).sites
    assert (site.name, site.obstacle) == ("weight", None)


def test_the_network_is_not_changed() -> None:
    model = Careless().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, read_inputs("4x16"))
    assert model.seen is None
    assert model.calls == 0
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_networks_that_fail_or_cannot_be_copied_are_refused() -> None:
    with pytest.raises(ModelError, match="fails on an example input of float32 1x5"):
        trace(Plain(), read_inputs("1x5"))
    with pytest.raises(ModelError, match="cannot be copied"):
        trace(Locked())


@pytest.mark.assets
def test_the_character_model_traces_through_torchs_encoder(assets: Path) -> None:
    model = load_callable(f"{assets / 'nets.py'}:charlm", "--arch")()
    found = sites(trace(model, read_inputs("int64:1x128")))
    assert found["token"].ties == ("head",)
    assert found["blocks.layers.3.linear2"].flops == 2 * 192 * 768 * 128
    assert len(found) == 2 + 4 * 4
