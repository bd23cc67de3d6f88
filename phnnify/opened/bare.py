"""Weights that a module uses without a layer: `F.linear(x, self.w)`, `x @ self.w`, `einsum`, `F.conv2d`.

The module keeps its class and its forward. Its parameter `w` goes into a layer of its own, a child of the
module; and `self.w` becomes a tensor in name only (`Held`), which hands each product with it to that layer,
and stands for the layer's weight in everything else. So the layer can be watched, fitted and replaced.

The layer's name says how the weight is used:

- `w_linear`: its first axis are the outputs, the others what is summed over: `F.linear(x, w)`, `x @ w.T`;
- `w_matmul`: it is summed over the first axis: `x @ w`, `einsum("bi,ihd->bhd", x, w)`;
- `w_conv`: a convolution's (out, in, *kernel), of one group;
- `w_table`: rows are looked up: `F.embedding(ids, w)`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnnify.opened.linear import linear_of, parameter_like

LINEAR, MATMUL, CONV, TABLE = "linear", "matmul", "conv", "table"
FORMS = (LINEAR, MATMUL, CONV, TABLE)
_CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d,
}  # fmt: skip
_PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})
_TURNS = frozenset({Tensor.T.__get__, Tensor.mT.__get__, Tensor.t, torch.t})  # type: ignore[attr-defined]
_TRANSPOSES = frozenset({Tensor.transpose, torch.transpose})


class Held(Tensor):
    """A weight in name only: its values are those of a layer, which takes part in products in its place.

    Attributes:
        layer: A Linear layer of (outputs, inputs), a convolution, or an embedding.
        form: One of FORMS.
        sizes: The shape of the weight that it stands for.
        turned: Whether it is the transpose of that.
    """

    layer: nn.Module
    form: str
    sizes: tuple[int, ...]
    turned: bool

    @classmethod
    def of(cls, layer: nn.Module, form: str, sizes: Sequence[int], turned: bool = False) -> Held:
        """The weight (sizes) that a layer holds."""
        held: Held = torch.empty(tuple(sizes), device="meta").as_subclass(cls)
        vars(held).update(layer=layer, form=form, sizes=tuple(sizes), turned=turned)
        return held

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let the layer take part, or its weight where it cannot."""
        kwargs = kwargs or {}
        if is_turn(func, args):
            held: Held = args[0]
            return cls.of(held.layer, held.form, held.sizes, not held.turned)
        use = use_of(func, args, kwargs)
        if use is not None and use.form == use.held.form:
            return use.product()
        return plainly(func, args, kwargs)

    def composed(self) -> Tensor:
        """The values."""
        weight: Any = self.layer.weight
        weight = (weight.t() if self.form == MATMUL else weight).reshape(self.sizes)
        return weight.t() if self.turned else weight  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return type(self).of(copy.deepcopy(self.layer, memo), self.form, self.sizes, self.turned)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held.of, (self.layer, self.form, self.sizes, self.turned)


class Use(NamedTuple):
    """A product with a held weight, as its layer would take part in it.

    Attributes:
        held: The weight.
        form: How it is used.
        x: What it is multiplied with.
        bias: What is added, if anything: (outputs,), or what broadcasts to the product.
        summed: How many of the last axes of x are summed over.
        outputs: The axes that come in their place.
        settings: What a convolution is told, by name.
    """

    held: Held
    form: str
    x: Any
    bias: Any = None
    summed: int = 1
    outputs: tuple[int, ...] = ()
    settings: Mapping[str, Any] = {}

    def product(self) -> Any:
        """What the layer gives."""
        layer = self.held.layer
        vars(layer).update(self.settings)
        y = layer(self.x.flatten(-self.summed) if self.summed > 1 else self.x)
        if len(self.outputs) > 1:
            y = y.unflatten(-1, self.outputs)
        if self.bias is None:
            return y
        return y + (self.bias.view(-1, *(1,) * (layer.weight.dim() - 2)) if self.form == CONV else self.bias)  # type: ignore[operator]


def hold_(module: nn.Module, parameter: str, form: str) -> None:
    """Put a parameter of a module into a layer of its own, `parameter_form`, in place.

    Args:
        module: The parameter's owner.
        parameter: Its name there, of two or more axes.
        form: One of FORMS.
    """
    weight = module.get_parameter(parameter)
    layer: Any
    if form == CONV:
        out, columns, *kernel = weight.shape
        convolution: Any = list(_CONVOLUTIONS.values())[len(kernel) - 1]
        layer = convolution(columns, out, tuple(kernel), bias=False, device="meta")
        layer.weight = weight
    elif form == TABLE:
        rows, width = weight.shape
        layer = nn.Embedding(rows, width, device="meta")
        layer.weight = weight
    elif form == LINEAR and weight.dim() == 2:
        layer = linear_of(weight, None)
    else:
        matrix = weight.flatten(1)
        matrix = matrix if form == LINEAR else matrix.t().contiguous()
        layer = linear_of(parameter_like(weight, matrix), None)
    delattr(module, parameter)
    module.add_module(f"{parameter}_{form}", layer.train(module.training))
    vars(module)[parameter] = Held.of(layer, form, weight.shape)


def bare_parameter(model: nn.Module, name: str) -> tuple[nn.Module, str, str] | None:
    """What a layer's name says: the module, its parameter, and the form; None where there is none so."""
    path, _, last = name.rpartition(".")
    parameter, _, form = last.rpartition("_")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    return (module, parameter, form) if form in FORMS and parameter in module._parameters else None


def plainly(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A function of tensors, given the values of held weights."""

    def value(given: Any) -> Any:
        if isinstance(given, (list, tuple)) and any(isinstance(part, Held) for part in given):
            return type(given)(map(value, given))
        return given.composed() if isinstance(given, Held) else given

    with torch._C.DisableTorchFunctionSubclass():
        return func(*map(value, args), **{name: value(given) for name, given in kwargs.items()})


def is_turn(func: Any, args: Sequence[Any]) -> bool:
    """Whether it is the transpose of a held matrix that is asked for."""
    if not args or not isinstance(args[0], Held) or len(args[0].sizes) != 2:
        return False
    return func in _TURNS or (func in _TRANSPOSES and sorted(axis % 2 for axis in args[1:]) == [0, 1])


def use_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Use | None:
    """How a function of tensors uses a held weight; None where a layer could not take part in it so."""
    if func is torch.einsum:
        return _einsum(*args) if not kwargs else None
    reader = _READERS.get(func)
    if reader is None:
        return None
    names, read = reader
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    held = given.pop("weight", None)
    others_are_plain = not any(isinstance(value, Held) for value in given.values())
    known = others_are_plain and given.keys() <= set(names) and "input" in given
    return read(held, given) if known and isinstance(held, Held) else None


def _lookup(held: Held, given: Mapping[str, Any]) -> Use | None:
    """Rows of a table, unless it is a special one (the row of padding_idx matters to gradients only)."""
    special = any(given.get(name) for name in ("max_norm", "scale_grad_by_freq", "sparse"))
    plain = not (special or held.turned) and len(held.sizes) == 2
    return Use(held, TABLE, given["input"]) if plain else None


def _linear(held: Held, given: Mapping[str, Any]) -> Use | None:
    return _flat(held, given, rows_are_outputs=True)


def _product(held: Held, given: Mapping[str, Any]) -> Use | None:
    return _flat(held, given, rows_are_outputs=False)


def _flat(held: Held, given: Mapping[str, Any], *, rows_are_outputs: bool) -> Use | None:
    if len(held.sizes) != 2:
        return None
    form = LINEAR if rows_are_outputs != held.turned else MATMUL
    return Use(held, form, given["input"], given.get("bias"))


def _convolution(held: Held, given: Mapping[str, Any]) -> Use | None:
    axes = len(held.sizes) - 2
    settings = {name: given.get(name, default) for name, default in _SETTINGS.items()}
    if settings.pop("groups") != 1 or given["input"].dim() != axes + 2:
        return None
    settings = {
        name: (value,) * axes if isinstance(value, int) else value for name, value in settings.items()
    }
    return Use(held, CONV, given["input"], given.get("bias"), settings=settings)


def _einsum(equation: Any, *operands: Any) -> Use | None:
    """Of two, one the weight: x's last letters are summed over, and the outputs come in their place."""
    if not isinstance(equation, str) or len(operands) != 2 or isinstance(operands[0], (list, tuple)):
        return None
    left, arrow, result = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if isinstance(operands[0], Held):
        operands, letters = operands[::-1], letters[::-1]
    x, held = operands
    if not arrow or len(letters) != 2 or not isinstance(held, Held) or held.turned or isinstance(x, Held):
        return None
    axes, first, rest = letters[1], letters[1][:1], letters[1][1:]
    if "." in axes or len(set(axes)) != len(held.sizes):
        return None
    for form, outputs, summed in ((LINEAR, first, rest), (MATMUL, rest, first)):
        before = letters[0].removesuffix(summed)
        kept = before.replace("...", "")
        apart = len(set(kept)) == len(kept) and not set(kept) & set(axes)
        if summed and letters[0] == before + summed and result == before + outputs and apart:
            sizes = held.sizes[:1] if form == LINEAR else held.sizes[1:]
            return Use(held, form, x, summed=len(summed), outputs=tuple(sizes))
    return None


_LOOKUPS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_SETTINGS: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_Reader = tuple[tuple[str, ...], Callable[[Held, Mapping[str, Any]], "Use | None"]]
_READERS: dict[Any, _Reader] = {
    F.embedding: (("input", "weight", *_LOOKUPS), _lookup),
    F.linear: (("input", "weight", "bias"), _linear),
    torch.addmm: (("bias", "input", "weight"), _product),
    **dict.fromkeys(_PRODUCTS, (("input", "weight"), _product)),
    **dict.fromkeys(_CONVOLUTIONS, (("input", "weight", "bias", *_SETTINGS), _convolution)),
}
