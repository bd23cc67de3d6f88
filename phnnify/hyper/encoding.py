"""The conditioning inputs of a hypernetwork: read, checked, and encoded to a constant norm.

Each number γ in [0, 1] becomes a point on a quarter of the unit circle (arXiv 2304.07645, section 4):

    E(γ) = [cos(πγ/2), sin(πγ/2)],    |E(γ)| = 1

so that m numbers together have the norm √m, whatever they are. Raw, they would have the norm |γ|, to which
all that a network computes from them at first is proportional.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.errors import UsageError


class Encoding(nn.Module):
    """Named conditioning inputs → one row of numbers for a batch, or one for each of its samples.

    Args:
        sizes: How many numbers each input has, by name.
        circular: Encode each number as above; else hand it on as it is.

    Attributes:
        numbers: How many there are in all.
        width: How long an encoded row is.

    Raises:
        UsageError: there is no input, a name cannot be an argument's, or a size is below 1.
    """

    def __init__(self, sizes: Mapping[str, int], *, circular: bool = True) -> None:
        super().__init__()
        if not sizes:
            raise UsageError("a hypernetwork needs a conditioning input", hint="such as inputs={'lam': 1}")
        for name, size in sizes.items():
            if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
                raise UsageError(
                    f"a conditioning input cannot be called {name!r}",
                    hint="a word that Python leaves free: lam",
                )
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise UsageError(f"{name} has the size {size!r}; needed a whole number of at least 1")
        self.sizes, self.circular = dict(sizes), circular
        self.numbers = sum(sizes.values())
        self.width = self.numbers * (2 if circular else 1)

    def forward(self, values: Mapping[str, Any], like: Tensor) -> Tensor:
        """The encoded inputs.

        Args:
            values: By name: a number, a tensor (size,) for the whole batch, or (samples, size) with a row for
                each sample; an input of size 1 may leave that axis out.
            like: Gives dtype and device.

        Returns:
            (1, width) where all are for the whole batch, else (samples, width).

        Raises:
            UsageError: an input is missing or unknown, has another size, or a number outside of [0, 1]; or
                two have rows for different numbers of samples.
        """
        self._check_names(values)
        rows = [self._row(name, values[name], like) for name in self.sizes]
        samples = max(row.shape[0] for row in rows)
        for name, row in zip(self.sizes, rows, strict=True):
            if row.shape[0] not in (1, samples):
                raise UsageError(f"{name} has rows for {row.shape[0]} samples; another input for {samples}")
        flat = rows[0] if len(rows) == 1 else torch.cat([row.expand(samples, -1) for row in rows], 1)
        return encode(flat) if self.circular else flat

    def check_ranges(self, values: Mapping[str, Any]) -> None:
        """Refuse inputs with numbers outside of [0, 1]; those that are missing are not looked at.

        Raises:
            UsageError: there is one.
        """
        for name in self.sizes:
            if name in values:
                _check_range(name, _as_tensor(name, values[name]))

    def _check_names(self, values: Mapping[str, Any]) -> None:
        missing = [name for name in self.sizes if name not in values]
        unknown = [name for name in values if name not in self.sizes]
        wrong = [f"{', '.join(names)} {what}" for names, what in ((missing, "missing"), (unknown, "unknown"))
                 if names]  # fmt: skip
        if wrong:
            raise UsageError(
                f"wrong conditioning inputs: {'; '.join(wrong)}", hint=f"needed: {', '.join(self.sizes)}"
            )

    def _row(self, name: str, value: Any, like: Tensor) -> Tensor:
        """One input as (1 or samples, size), its numbers checked."""
        size = self.sizes[name]
        tensor = _as_tensor(name, value)
        _check_range(name, tensor)
        tensor = tensor.to(like)
        if size == 1 and tensor.dim() < 2:
            return tensor.reshape(-1, 1)
        if tensor.dim() in (1, 2) and tensor.shape[-1] == size:
            return tensor.reshape(-1, size)
        raise UsageError(
            f"{name} has the shape {tuple(tensor.shape)}; needed ({size},), or (samples, {size})"
        )

    def extra_repr(self) -> str:
        """The inputs and their sizes."""
        described = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return described if self.circular else f"{described}, circular=False"


def encode(numbers: Tensor) -> Tensor:
    """E(γ) of each number: (rows, m) → (rows, 2m), all cosines first; every row has the norm √m."""
    angles = numbers * (math.pi / 2)
    return torch.cat([angles.cos(), angles.sin()], 1)


def _as_tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name} is a {type(value).__name__}; needed numbers") from None


def _check_range(name: str, tensor: Tensor) -> None:
    """Refuse numbers outside of [0, 1], where they can be looked at: not in a trace, nor inside of a vmap."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_batchedtensor(tensor) or not tensor.numel():
        return
    least, most = (float(end) for end in tensor.detach().aminmax())  # both are NaN where a number is
    if not (least >= 0 and most <= 1):
        raise UsageError(f"{name} is {most if least >= 0 else least:g}; it must be from 0 to 1")
