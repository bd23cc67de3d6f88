"""The sequential fit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from phnnify import calibrate
from phnnify.algebra import Order, compose
from phnnify.batches import Batch
from phnnify.errors import ModelError
from phnnify.fit import Fit, fit_to_data, fit_weights
from phnnify.layers import PHMLayer
from phnnify.rewrite import dense_weights, rewrite
from phnnify.sequence import WIDE, SequentialFit, fit_in_sequence_
from tests.graph_networks import Twice


class Net(nn.Module):
    """A convolution without bias before a BatchNorm, then dense layers; input (batch, 4, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.hidden = nn.Linear(100, 32)
        self.head = nn.Linear(32, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.norm(self.conv(x)).relu())
        out: Tensor = self.head(self.hidden(x.flatten(1)).relu())
        return out


def images(count: int, seed: int = 0) -> Tensor:
    """Smooth images: what flows has a few strong directions, as in real data."""
    x = torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(x, (6, 6), mode="bilinear") + 0.3


def converted(model: nn.Module, n: int) -> tuple[nn.Module, dict[str, Fit]]:
    weights = {
        name: module for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    }  # fmt: skip
    dense = dense_weights(model, weights)
    fits = fit_weights(dense, {name: Order.closest(w.shape[0], w.shape[1], n) for name, w in dense.items()})
    return rewrite(model, {name: fit.factors for name, fit in fits.items()}), fits


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():  # running statistics of a trained network
        model.train()
        for _ in range(50):
            model(images(64))
    return model.eval()


def error(teacher: nn.Module, student: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = teacher(x)
        return float((student.eval()(x) - wanted).norm() / wanted.norm())


def fitted(model: nn.Module, n: int, *batches: Tensor) -> tuple[nn.Module, SequentialFit]:
    student, fits = converted(model, n)
    return student, fit_in_sequence_(student, model, fits, [Batch((x,)) for x in batches])


def test_a_fit_to_data_is_much_nearer_than_the_closed_form_on_new_inputs(model: Net) -> None:
    closed, _ = converted(model, 2)
    student, _ = fitted(model, 2, images(200), images(200, 1))
    assert error(model, student, images(300, 2)) < 0.6 * error(model, closed, images(300, 2))


def test_each_layer_is_fitted_transposed_ones_too(model: Net) -> None:
    _, result = fitted(model, 2, images(200))
    assert list(result.fits) == ["conv", "up", "hidden", "head"]
    for fit in result.fits.values():
        assert fit.output_error is not None
        assert fit.closed_form_error is not None
        assert fit.output_error < 0.9 * fit.closed_form_error
    assert result.notes == ()


def test_the_errors_told_are_those_of_the_layers_in_the_network(model: Net) -> None:
    student, result = fitted(model, 2, images(200))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for net in (model, student):
        net.get_submodule("head").register_forward_hook(
            lambda m, x, y: seen.__setitem__(type(m).__name__, (x[0], y))
        )
        with torch.no_grad():
            net.eval()(images(200))
    wanted, got = seen["Linear"][1], seen["PHMLinear"][1]
    assert result.fits["head"].output_error == pytest.approx(
        float((got - wanted).norm() / wanted.norm()), rel=1e-3
    )


def test_the_bias_keeps_the_mean_output(model: Net) -> None:
    student, _ = fitted(model, 2, images(200))
    means: dict[str, Tensor] = {}
    for net in (model, student):
        net.get_submodule("hidden").register_forward_hook(
            lambda m, x, y: means.__setitem__(type(m).__name__, y.mean(0))
        )
        with torch.no_grad():
            net.eval()(images(200))
    torch.testing.assert_close(means["PHMLinear"], means["Linear"], rtol=1e-3, atol=1e-4)


def test_batchnorm_has_the_statistics_of_its_new_inputs(model: Net) -> None:
    student, _ = fitted(model, 2, images(150), images(50, 1))
    x = torch.cat([images(150), images(50, 1)])
    with torch.no_grad():
        y = student.get_submodule("conv").eval()(x)
    norm = student.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_original_is_untouched_and_the_result_is_reproducible(model: Net) -> None:
    before = copy.deepcopy(model.state_dict())
    first, _ = fitted(model, 2, images(100))
    again, _ = fitted(model, 2, images(100))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_batches_only_divide_the_work(model: Net) -> None:
    whole, _ = fitted(model, 2, images(100))
    parts, _ = fitted(model, 2, images(100)[:30], images(100)[30:])
    torch.testing.assert_close(parts(images(9, 5)), whole(images(9, 5)), rtol=1e-3, atol=1e-4)


def test_a_layer_that_runs_several_times_is_fitted_once() -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    student, result = fitted(model, 2, torch.randn(100, 16))
    assert result.fits["layer"].output_error is not None
    assert isinstance(student.get_submodule("layer"), PHMLayer)


def test_layers_that_are_too_wide_are_fitted_to_variances(
    model: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(model, 2, images(100))[1].fits["hidden"]
    monkeypatch.setattr(calibrate, "LIMIT", 64)
    _, result = fitted(model, 2, images(100))
    assert result.notes == (WIDE.format(name="hidden"),)
    wide = result.fits["hidden"]
    assert wide.output_error is not None
    assert whole.output_error is not None
    assert wide.closed_form_error is not None
    assert whole.output_error < wide.output_error <= wide.closed_form_error


def test_all_calls_of_a_layer_count() -> None:
    torch.manual_seed(0)
    model = Twice().eval()
    student, fits = converted(model, 2)
    name, fit = next(iter(fits.items()))
    x = torch.randn(200, 16)
    fit_in_sequence_(student, model, {name: fit}, [Batch((x,))])
    every = calibrate.Sums(model.get_submodule(name))
    seen: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    assert len(seen) == 3
    layer = student.get_submodule(name)
    assert isinstance(layer, PHMLayer)
    W = layer.weight.detach().double().flatten(1)
    for each in seen:
        every.add([(each, each)])
    centered = layer.bias is not None
    best = fit_to_data(
        model.get_submodule(name).get_parameter("weight"), fit.factors, every.statistics(centered=centered)
    )
    torch.testing.assert_close(W, compose(*best.factors.to(torch.float64)).flatten(1), rtol=1e-3, atol=1e-4)


def test_progress_ends_with_everything_done(model: Net) -> None:
    student, fits = converted(model, 2)
    told: list[tuple[int, int, str]] = []
    fit_in_sequence_(student, model, fits, [Batch((images(50),))], lambda *what: told.append(what))
    assert [name for _, _, name in told] == ["conv", "up", "hidden", "head", ""]
    assert told[-1][0] == told[-1][1]


def test_inputs_that_do_not_fit_and_no_inputs_are_refused(model: Net) -> None:
    student, fits = converted(model, 2)
    with pytest.raises(ModelError, match="fails on an example input of float32 3x5"):
        fit_in_sequence_(student, model, fits, [Batch((torch.zeros(3, 5),))])
    with pytest.raises(ModelError, match="no calibration inputs"):
        fit_in_sequence_(student, model, fits, [])
