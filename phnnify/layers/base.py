"""What all PHM layers share: factors in place of a weight, made from and turned into a dense twin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from phnnify import algebra
from phnnify.algebra import Factors, Order

_Self = TypeVar("_Self", bound="PHMLayer")


class _Cached(NamedTuple):
    """A composed weight (out, in, *kernel), and the factors and their versions it was composed from."""

    factors: tuple[Tensor, ...]  # held, so that no other tensor can take their identity
    versions: tuple[tuple[int, ...], ...]
    weight: Tensor


class PHMLayer(nn.Module):
    """What all PHM layers share: factors in place of a weight, made from and turned into a dense twin.

    Attributes:
        A: Parameter (terms, n_out, n_in), the algebra.
        S: Parameter (terms, out/n_out, in/n_in, *kernel), the filters.
        bias: Parameter (out,), or None.
    """

    twin: ClassVar[type[nn.Module]]
    arguments: ClassVar[tuple[str, ...]]  # constructor arguments of the twin that it keeps as attributes
    transposed_weight: ClassVar[bool] = False  # whether the twin stores its weight as (in, out, *kernel)

    A: nn.Parameter
    S: nn.Parameter
    bias: nn.Parameter | None
    _cached: _Cached | None

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
            factors: Factors to use; by default those of `algebra.factorize`.

        Returns:
            A layer with the attributes, bias, dtype, device, training flag and requires_grad of `dense`.

        Raises:
            TypeError: `dense` is not of the twin's type.
            ValueError: the order does not divide the weight, the weight is not finite, or the factors have
                other shapes.
        """
        if type(dense) is not cls.twin:
            raise TypeError(f"{cls.__name__} is made from nn.{cls.twin.__name__}, not {type(dense).__name__}")
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        weight = cls.orient(_parameter(dense, "weight").detach())
        order = _order(weight, n)
        layer._adopt(dense, order, device=weight.device)
        layer._set_factors(factors or algebra.factorize(weight, order))
        layer.bias = _copied(getattr(dense, "bias", None))
        for factor in (layer.A, layer.S):
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

    @property
    def order(self) -> Order:
        """Blocks and terms of the weight."""
        return Factors(self.A, self.S).order

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """The shape of the dense twin's weight."""
        return tuple(self.orient(algebra.compose(self.A.to("meta"), self.S.to("meta"))).shape)

    @property
    def weight(self) -> Tensor:
        """The composed weight, as the dense twin stores it. Gradients flow to the factors.

        In eval mode it is composed once and kept until a factor changes.
        """
        if self.training or not self._cacheable():
            return self._compose()
        factors = self.A, self.S
        versions = tuple((id(factor), factor._version, factor.data_ptr()) for factor in factors)
        if self._cached is None or self._cached.versions != versions:
            self._cached = _Cached(factors, versions, self._compose_once())
        weight = self._cached.weight
        if torch.is_grad_enabled():
            weight = _Reuse.apply(*factors, weight)  # type: ignore[no-untyped-call]
        return self.orient(weight)

    def reset_parameters(self) -> None:
        """Fresh factors: the composed weight has exactly the mean square of a fresh dense weight.

        A fresh dense weight is uniform in ±1/sqrt(fan_in), so its mean square is 1/(3·fan_in). A and S
        are normal, scaled to that, with equal mean squares. The bias is drawn as in the dense layer.
        """
        fan_in = self._fan_in()
        with torch.no_grad():
            for factor in (self.A, self.S):
                nn.init.normal_(factor)
            _rescale_(self.A, self.S, 1 / (3 * fan_in))
            if self.bias is not None:
                nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def train(self: _Self, mode: bool = True) -> _Self:
        """Set the mode as `nn.Module.train` does, and forget the composed weight."""
        self._cached = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """The dense twin's line, and the order."""
        n_out, n_in, terms = self.order.n_out, self.order.n_in, self.order.terms
        described = ", ".join(f"{name}={getattr(self, name)}" for name in self.arguments)
        return f"{described}, bias={self.bias is not None}, order=({n_out}, {n_in}), terms={terms}"

    def _build(self, dense: nn.Module, n: int | Order, device: Any) -> None:
        """What every constructor does once the (meta) dense twin has checked the arguments."""
        super().__init__()
        self._adopt(dense, _order(self.orient(_parameter(dense, "weight")), n), device)
        self.reset_parameters()

    def _adopt(self, dense: nn.Module, order: Order, device: Any) -> None:
        """Take over the fields of a dense twin, with factors and bias allocated but not filled."""
        mine = vars(self).keys()
        vars(self).update({name: value for name, value in vars(dense).items() if name not in mine})
        weight = _parameter(dense, "weight")
        out, columns, *kernel = self.orient(weight).shape
        make = {"dtype": weight.dtype, "device": device}
        self.A = nn.Parameter(torch.empty(order.terms, order.n_out, order.n_in, **make))
        self.S = nn.Parameter(
            torch.empty(order.terms, out // order.n_out, columns // order.n_in, *kernel, **make)
        )
        bias: Tensor | None = getattr(dense, "bias", None)
        self.bias = None if bias is None else nn.Parameter(torch.empty(bias.shape, **make))
        self._cached = None

    def _set_factors(self, factors: Factors) -> None:
        if factors.A.shape != self.A.shape or factors.S.shape != self.S.shape:
            got = f"A {tuple(factors.A.shape)} and S {tuple(factors.S.shape)}"
            raise ValueError(f"factors {got}; needed A {tuple(self.A.shape)} and S {tuple(self.S.shape)}")
        with torch.no_grad():
            self.A.copy_(factors.A)
            self.S.copy_(factors.S)

    def _fan_in(self) -> int:
        """The inputs of one output as torch counts them: second axis of the stored weight times kernel."""
        _, n_out, n_in = self.A.shape
        rows, columns, *kernel = self.S.shape[1:]
        side = rows * n_out if self.transposed_weight else columns * n_in
        return side * math.prod(kernel)

    def _compose(self) -> Tensor:
        return self.orient(algebra.compose(self.A, self.S))

    def _cacheable(self) -> bool:
        """Whether changes of the factors can be seen: not in a trace, nor of tensors put in their place."""
        plain = type(self.A) is nn.Parameter and type(self.S) is nn.Parameter
        return plain and not (torch.compiler.is_compiling() or self.A.is_inference() or self.S.is_inference())

    def _compose_once(self) -> Tensor:
        """The composed weight (out, in, *kernel), free of the caller's autograd and autocast modes."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.S.device.type, enabled=False):
            return algebra.compose(self.A, self.S)

    def _apply(self: _Self, fn: Any, recurse: bool = True) -> _Self:
        self._cached = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_cached": None}


class _Reuse(torch.autograd.Function):
    """`compose` whose value is already known: hands it on, with the gradients of A and S.

    dA_r[i, j] = <dW_ij, S_r> and dS_r = Σ_ij A_r[i, j]·dW_ij, where dW_ij is a block of the gradient.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, S: Tensor, weight: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        A, S = ctx.saved_tensors
        blocks = algebra.rearrange(grads[0], *A.shape[1:])
        return (blocks @ S.flatten(1).t()).t().view_as(A), (A.flatten(1) @ blocks).view_as(S), None


def _order(weight: Tensor, n: int | Order) -> Order:
    """The order for an oriented weight.

    Raises:
        ValueError: an `Order` that does not divide the weight.
    """
    if isinstance(n, int):
        return Order.closest(weight.shape[0], weight.shape[1], n)
    if not n.divides(weight.shape):
        raise ValueError(f"{n} does not divide a weight of shape {tuple(weight.shape)}")
    return n


def _parameter(module: nn.Module, name: str) -> nn.Parameter:
    parameter: nn.Parameter = getattr(module, name)
    return parameter


def _copied(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def _rescale_(A: Tensor, S: Tensor, mean_square: float) -> None:
    """Scale A and S to equal mean squares, and so that the composed weight has the given mean square.

    |W|² = Σ_rs <A_r, A_s>·<S_r, S_s>, which needs no composed weight.
    """
    a, s = A.flatten(1).float(), S.flatten(1).float()
    current = ((a @ a.t()) * (s @ s.t())).sum() / (a.shape[1] * s.shape[1])
    gain = (mean_square / current).sqrt()  # to be shared so that the mean squares become equal
    balance = (s.square().mean() / a.square().mean()).sqrt()
    A.mul_((gain * balance).sqrt())
    S.mul_((gain / balance).sqrt())


def product_layout(S: nn.Parameter) -> nn.Parameter:
    """The same shape, with memory ordered so that (rows, terms·columns) is a view of it."""
    return nn.Parameter(S.detach().transpose(0, 1).contiguous().transpose(0, 1))
