"""The survey of the original, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from phnnify.batches import Batch
from phnnify.errors import ModelError
from phnnify.inputs import Example
from phnnify.search import Form, Search
from phnnify.survey import absorbed_means, survey
from tests.graph_networks import Twice
from tests.survey_network import NAMES, Net


def test_a_survey_sees_every_layer_once_in_the_order_of_execution(model: Net, batches: list[Batch]) -> None:
    told: list[tuple[int, int, str]] = []
    seen: list[str] = []

    def look(name: str, search: Search) -> Sequence[Form]:
        seen.append(name)
        return ()

    found = survey(model, reversed(NAMES), batches, look, lambda *what: told.append(what))
    assert seen == NAMES
    assert found == dict.fromkeys(NAMES, ())
    assert told[-1][0] == told[-1][1]


def test_a_layer_that_runs_three_times_is_surveyed_after_the_last(batches: list[Batch]) -> None:
    model = Twice().eval()
    x = torch.randn(50, 16)
    _, calls = absorbed_means(model, ["layer"], Example((x,), {}))
    assert calls["layer"] == 3
    energies: list[float] = []

    def look(name: str, search: Search) -> Sequence[Form]:
        energies.append(search._problem.energy)
        return ()

    survey(model, ["layer"], [Batch((x,))], look)
    with torch.no_grad():
        first = model.layer(x)
        ys = [first, model.layer(first), model.layer(model.layer(first))]
    y = torch.cat(ys) - model.layer.bias.detach()
    wanted = float((y - y.mean(0)).square().sum(1).mean())
    assert energies[0] == pytest.approx(wanted, rel=0.2)  # the ridge is in it


def test_a_survey_without_inputs_is_refused(model: Net) -> None:
    with pytest.raises(ModelError, match="no calibration inputs"):
        survey(model, NAMES, [], lambda name, search: ())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused_by_the_name_of_the_layer(
    value: float, model: Net, batches: list[Batch]
) -> None:
    batches[1].args[0][3, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"^conv cannot be fitted: its inputs are not finite") as caught:
        survey(model, NAMES, batches, lambda name, search: ())
    assert "--data" in (caught.value.hint or "")


def test_a_weight_that_is_not_finite_is_refused_by_name(model: Net, batches: list[Batch]) -> None:
    model.mix.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"^mix cannot be fitted: a weight .* not finite") as caught:
        survey(model, NAMES, batches, lambda name, search: ())
    assert "--exclude 'mix'" in (caught.value.hint or "")
