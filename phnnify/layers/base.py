"""What all PHM layers share: factors in place of a weight, made from and turned into a dense twin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from phnnify import algebra, products
from phnnify.algebra import Factors, Order
from phnnify.algebras import Algebra, named_algebra
from phnnify.cost import PYTORCH, Form, Target, prefers_factored
from phnnify.factorization import factorize
from phnnify.layers.fresh import fresh_
from phnnify.layers.reuse import Composed, reuse

_MANY_ROWS = 512
_TOO_MANY = 4  # times the multiplications of a dense product, up to which reading fewer numbers pays

_Self = TypeVar("_Self", bound="PHMLayer")


class PHMLayer(nn.Module):
    """What all PHM layers share: factors in place of a weight, made from and turned into a dense twin.

    Attributes:
        A: Parameter (terms, n_out, n_in), the algebra; a buffer where it is fixed (`fix_algebra`).
        S: Parameter (terms, out/n_out, in/n_in, *kernel), the filters.
        U, V: Parameters (out, rank) and (rank, in, *kernel), the low-rank term; None where it has none.
        bias: Parameter (out,), or None.
        form: How it runs in eval mode: "factored", where it can; "folded" (with the composed weight, which is
            kept); or "auto", whichever `cost` says is faster for the input at hand.
    """

    twin: ClassVar[type[nn.Module]]
    arguments: ClassVar[tuple[str, ...]]  # constructor arguments of the twin that it keeps as attributes
    transposed_weight: ClassVar[bool] = False  # whether the twin stores its weight as (in, out, *kernel)
    minds_layout: ClassVar[bool] = False  # whether how an input lies in memory can change how the layer runs
    form: Form = "auto"
    # shape and stride of the last input, and whether the factors are faster for it
    _decided: tuple[torch.Size, tuple[int, ...], bool] | None = None
    # shape, stride (where it matters) and form at which the composed weight ran last, and that weight
    _ran: tuple[torch.Size, tuple[int, ...], Form, Composed] | None = None

    A: Tensor
    S: nn.Parameter
    U: nn.Parameter | None
    V: nn.Parameter | None
    bias: nn.Parameter | None
    _cached: Composed | None

    @classmethod
    def orient(cls, weight: Tensor) -> Tensor:
        """The dense twin's weight as (out, in, *kernel), or back again: its own inverse."""
        return weight.transpose(0, 1) if cls.transposed_weight else weight

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

    def train(self: _Self, mode: bool = True) -> _Self:
        """Set the mode as `nn.Module.train` does, and forget the composed weight."""
        self._cached = self._ran = None
        return super().train(mode)

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

    @property
    def matrix(self) -> tuple[int, ...]:
        """The shape (out, in, *kernel) of the weight as the algebra sees it."""
        _, n_out, n_in = self.A.shape
        rows, columns, *kernel = self.S.shape[1:]
        return n_out * rows, n_in * columns, *kernel

    def _fan_in(self) -> int:
        """The inputs of one output as torch counts them: second axis of the stored weight times kernel."""
        out, columns, *kernel = self.matrix
        return (out if self.transposed_weight else columns) * math.prod(kernel)

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in "UV":  # modules pickled before there was a low-rank term
            if not hasattr(self, name):
                self.register_parameter(name, None)

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_cached": None, "_decided": None, "_ran": None}


def _applied(fn: Any, tensor: Tensor) -> Tensor:
    """`fn(tensor)`; torch's conversion to channels_last takes every tensor of five axes for a volume's."""
    try:
        changed: Tensor = fn(tensor)
    except RuntimeError:
        if tensor.dim() != 5:
            raise
        changed = fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    return changed


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


def _shapes(factors: Factors) -> str:
    named = zip("ASUV", factors, strict=True)
    return ", ".join(f"{name} {tuple(factor.shape)}" for name, factor in named if factor is not None)


def prefers_dense(order: Order, matrix: tuple[int, ...]) -> bool:
    """Whether a product with the composed weight is better: it multiplies far less than the factors do."""
    dense = math.prod(matrix)
    return products.multiplications(order, matrix[0], dense // matrix[0]) > _TOO_MANY * dense


def product_layout(S: nn.Parameter, order: Order, matrix: tuple[int, ...]) -> nn.Parameter:
    """The same shape, with memory ordered so that what the product reads is a view of it."""
    if products.filters_first(order, matrix[0], math.prod(matrix[1:])):
        return S
    return nn.Parameter(S.detach().transpose(0, 1).contiguous().transpose(0, 1))
