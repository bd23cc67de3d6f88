r"""The small network h that predicts another one's tensors from an encoded conditioning input.

    z_0 = E(γ),    z_k = φ(norm(W_k z_{k-1})),    Δ = W_out z_last (+ b_out)

Its variances are right from the start, whatever the activation φ, by the gain g = E[φ(u)²]^-½ for normal u,
found by numerical integration (for ReLU it is the known √2):

- W_1 ~ N(0, 1/m), as |E(γ)|² = m for m numbers: each pre-activation has variance 1, for every γ;
- W_k ~ N(0, g²/width): variance 1 again, as E[z²] = 1/g²;
- rows of W_out for tensor t ~ N(0, (std_t·g)²/width): each number of its prediction has the variance std_t².

The last is done for each predicted tensor by itself: a wide layer's weights are small, a narrow one's are
large, and one variance for all (that of an ordinary layer's start) would be wrong for most of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from phnnify.errors import UsageError

NORMS = ("none", "LayerNorm", "RMSNorm", "BatchNorm1d")
_POINTS = 128  # of the quadrature


class Predictor(nn.Sequential):
    """Rows (rows, width) → predictions (rows, total), as in the module's text.

    Args:
        width: The length of an encoded row.
        numbers: m, the squared norm of such a row at most (for the circular encoding: always).
        hidden: The widths of the hidden layers.
        total: How many numbers are predicted.
        activation: A class of `torch.nn` that works number by number, such as 'ReLU', 'GELU' or 'Tanh'.
        norm: One of NORMS, in front of each activation.
        bias: Whether the last layer has a bias.

    Raises:
        UsageError: an activation or normalisation that is not there, or a width below 1.
    """

    def __init__(
        self,
        width: int,
        numbers: int,
        hidden: Sequence[int],
        total: int,
        *,
        activation: str = "LeakyReLU",
        norm: str = "none",
        bias: bool = False,
    ) -> None:
        if norm not in NORMS:
            raise UsageError(f"the normalisation is {norm!r}", hint=f"one of {', '.join(NORMS)}")
        if not hidden or min(hidden) < 1:
            raise UsageError(f"the hidden widths are {list(hidden)}; needed numbers of at least 1")
        parts: list[nn.Module] = []
        for columns, rows in zip((width, *hidden), hidden, strict=False):
            parts.append(nn.utils.skip_init(nn.Linear, columns, rows))  # type: ignore[no-untyped-call]
            if norm != "none":
                parts.append(getattr(nn, norm)(rows))
            parts.append(read_activation(activation))
        parts.append(nn.utils.skip_init(nn.Linear, hidden[-1], total, bias=bias))  # type: ignore[no-untyped-call]
        super().__init__(*parts)
        self.numbers, self.gain = numbers, gain_of(activation)

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        layer = self[-1]
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"the last layer of a predictor is a {type(layer).__name__}")
        return layer

    def reset(self, start: Sequence[tuple[int, float, float]], generator: torch.Generator) -> None:
        """Draw all weights as in the module's text; biases of hidden layers are zero.

        Args:
            start: For each predicted tensor its size, and the mean and standard deviation of its prediction.
                A mean needs a bias in the last layer.
            generator: Draws, on the CPU.
        """
        layers = [layer for layer in self if isinstance(layer, nn.Linear)]
        variances = [1 / self.numbers] + [self.gain**2 / layer.in_features for layer in layers[1:]]
        with torch.no_grad():
            for layer, variance in zip(layers, variances, strict=True):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * math.sqrt(variance))
                if layer.bias is not None:
                    layer.bias.zero_()
            sizes = torch.tensor([size for size, _, _ in start])
            means, stds = torch.tensor([rest for _, *rest in start]).repeat_interleave(sizes, 0).t()
            self.output.weight.mul_(stds.to(self.output.weight).unsqueeze(1))
            if self.output.bias is not None:
                self.output.bias.copy_(means)


def read_activation(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        UsageError: torch has none, or it needs arguments or does not work number by number.
    """
    kind = getattr(nn.modules.activation, name, None)
    try:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError
        activation = kind()
        _check_elementwise(activation)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        raise UsageError(
            f"the activation is {name!r}; needed one of torch.nn that works number by number",
            hint="such as ReLU, LeakyReLU, GELU, SiLU or Tanh",
        ) from None
    return activation


def _check_elementwise(activation: nn.Module) -> None:
    some = torch.linspace(-3, 3, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # softmax wants an axis; it is refused here
        whole, part = activation.eval()(some), activation(some[2:5])
    activation.train()
    if not (whole.shape == some.shape and torch.equal(whole[2:5], part) and whole.any()):
        raise ValueError


def gain_of(activation: str) -> float:
    """E[φ(u)²]^-½ for u ~ N(0, 1), by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    with torch.no_grad():
        values = read_activation(activation).eval().double()(torch.from_numpy(points))
    mean_square = float((values**2 * torch.from_numpy(weights)).sum() / math.sqrt(2 * math.pi))
    return 1 / math.sqrt(mean_square)
