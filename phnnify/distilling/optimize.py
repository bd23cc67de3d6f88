"""What moves a student's weights: the optimizer, its rate, and the average of the weights on their way."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from phnnify.distilling.recipe import Recipe
from phnnify.layers import PHMLayer

_MOMENTUM = 0.9
_SPAN = {"sgd": (1e-3, 10.0), "adamw": (1e-5, 3e-2)}  # rates that the range test goes through
_TESTS = 40  # steps of the range test
_SMOOTHING = 0.5
_WORSE = math.log(1.05)  # what is lost before the range test ends
_BOUND = 10.0  # of a logarithm


def make_optimizer(model: nn.Module, recipe: Recipe, rate: float) -> torch.optim.Optimizer:
    """SGD or AdamW over all parameters, without weight decay."""
    parameters = list(model.parameters())
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=_MOMENTUM, nesterov=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)


def balance_(model: nn.Module) -> None:
    """Scale each A_r and S_r, and each column of U and row of V, to equal norms; their products stay.

    The gradient of one factor is as large as the other factor: in balance both move alike. An algebra that is
    fixed, or that several filters share, stays.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, PHMLayer)]
    filters = {(id(layer.A), id(layer.S)) for layer in layers}
    uses = Counter(algebra for algebra, _ in filters)
    with torch.no_grad():
        for layer in layers:
            if not layer.has_fixed_algebra and uses[id(layer.A)] == 1:
                _balance_pair_(layer.A, layer.S)
            if layer.U is not None and layer.V is not None:
                _balance_pair_(layer.U.t(), layer.V)


def _balance_pair_(a: Tensor, s: Tensor) -> None:
    if not len(a):
        return
    sizes = a.flatten(1).norm(dim=1).double(), s.flatten(1).norm(dim=1).double()
    gain = (sizes[1] / sizes[0]).sqrt()
    gain = torch.where((sizes[0] > 0) & (sizes[1] > 0), gain, 1.0).to(a)
    a.mul_(gain.view(-1, *[1] * (a.dim() - 1)))
    s.div_(gain.view(-1, *[1] * (s.dim() - 1)))


class Average:
    """The exponential moving average of all parameters and buffers of a network.

    After k updates the decay is min(decay, (1 + k)/(10 + k)), so that early weights are soon forgotten.

    Args:
        model: The network; its present state is where the average starts.
        decay: 0 makes the average the last state.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.state = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
        self._decay = decay
        self.updates = 0

    def update(self, model: nn.Module) -> None:
        """Take in the present state."""
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates)) if self._decay else 0.0
        self.updates += 1
        with torch.no_grad():
            for name, tensor in _tensors(model):
                mine = self.state[name]
                if mine.is_floating_point():
                    mine.lerp_(tensor, 1 - decay)
                else:
                    mine.copy_(tensor)

    def load_(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a state that `updates` updates led to."""
        self.updates = updates
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


def _tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def load_state_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state, by the names of parameters and buffers."""
    with torch.no_grad():
        for name, tensor in _tensors(model):
            tensor.copy_(state[name])


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers; a tied one appears once."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _tensors(model)}


def find_rate(model: nn.Module, recipe: Recipe, losses: Iterable[Callable[[nn.Module], Tensor]]) -> float:
    """The learning rate, by a range test: a copy of the network takes steps at rising rates.

    Each batch is shown to the copy and to the network as it was; while the ratio of the two losses (smoothed)
    is below 1.05 the rates so far did no harm. A third of the rate where that ends is taken: on a converted
    ResNet-20 it is near the best fixed rate, which is a broad optimum. From a poor start any step helps, so
    that only the end of the span bounds it: 1e-2 for AdamW. Smith 2015, arXiv 1506.01186, looks at the loss
    itself, which drowns in the differences between batches.

    Args:
        model: It is not changed.
        recipe: Says the optimizer and the clipping.
        losses: What a network loses on one batch after the other.
    """
    still, trial = copy.deepcopy(model), copy.deepcopy(model)
    low, high = _SPAN[recipe.optimizer]
    optimizer = make_optimizer(trial, recipe, low)
    rates = [low * (high / low) ** (i / (_TESTS - 1)) for i in range(_TESTS)]
    smoothed, rate = 0.0, low
    for rate, loss_of in zip(rates, losses, strict=False):
        with torch.no_grad():
            before = loss_of(still).item()
        loss = loss_of(trial)
        smoothed += _SMOOTHING * (_log_ratio(loss.item(), before) - smoothed)
        if smoothed > _WORSE:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trial.parameters(), recipe.clip)
        optimizer.step()
    return rate / 3


def _log_ratio(loss: float, before: float) -> float:
    """Bounded: a loss of nothing, or one that is not finite, counts as far below or far above."""
    if not math.isfinite(loss):
        return _BOUND
    if loss <= 0 or before <= 0:
        return 0.0 if loss == before else math.copysign(_BOUND, loss - before)
    return min(max(math.log(loss / before), -_BOUND), _BOUND)
