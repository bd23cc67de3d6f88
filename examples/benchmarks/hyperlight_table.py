"""Side by side with hyperlight, the library of MIP's authors: the same numbers, its mistakes, and the time.

    pip install hyperlight && python examples/benchmarks/hyperlight_table.py [--quick]

The networks are that of hyperlight's README and a deeper one, all convolutions and dense layers predicted
through `hidden_sizes=[16, 64, 128]` from ten numbers, as there. Both libraries get the same weights, so that
outputs and gradients must agree. Then what each does where it is used wrongly. A training step is a forward
and a backward pass; they take turns, and times are medians.
"""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from timing import interleaved, verdict
from torch import Tensor, nn

import phnnify

HIDDEN, NUMBERS, BATCH = (16, 64, 128), 10, 16


def readme_network() -> nn.Sequential:
    """That of hyperlight's README; input (batch, 3, height, width)."""
    return nn.Sequential(
        nn.Conv2d(3, 128, 3),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def deep_network() -> nn.Sequential:
    """Eight convolutions with BatchNorm, and a dense layer; input (batch, 3, height, width)."""
    layers: list[nn.Module] = []
    for columns in (3, *[16] * 7):
        layers += [nn.Conv2d(columns, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


class Theirs(nn.Module):
    """A network and hyperlight's hypernetwork for it, as its README wraps them."""

    def __init__(self, library: Any, network: nn.Module) -> None:
        super().__init__()
        kinds = [nn.Conv2d, nn.Linear]
        modules = library.find_modules_of_type(network, kinds)
        self.network, weights = library.hypernetize(network, modules=modules, return_values=True)
        shapes = {"h": (NUMBERS,)}
        self.hypernet = library.HyperNet.from_existing(
            weights, input_shapes=shapes, hidden_sizes=list(HIDDEN)
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Predict, then compute."""
        with self.network.using_externals(self.hypernet(h=h)):
            answer: Tensor = self.network(x)
        return answer


def ours_like(theirs: Theirs, network: nn.Module) -> phnnify.HyperNetwork:
    """Our hypernetwork of the same network with hyperlight's weights."""
    layers = [name for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hyper = phnnify.hypernetize(network, {"h": NUMBERS}, layers, hidden=HIDDEN)
    given = [layer for layer in theirs.hypernet.backbone if isinstance(layer, nn.Linear)]
    mine = [layer for layer in hyper.predictor if isinstance(layer, nn.Linear)]
    sizes = {name: math.prod(shape) for name, shape in theirs.hypernet.output_shapes.items()}
    rows = dict(zip(sizes, given[-1].weight.split(list(sizes.values())), strict=True))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for own, other in zip(mine[:-1], given[:-1], strict=True):
            own.weight.copy_(other.weight)
            own.bias.copy_(other.bias)
        mine[-1].weight.copy_(torch.cat([rows[name] for name in hyper.options.layers]))
    return hyper


def differences(theirs: Theirs, ours: phnnify.HyperNetwork) -> list[float]:
    """The largest differences of the outputs, and of the gradients of h's first layer; relative."""
    x, h = torch.randn(BATCH, 3, 16, 16), torch.rand(NUMBERS)
    pairs = [[theirs(x, h), ours(x, h=h)], []]
    for answer, first in zip(pairs[0], (theirs.hypernet.backbone[0], ours.predictor[0]), strict=True):
        pairs[1] += torch.autograd.grad(answer.square().sum(), [first.weight])
    return [float(((one - other).abs().max() / one.abs().max()).detach()) for one, other in pairs]


def step(model: nn.Module, call: Callable[[], Tensor]) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        model.zero_grad()
        call().square().sum().backward()  # type: ignore[no-untyped-call]

    return run


def ratios(theirs: Theirs, ours: phnnify.HyperNetwork, seconds: float) -> list[float]:
    """How many times longer theirs takes: for a training step, and for a forward pass."""
    x, h = torch.randn(BATCH, 3, 16, 16), torch.rand(NUMBERS)
    calls = {"theirs": lambda: theirs(x, h), "ours": lambda: ours(x, h=h)}
    steps = {"theirs": step(theirs, calls["theirs"]), "ours": step(ours, calls["ours"])}
    trained = interleaved(steps, seconds)
    with torch.no_grad():
        forward = interleaved(calls, seconds)
    return [times.ratio("theirs", "ours") for times in (trained, forward)]


def print_numbers(library: Any, seconds: float) -> None:
    """The table of agreement and time."""
    print("| network | outputs differ by | gradients | training step, theirs / ours | forward alone | |")
    print("|---|---|---|---|---|---|")
    for name, build in (("README's", readme_network), ("deep", deep_network)):
        torch.manual_seed(0)
        network = build()
        theirs = Theirs(library, copy.deepcopy(network))
        ours = ours_like(theirs, network)
        shapes = {key: tuple(shape) for key, shape in theirs.network.external_shapes().items()}
        assert shapes == {key: tuple(t.shape) for key, t in ours.parameters_at(h=[0.5] * NUMBERS).items()}
        found = " | ".join(f"{number:.0e}" for number in differences(theirs, ours))
        taken = ratios(theirs, ours, seconds)
        shown = " | ".join(f"{ratio:.2f}" for ratio in taken)
        print(f"| {name} | {found} | {shown} | {verdict(min(taken) > 0.97)} |", flush=True)


def said(call: Callable[[], Any]) -> str:
    """What comes of a call: an error, a warning, or nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:90]}"
    return f"a warning: {str(caught[0].message)[:60]}" if caught else "nothing"


def print_mistakes(library: Any) -> None:
    """The table of what each says where it is used wrongly."""
    theirs = Theirs(library, readme_network())
    ours = phnnify.hypernetize(readme_network(), {"h": NUMBERS}, ["0", "5"], hidden=HIDDEN)
    x, h = torch.randn(3, 3, 16, 16), torch.rand(NUMBERS)

    def interrupted_theirs() -> None:
        try:
            with theirs.network.using_externals(theirs.hypernet(h=h)):
                raise KeyError
        except KeyError:
            theirs.network(x)  # with the weights of a call that is over

    def interrupted_ours() -> None:
        try:
            ours(x[:, :2], h=h)  # fails inside
        except RuntimeError:
            ours(x)

    cases = {
        "an input too many, g": (lambda: theirs.hypernet(h=h, g=h), lambda: ours.parameters_at(h=h, g=h)),
        "no input, after a call that failed": (interrupted_theirs, interrupted_ours),
        "a shape in a list": (
            lambda: library.ExternalParameter([2, 3]),
            lambda: ours.parameters_at(h=[0.5] * 10),
        ),
        "numbers above 1": (lambda: theirs(x, h + 1), lambda: ours(x, h=h + 1)),
        "one conditioning per sample": (
            lambda: theirs(x, torch.rand(3, 10)),
            lambda: ours.eval()(x, h=torch.rand(3, 10)),
        ),
    }
    print("\n| what | hyperlight | phnnify |\n|---|---|---|")
    for what, calls in cases.items():
        print(f"| {what} | {' | '.join(said(call) for call in calls)} |")


def main() -> None:
    """Print both tables."""
    try:
        import hyperlight
    except ImportError:
        print("hyperlight is not installed: nothing to compare with (pip install hyperlight)")
        return
    seconds = 1.0 if "--quick" in sys.argv else 20.0
    print_numbers(hyperlight, seconds)
    print_mistakes(hyperlight)


if __name__ == "__main__":
    main()
