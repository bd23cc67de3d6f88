"""Hypernetworks: an existing network, some of whose tensors a small one predicts from conditioning inputs.

Two formulations (arXiv 2304.07645), with γ the inputs, θ the predicted tensors and h the `Predictor`:

    "mip"      θ = θ₀ + h(E(γ); ω)    θ₀: the network's own tensors, which learn too; E: `encoding`
    "default"  θ = h(γ; ω)            the usual one, in which θ grows with |γ|

How they start, with rms_t, mean_t and std_t those of the network's own tensor t:

    "mip"      h predicts numbers of variance (spread·rms_t)², for every γ. Without a spread (the default)
               these are zeros: the network is computed to the bit, and θ has the variances of its tensors.
    "default"  h predicts numbers of mean mean_t (the bias of its last layer) and variance |γ|²/m·std_t².

A tensor may be any parameter: of dense layers, of norms (which makes it FiLM, arXiv 1709.07871), or a factor
of a PHM layer, where h has 1/n of the outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import ModelError, UsageError
from phnnify.hyper.encoding import Encoding
from phnnify.hyper.functional import call_with
from phnnify.hyper.predictor import Predictor
from phnnify.hyper.targets import Target, find_targets
from phnnify.measure import copied, parameter_count

FORMULATIONS = ("mip", "default")


@dataclass(frozen=True)
class HyperOptions:
    """How a hypernetwork is made.

    Attributes:
        inputs: How many numbers each conditioning input has, by name.
        layers: Patterns (`layer3.*`) for the names of modules or of parameters: what is predicted.
        hidden: The widths of h's hidden layers.
        activation: That of h; see `Predictor`.
        norm: That of h; see `Predictor`.
        formulation: One of FORMULATIONS.
        spread: For "mip", how large the first predictions are beside the network's own tensors.

    Raises:
        UsageError: an unknown formulation, a negative spread, or one where it has no meaning.
    """

    inputs: Mapping[str, int]
    layers: tuple[str, ...] = ("*",)
    hidden: tuple[int, ...] = (64, 16)
    activation: str = "LeakyReLU"
    norm: str = "none"
    formulation: str = "mip"
    spread: float = 0.0

    def __post_init__(self) -> None:
        if self.formulation not in FORMULATIONS:
            raise UsageError(
                f"the formulation is {self.formulation!r}", hint=f"one of {', '.join(FORMULATIONS)}"
            )
        if not 0 <= self.spread < float("inf"):
            raise UsageError(f"the spread is {self.spread}; it must not be negative")
        if self.spread and not self.residual:
            raise UsageError("a spread has no meaning in the default formulation")

    @property
    def residual(self) -> bool:
        """Whether predictions are added to the network's own tensors."""
        return self.formulation == "mip"


def hypernetize(
    model: nn.Module,
    inputs: Mapping[str, int],
    layers: Sequence[str] = ("*",),
    *,
    hidden: Sequence[int] = (64, 16),
    activation: str = "LeakyReLU",
    norm: str = "none",
    formulation: str = "mip",
    spread: float = 0.0,
    seed: int = 0,
) -> HyperNetwork:
    """A hypernetwork made of an existing network; it starts as the module's text says.

    Args:
        model: Pretrained or not, dense or with PHM layers, or itself a hypernetwork. It is not changed.
        inputs: How many numbers each conditioning input has, by name, such as {"lam": 1}.
        layers: Patterns for the names of modules or parameters: what is predicted. By default everything.
        hidden: The widths of the hidden layers of h. Its last layer, by far the largest, has the last of
            them times the numbers that are predicted.
        activation: A class of `torch.nn` that works number by number.
        norm: 'none', 'LayerNorm', 'RMSNorm' or 'BatchNorm1d', in front of each activation.
        formulation: 'mip', or 'default' to compare with.
        spread: For 'mip', how large the first predictions are beside the network's own tensors.
        seed: For the weights of h.

    Raises:
        UsageError: an argument has a value that cannot mean anything, a pattern matches nothing, or the
            network has an argument of an input's name.
        ModelError: the network cannot be copied, or what is to be predicted is not real floating point.
    """
    options = HyperOptions(inputs, tuple(layers), tuple(hidden), activation, norm, formulation, spread)
    return HyperNetwork(copied(model, {}), options, seed)


class HyperNetwork(nn.Module):
    """What `hypernetize` makes: `hyper(x, lam=γ)`.

    Each conditioning input is a keyword: a number or a tensor (size,) for the whole batch, or a tensor
    (samples, size) with a row for each sample; all numbers from 0 to 1. Other arguments are the network's.

    Args:
        network: Becomes part of this one.
        options: How it is made.
        seed: For the weights of h, which are not drawn without one.

    Attributes:
        network: The network; in the default formulation without the tensors that are predicted.
        encoding: E, or in the default formulation the inputs as they are.
        predictor: h.
        options: How it was made, with the names of what is predicted as the patterns.
    """

    def __init__(self, network: nn.Module, options: HyperOptions, seed: int | None = None) -> None:
        super().__init__()
        self._targets = find_targets(network, options.layers)
        self.options = replace(options, layers=tuple(target.names[0] for target in self._targets))
        self.encoding = Encoding(options.inputs, circular=options.residual)
        _check_arguments(network, options.inputs)
        self.network = network
        self.predictor = Predictor(
            self.encoding.width, self.encoding.numbers, options.hidden, sum(t.size for t in self._targets),
            activation=options.activation, norm=options.norm, bias=not options.residual,
        )  # fmt: skip
        first = self._targets[0].read(network)
        self.predictor.to(device=first.device, dtype=torch.promote_types(first.dtype, torch.float32))
        if seed is not None:
            self._reset(torch.Generator().manual_seed(seed))
        if not options.residual:
            for target in self._targets:
                target.take_out_(network)
        self.train(network.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network computes with the tensors that its conditioning inputs ask for.

        Raises:
            UsageError: a conditioning input is missing, has a wrong size, a number outside of [0, 1], or rows
                for another number of samples than the network's inputs have.
            ModelError: one conditioning per sample, and BatchNorm in training mode.
        """
        given = {name: kwargs.pop(name) for name in self.options.inputs if name in kwargs}
        return self.bind(**given)(*args, **kwargs)

    def bind(self, **values: Any) -> Callable[..., Any]:
        """The network for one conditioning, or one per sample: predicted once, and called as often as needed.

        Gradients flow to this module's parameters; a second backward pass needs `retain_graph`.

        Args:
            values: The conditioning inputs.

        Raises:
            UsageError, ModelError: as in `forward`.
        """
        predicted = self._predict(values)

        def call(*args: Any, **kwargs: Any) -> Any:
            if (
                len(next(iter(predicted.values()))) > 1
            ):  # then those inside cannot look at the numbers themselves
                self._check_nested(kwargs)
            return call_with(self.network, predicted, args, kwargs)

        return call

    def parameters_at(self, **values: Any) -> dict[str, Tensor]:
        """The predicted tensors, as `torch.func.functional_call(hyper.network, …)` takes them.

        Args:
            values: The conditioning inputs.

        Returns:
            By name, a tied one under all its names; with an axis of samples in front where inputs have one.

        Raises:
            UsageError, ModelError: as in `forward`.
        """
        named = [(name, t) for names, t in self._predict(values).items() for name in names]
        return {name: tensor[0] if len(tensor) == 1 else tensor for name, tensor in named}

    def at(self, **values: Any) -> nn.Module:
        """The ordinary network for one conditioning: a copy, of the original's class, in the same mode.

        Args:
            values: The conditioning inputs.

        Raises:
            UsageError: as in `forward`, or there is one conditioning per sample.
            ModelError: the network cannot be copied.
        """
        with torch.no_grad():
            predicted = self._predict(values)
        network = copied(self.network, {})
        for target in self._targets:
            tensor = predicted[target.names]
            if len(tensor) > 1:
                raise UsageError(f"a network has one conditioning; here are rows for {len(tensor)} samples")
            target.put_(network, tensor[0])
        return network

    def _check_nested(self, values: Mapping[str, Any]) -> None:
        for module in self.network.modules():
            if isinstance(module, HyperNetwork):
                module.encoding.check_ranges(values)

    def _predict(self, values: Mapping[str, Any]) -> dict[tuple[str, ...], Tensor]:
        """Each predicted tensor (1 or samples, *shape), by all its names."""
        encoded = self.encoding(values, like=self.predictor.output.weight)
        if self.training and len(encoded) == 1 and self.options.norm == "BatchNorm1d":
            raise ModelError(
                "BatchNorm1d in h takes its statistics from several conditionings; here is one",
                hint="give one per sample, or take LayerNorm",
            )
        parts = self.predictor(encoded).split([target.size for target in self._targets], 1)
        return {t.names: self._placed(t, part) for t, part in zip(self._targets, parts, strict=True)}

    def _placed(self, target: Target, part: Tensor) -> Tensor:
        own = target.read(self.network)
        predicted = part.reshape(-1, *target.shape).to(own.dtype)
        return own + predicted if self.options.residual else predicted

    def _reset(self, generator: torch.Generator) -> None:
        start: list[tuple[int, float, float]] = []
        for target in self._targets:
            values = target.read(self.network).detach().double()
            mean = 0.0 if self.options.residual else float(values.mean())
            std = float((values - mean).square().mean().sqrt())
            start.append((target.size, mean, std * self.options.spread if self.options.residual else std))
        self.predictor.reset(start, generator)


def summary(network: nn.Module) -> dict[str, Any]:
    """What a report says about a hypernetwork, or the network made of one."""
    if not isinstance(network, HyperNetwork):
        return {"params": {"network": parameter_count(network)}}
    predicted = network.predictor.output.out_features
    return {
        "formulation": network.options.formulation,
        "inputs": dict(network.options.inputs),
        "predicted": list(network.options.layers),
        "params": {
            "network": parameter_count(network.network) + (0 if network.options.residual else predicted),
            "predicted": predicted,
            "predictor": parameter_count(network.predictor),
        },
    }


def signature_of(network: nn.Module) -> inspect.Signature:
    """Of a network's forward; for a hypernetwork with the network's arguments and its inputs by name."""
    if not isinstance(network, HyperNetwork):
        return inspect.signature(network.forward)
    parameters = list(signature_of(network.network).parameters.values())
    rest = [parameter for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in network.options.inputs]
    return inspect.Signature([*(p for p in parameters if p not in rest), *own, *rest])


def name_arguments_(model: nn.Module) -> None:
    """Let a copy of a hypernetwork name its arguments, as torch.export wants to know; others stay as is."""
    if isinstance(model, HyperNetwork):
        original = model.forward

        def call(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        call.__signature__ = signature_of(model)  # type: ignore[attr-defined]
        model.forward = call  # type: ignore[method-assign]


def _check_arguments(network: nn.Module, inputs: Mapping[str, int]) -> None:
    """Refuse a conditioning input that has the name of an argument of the network."""
    taken = set(signature_of(network).parameters)
    for name in inputs:
        if name in taken:
            raise UsageError(
                f"the network already has an input called {name}", hint="give the conditioning another name"
            )
