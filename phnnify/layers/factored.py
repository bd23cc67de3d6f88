"""A weight held as factors: composed when it is asked for, and kept until a factor changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from phnnify import algebra
from phnnify.algebra import Factors, Order
from phnnify.cost import Form
from phnnify.layers.reuse import Composed, reuse

_Self = TypeVar("_Self", bound="FactoredWeight")


class FactoredWeight(nn.Module):
    """A weight held as factors: composed when it is asked for, and kept until a factor changes.

    Attributes:
        A: Parameter (terms, n_out, n_in), the algebra; a buffer where it is fixed (`fix_algebra`).
        S: Parameter (terms, out/n_out, in/n_in, *kernel), the filters.
        U, V: Parameters (out, rank) and (rank, in, *kernel), the low-rank term; None where it has none.
        form: How the layer runs in eval mode: "factored", where it can; "folded" (with the composed weight);
            or "auto", whichever `cost` says is faster for the input at hand.
    """

    transposed_weight: ClassVar[bool] = False  # whether the weight is given out as (in, out, *kernel)
    minds_layout: ClassVar[bool] = False  # whether how an input lies in memory can change how the layer runs
    form: Form = "auto"
    # shape, stride (where it matters) and form at which the composed weight ran last, and that weight
    _ran: tuple[torch.Size, tuple[int, ...], Form, Composed] | None = None

    A: Tensor
    S: nn.Parameter
    U: nn.Parameter | None
    V: nn.Parameter | None
    _cached: Composed | None

    @classmethod
    def orient(cls, weight: Tensor) -> Tensor:
        """The dense twin's weight as (out, in, *kernel), or back again: its own inverse."""
        return weight.transpose(0, 1) if cls.transposed_weight else weight

    @property
    def factors(self) -> Factors:
        """What the weight is made of."""
        return Factors(self.A, self.S, self.U, self.V)

    @property
    def order(self) -> Order:
        """Blocks, terms and rank of the weight."""
        return self.factors.order

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the dense twin's weight."""
        return tuple(self.orient(torch.empty(self.matrix, device="meta")).shape)

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape (out, in, *kernel) of the weight as the algebra sees it."""
        _, n_out, n_in = self.A.shape
        rows, columns, *kernel = self.S.shape[1:]
        return n_out * rows, n_in * columns, *kernel

    @property
    def weight(self) -> Tensor:
        """The composed weight, as the dense twin stores it. Gradients flow to the factors.

        In eval mode it is composed once and kept until a factor changes.
        """
        if self.training or torch.compiler.is_compiling():
            return self._compose()
        if self._cached is None or not self._cached.is_of():
            if not self._cacheable():
                return self._compose()
            self._cached = Composed.of(self.factors, self._owner, self.orient)
        weight = self._cached.weight
        if torch.is_grad_enabled():
            return self.orient(reuse(self.factors, self.orient(weight)))
        return weight

    def _kept(self, x: Tensor) -> Tensor | None:
        """The composed weight, if such an input ran with it before and it still holds: a short look."""
        ran = self._ran
        if ran is None or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        shape, stride, form, composed = ran
        if x.shape != shape or (stride and x.stride() != stride) or self.form != form:
            return None
        return composed.weight if composed.is_of() else None

    def _composed(self, x: Tensor) -> Tensor:
        """The weight, remembered for inputs such as this."""
        weight = self.weight
        if self._cached is not None and not torch.is_grad_enabled():
            self._ran = x.shape, x.stride() if self.minds_layout else (), self.form, self._cached
        return weight

    def set_factors(self, factors: Factors) -> None:
        """Take over other factors of the same order.

        Raises:
            ValueError: they have other shapes, or another algebra than the fixed one.
        """
        got, needed = _shapes(factors), _shapes(self.factors)
        if got != needed:
            raise ValueError(f"factors {got}; needed {needed}")
        if self.has_fixed_algebra and not torch.equal(self.A, factors.A.to(self.A)):
            raise ValueError("factors with another algebra than the one that is fixed")
        with torch.no_grad():
            for mine, given in zip(self.factors, factors, strict=True):
                if mine is not None and given is not None:
                    mine.copy_(given)

    def _present(self) -> tuple[Tensor, ...]:
        """The factors that the layer has."""
        return tuple(factor for factor in (self.A, self.S, self.U, self.V) if factor is not None)

    def fix_algebra(self, A: Tensor | None = None) -> None:
        """Fix the algebra: from now on it is a buffer, saved, but neither trained nor one of the parameters.

        Args:
            A: Its values; by default those that it has.

        Raises:
            ValueError: they have another shape than (terms, n_out, n_in).
        """
        values = self.A if A is None else A
        if values.shape != self.A.shape:
            raise ValueError(f"an algebra {tuple(values.shape)}; needed {tuple(self.A.shape)}")
        values = values.detach().to(self.S.device, self.S.dtype, copy=True)
        del self.A
        self.register_buffer("A", values)

    @property
    def has_fixed_algebra(self) -> bool:
        """Whether the algebra is fixed."""
        return "A" in self._buffers

    def _compose(self) -> Tensor:
        return self.orient(algebra.compose(*self.factors))

    def _owner(self, name: str) -> Mapping[str, Tensor | None]:
        return self._parameters if name in self._parameters else self._buffers

    def _cacheable(self) -> bool:
        """Whether changes of the factors can be seen: not of tensors put in their place."""
        factors = self._present()
        fixed = self.A if self.has_fixed_algebra and type(self.A) is Tensor else None
        return all((f is fixed or type(f) is nn.Parameter) and not f.is_inference() for f in factors)

    def _apply(self: _Self, fn: Any, recurse: bool = True) -> _Self:
        self._cached = self._ran = None
        super()._apply(lambda tensor: _applied(fn, tensor), recurse)  # type: ignore[no-untyped-call]
        return self

    def train(self: _Self, mode: bool = True) -> _Self:
        """Set the mode as `nn.Module.train` does, and forget the composed weight."""
        self._cached = self._ran = None
        return super().train(mode)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in "UV":  # modules pickled before there was a low-rank term
            if not hasattr(self, name):
                self.register_parameter(name, None)

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_cached": None, "_ran": None}


def _applied(fn: Any, tensor: Tensor) -> Tensor:
    """`fn(tensor)`; torch's conversion to channels_last takes every tensor of five axes for a volume's."""
    try:
        changed: Tensor = fn(tensor)
    except RuntimeError:
        if tensor.dim() != 5:
            raise
        changed = fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    return changed


def _shapes(factors: Factors) -> str:
    named = zip("ASUV", factors, strict=True)
    return ", ".join(f"{name} {tuple(factor.shape)}" for name, factor in named if factor is not None)
