"""What a reader should know about a converted network."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from phnnify.notes import ADVICE, FITTED, NEEDS_DISTILLATION, after_distillation
from phnnify.pipeline import inspect
from tests.courses import course


def test_a_distilled_network_is_not_said_to_need_distillation() -> None:
    before = (FITTED.format(samples=12), NEEDS_DISTILLATION, ADVICE)
    assert after_distillation(before, course({0: 0.5, 20: 0.86, 40: 0.85})) == (
        "Fitted to 12 inputs, layer after layer.",
        "Learned from the original for 40 steps of 128 inputs, 4.0 minutes at the highest rate of 2.0e-03; "
        "what is kept is its best state, of step 20. Errors of single layers are those before.",
    )


def test_where_nothing_was_measured_no_best_state_is_named() -> None:
    assert "best state" not in after_distillation([], course({}))[0]


def test_norms_that_were_folded_are_named_by_kind_and_not_without_end() -> None:
    layers = [weight_norm(nn.Linear(64, 64)) for _ in range(7)]
    model = nn.Sequential(*layers, spectral_norm(nn.Linear(64, 64)))
    _, report = inspect(model, 4, inputs="1x64")
    assert report.notes == (
        "Weight norm folded into the weights of 0, 1, 2, 3, 4 and 2 more: converted, they have none.",
        "Spectral norm folded into the weights of 7: converted, they have none.",
    )
