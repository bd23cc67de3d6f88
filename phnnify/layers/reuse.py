"""A composed weight that is kept, and handed on with the gradients of its factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phnnify import algebra
from phnnify.algebra import Factors

NAMES = ("A", "S", "U", "V")


class Seen(NamedTuple):
    """A factor when the weight was composed from it: held, so that no other can take its identity."""

    owner: Mapping[str, Tensor | None]
    name: str
    factor: Tensor
    version: int
    place: int


class Composed(NamedTuple):
    """A composed weight, as its layer's dense twin stores it, contiguous, and what it was composed from."""

    seen: tuple[Seen, ...]
    weight: Tensor

    @classmethod
    def of(
        cls,
        factors: Factors,
        owner: Callable[[str], Mapping[str, Tensor | None]],
        orient: Callable[[Tensor], Tensor],
    ) -> Composed:
        """The weight of factors, free of the caller's autograd and autocast modes.

        Args:
            factors: As they are now.
            owner: For the name of a factor, the dictionary of the module in which it is looked for later.
            orient: From (out, in, *kernel) to what the twin stores.
        """
        seen = tuple(
            Seen(owner(name), name, factor, factor._version, factor.data_ptr())
            for name, factor in zip(NAMES, factors, strict=True)
            if factor is not None and factor.numel()
        )
        device = factors.S.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            return cls(seen, orient(algebra.compose(*factors)).contiguous())

    def is_of(self) -> bool:
        """Whether the factors are the same, with the same values."""
        for owner, name, factor, version, place in self.seen:
            if owner.get(name) is not factor or factor._version != version or factor.data_ptr() != place:
                return False
        return True


def reuse(factors: Factors, weight: Tensor) -> Tensor:
    """The weight that was composed from these factors, with their gradients."""
    reused: Tensor = _Reuse.apply(*factors, weight)  # type: ignore[no-untyped-call]
    return reused


class _Reuse(torch.autograd.Function):
    """`compose` whose value is already known: hands it on, with the gradients of the factors.

    dA_r[i, j] = <dW_ij, S_r> and dS_r = Σ_ij A_r[i, j]·dW_ij, where dW_ij is a block of the gradient;
    dU = dW Vᵀ and dV = Uᵀ dW.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, S: Tensor, U: Tensor | None, V: Tensor | None, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        A, S, U, V = ctx.saved_tensors
        blocks = algebra.rearrange(grads[0], *A.shape[1:])
        dA, dS = (blocks @ S.flatten(1).t()).t().view_as(A), (A.flatten(1) @ blocks).view_as(S)
        if U is None:
            return dA, dS, None, None, None
        rows = grads[0].flatten(1)
        return dA, dS, rows @ V.flatten(1).t(), (U.t() @ rows).view_as(V), None
