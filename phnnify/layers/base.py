"""What all PHM layers share: factors in place of a weight, made from and turned into a dense twin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from phnnify import algebra
from phnnify.algebra import Factors, Order
from phnnify.algebras import Algebra, named_algebra
from phnnify.cost import PYTORCH, Form, Target, prefers_dense, prefers_factored
from phnnify.factorization import factorize
from phnnify.layers.factored import FactoredWeight
from phnnify.layers.fresh import fresh_

_MANY_ROWS = 512

_Self = TypeVar("_Self", bound="PHMLayer")


class PHMLayer(FactoredWeight):
    """What all PHM layers share: factors in place of a weight, made from and turned into a dense twin.

    Attributes:
        bias: Parameter (out,), or None.
        A, S, U, V, form: As in `FactoredWeight`.
    """

    twin: ClassVar[type[nn.Module]]
    arguments: ClassVar[tuple[str, ...]]  # constructor arguments of the twin that it keeps as attributes
    # shape and stride of the last input, and whether the factors are faster for it
    _decided: tuple[torch.Size, tuple[int, ...], bool] | None = None

    bias: nn.Parameter | None

    @classmethod
    def from_dense(
        cls: type[_Self], dense: nn.Module, n: int | Order, factors: Factors | None = None
    ) -> _Self:
        """The PHM layer nearest to a dense layer; inverse of `to_dense` up to the error of the fit.

        Args:
            dense: A layer of the twin's type, such as nn.Conv2d for PHMConv2d. It is not changed.
            n: Keep about 1/n of the parameters, or an exact `Order`.
            factors: Factors to use; by default those of `factorization.factorize`.

        Returns:
            A layer with the attributes, bias, dtype, device, training flag and requires_grad of `dense`.

        Raises:
            TypeError: `dense` is not of the twin's type.
            ValueError: the order does not fit the weight, the weight is not finite, or the factors have
                other shapes.
        """
        if type(dense) is not cls.twin:
            raise TypeError(f"{cls.__name__} is made from nn.{cls.twin.__name__}, not {type(dense).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        weight = cls.orient(_parameter(dense, "weight").detach())
        order = _order(weight, n)
        layer._adopt(dense, order, device=weight.device)
        layer.set_factors(factors or factorize(weight, order))
        layer.bias = _copied(getattr(dense, "bias", None))
        for factor in layer._present():
            factor.requires_grad_(_parameter(dense, "weight").requires_grad)
        return layer.train(dense.training)

    def to_dense(self) -> nn.Module:
        """The dense twin with the composed weight; inverse of `from_dense`."""
        twin: Any = self.twin
        fields = {name: getattr(self, name) for name in self.arguments}
        dense: nn.Module = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            twin, **fields, bias=self.bias is not None, device=self.S.device, dtype=self.S.dtype
        )
        with torch.no_grad():
            _parameter(dense, "weight").copy_(self._compose())
            if self.bias is not None:
                _parameter(dense, "bias").copy_(self.bias)
        return dense.train(self.training)

    def reset_parameters(self) -> None:
        """Fresh factors: the composed weight has exactly the mean square of a fresh dense weight.

        A fresh dense weight is uniform in ±1/sqrt(fan_in), so its mean square is 1/(3·fan_in); that of a
        table is 1. A and S are normal, scaled to that, with equal mean squares; a fixed algebra stays. The
        bias is drawn as in the dense layer.
        """
        with torch.no_grad():
            fresh_(self.factors, self._fresh_mean_square(), keep_algebra=self.has_fixed_algebra)
            if self.bias is not None:
                fan_in = self._fan_in()
                nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def fastest_form(self, x: Tensor, target: Target) -> Form:
        """The form that is faster for such an input, as `cost` says; "folded" where there is no other."""
        met = self._positions(x)
        if met is None:
            return "folded"
        A, S, U, _ = self.factors
        faster = prefers_factored(A.shape, S.shape, 0 if U is None else U.shape[1], *met, target)
        return "factored" if faster else "folded"

    def _held_bias(self) -> Tensor | None:
        """`self.bias`, faster: to find it by its name takes torch a tenth of the time of a small product."""
        if "bias" in self._parameters:
            return self._parameters["bias"]
        return self.bias

    def _positions(self, x: Tensor) -> tuple[int, int] | None:
        """How many vectors come out, and how many of the input for each; None if it needs its weight."""
        return None

    def _runs_factored(self, x: Tensor) -> bool:
        """Whether to multiply with the factors in eval mode."""
        if self.form != "auto" or torch.compiler.is_compiling() or not x.is_cpu:
            return self._factored_unseen()
        decided = self._decided
        if decided is None or decided[0] != x.shape or decided[1] != x.stride():
            decided = self._decided = x.shape, x.stride(), self.fastest_form(x, PYTORCH) == "factored"
        return decided[2]

    def _factored_unseen(self) -> bool:
        """The same, whatever the input."""
        return not prefers_dense(self.order, self.matrix) if self.form == "auto" else self.form == "factored"

    def _learns_factored(self, rows: int) -> bool:
        """Whether to learn through the factors, unless so many rows come that composing W costs nothing.

        A factored product multiplies no more, but its backward pass copies all that it mixed: a distillation
        step of a character transformer takes twice as long.
        """
        many = self.order.terms > 0 and rows >= _MANY_ROWS
        return not many and not prefers_dense(self.order, self.matrix)

    def _fresh_mean_square(self) -> float:
        return 1 / (3 * self._fan_in())

    def extra_repr(self) -> str:
        """The dense twin's line, and the order."""
        order = self.order
        form = f"order=({order.n_out}, {order.n_in}), terms={order.terms}"
        form += f", rank={order.rank}" if order.rank else ""
        described = ", ".join(f"{name}={getattr(self, name)}" for name in self.arguments)
        return f"{described}, bias={self.bias is not None}, {form}"

    def _build(self, dense: nn.Module, n: int | Order, fixed: Algebra | str | None, device: Any) -> None:
        """What every constructor does once the (meta) dense twin has checked the arguments."""
        super().__init__()
        self._adopt(dense, _order(self.orient(_parameter(dense, "weight")), n), device)
        if fixed is not None:
            given = named_algebra(fixed, len(self.A)) if isinstance(fixed, str) else fixed
            self.fix_algebra(given.A())
        self.reset_parameters()

    def _adopt(self, dense: nn.Module, order: Order, device: Any) -> None:
        """Take over the fields of a dense twin, with factors and bias allocated but not filled."""
        mine = vars(self).keys()
        vars(self).update({name: value for name, value in vars(dense).items() if name not in mine})
        weight = _parameter(dense, "weight")
        device = torch.get_default_device() if device is None else device
        empty = algebra.empty_factors(self.orient(weight.detach()), order, device)
        for name, factor in zip("ASUV", empty, strict=True):
            self.register_parameter(name, None if factor is None else nn.Parameter(factor))
        bias: Tensor | None = getattr(dense, "bias", None)
        self.bias = None if bias is None else nn.Parameter(torch.empty_like(bias, device=device))
        self._cached = self._ran = None

    def _fan_in(self) -> int:
        """The inputs of one output as torch counts them: second axis of the stored weight times kernel."""
        out, columns, *kernel = self.matrix
        return (out if self.transposed_weight else columns) * math.prod(kernel)

    def __getstate__(self) -> Mapping[str, Any]:
        return {**super().__getstate__(), "_decided": None}


def _order(weight: Tensor, n: int | Order) -> Order:
    """The order for an oriented weight.

    Raises:
        ValueError: an `Order` that does not fit the weight.
    """
    if isinstance(n, int):
        return Order.closest(weight.shape[0], weight.shape[1], n)
    if not n.fits(weight.shape):
        raise ValueError(f"{n} does not fit a weight of shape {tuple(weight.shape)}")
    return n


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    parameter: nn.Parameter = getattr(module, name)
    return parameter


def _copied(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
