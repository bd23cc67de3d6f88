"""The small network that predicts tensors: its variances are right at the start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phnnify.errors import UsageError
from phnnify.hyper.encoding import encode
from phnnify.hyper.predictor import Predictor, gain_of, read_activation

ACTIVATIONS = ("ReLU", "LeakyReLU", "GELU", "SiLU", "Tanh", "ELU", "Mish", "Softplus")


def predictions(activation: str, norm: str, gamma: float, std: float) -> torch.Tensor:
    """500 numbers for each of 40 draws."""
    drawn = []
    for seed in range(40):
        h = Predictor(2, 1, (64, 128), 500, activation=activation, norm=norm)
        h.reset([(500, 0.0, std)], torch.Generator().manual_seed(seed))
        with torch.no_grad():
            drawn.append(h(encode(torch.tensor([[gamma]]))))
    return torch.cat(drawn)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gain_keeps_the_mean_square_as_a_fine_sum_in_numpy_shows(activation: str) -> None:
    u = np.linspace(-9, 9, 200001)
    with torch.no_grad():
        values = read_activation(activation).double()(torch.from_numpy(u)).numpy()
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    mean_square = float(np.sum(values**2 * density) * (u[1] - u[0]))
    assert gain_of(activation) == pytest.approx(mean_square**-0.5, rel=1e-4)


@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "GELU"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_each_prediction_starts_with_the_variance_that_was_asked_for(activation: str, gamma: float) -> None:
    got = predictions(activation, "none", gamma, std=0.05)
    assert float(got.std()) == pytest.approx(0.05, rel=0.08)
    assert abs(float(got.mean())) < 0.003


@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm"])
def test_a_normalisation_keeps_that_variance(norm: str) -> None:
    assert float(predictions("ReLU", norm, 0.4, std=2.0).std()) == pytest.approx(2.0, rel=0.08)


def test_each_predicted_tensor_has_a_variance_and_a_mean_of_its_own() -> None:
    h = Predictor(2, 1, (64, 4096), 3000, activation="ReLU", bias=True)
    h.reset([(1000, 0.0, 0.1), (1000, 1.0, 0.0), (1000, -2.0, 3.0)], torch.Generator().manual_seed(0))
    small, fixed, large = h(encode(torch.tensor([[0.5]])))[0].detach().split(1000)
    assert float(small.std()) == pytest.approx(0.1, rel=0.2)
    assert torch.equal(fixed, torch.ones(1000))
    assert float(large.std()) == pytest.approx(3.0, rel=0.2)
    assert float(large.mean()) == pytest.approx(-2.0, abs=0.4)


def test_it_is_drawn_from_the_generator_alone() -> None:
    one, other = (Predictor(2, 1, (8,), 5) for _ in range(2))
    for h in (one, other):
        torch.rand(3)  # the global generator is elsewhere each time
        h.reset([(5, 0.0, 1.0)], torch.Generator().manual_seed(7))
    x = torch.rand(3, 2)
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("name", ["Softmax", "GLU", "MultiheadAttention", "Linear", "nothing", "F"])
def test_what_is_no_activation_that_works_number_by_number_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"the activation is '{name}'"):
        read_activation(name)


def test_unknown_normalisations_and_empty_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="the normalisation is 'Batch'"):
        Predictor(2, 1, (8,), 5, norm="Batch")
    for hidden in ((), (8, 0)):
        with pytest.raises(UsageError, match="the hidden widths are"):
            Predictor(2, 1, hidden, 5)
