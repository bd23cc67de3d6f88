"""Weights that a module uses without a layer: `F.linear(x, self.w)`, `x @ self.w`, `einsum`, `F.conv2d`.

The module keeps its class and its forward. Its parameter `w` goes into a layer of its own, a child of the
module; and `self.w` becomes a tensor in name only (`Held`), which hands each product with it to that layer,
and stands for the layer's weight in everything else. So the layer can be watched, fitted and replaced.

The layer's name says how the weight is used:

- `w_linear`: its first axis are the outputs, the others what is summed over: `F.linear(x, w)`, `x @ w.T`;
- `w_matmul`: it is summed over the first axis: `x @ w`, `einsum("bi,ihd->bhd", x, w)`;
- `w_conv`: a convolution's (out, in, *kernel), of one group;
- `w_table`: rows are looked up: `F.embedding(ids, w)`;
- `w_linears`, `w_matmuls`: several matrices of one of the first two kinds along a first axis, such as those
  of experts, each in a layer of its own, `w_linears.0` and so on: `F.linear(x, w[e])`, `torch.bmm(x, w)`,
  `for u in w: F.linear(x, u)`, `einsum("eti,eoi->eto", x, w)`, `F.grouped_mm(x, w, offs=ends)`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from phnnify.opened.several import each_of, in_groups, routed

LINEAR, MATMUL, CONV, TABLE = "linear", "matmul", "conv", "table"
LINEARS, MATMULS = "linears", "matmuls"
FORMS = (LINEAR, MATMUL, CONV, TABLE, LINEARS, MATMULS)
SEVERAL = {LINEAR: LINEARS, MATMUL: MATMULS}
CONVOLUTIONS: dict[Any, type[nn.Module]] = {
    F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d,
}  # fmt: skip
_PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})
_TURNS = frozenset({Tensor.T.__get__, Tensor.mT.__get__, Tensor.t, torch.t})  # type: ignore[attr-defined]
_TRANSPOSES = frozenset({Tensor.transpose, torch.transpose})
_STACK_TURNS = frozenset({Tensor.mT.__get__})  # type: ignore[attr-defined]
_CHOICES = frozenset({Tensor.__getitem__, Tensor.select, torch.select})
_SPLITS = frozenset({Tensor.unbind, torch.unbind})  # also of a loop over them
_KINDS = frozenset({Tensor.dtype.__get__, Tensor.device.__get__})  # type: ignore[attr-defined]
_SIZES = frozenset(
    {Tensor.shape.__get__, Tensor.ndim.__get__, Tensor.dim, Tensor.size, Tensor.__len__}  # type: ignore[attr-defined]
)


class Held(Tensor):
    """A weight in name only: its values are those of a layer, which takes part in products in its place.

    Attributes:
        layer: A Linear layer of (outputs, inputs), a list of such, a convolution, or an embedding.
        form: One of FORMS.
        sizes: The shape of the weight that it stands for.
        turned: Whether it is the transpose of that, or of each of its matrices.
    """

    layer: nn.Module
    form: str
    sizes: tuple[int, ...]
    turned: bool

    @classmethod
    def of(cls, layer: nn.Module, form: str, sizes: Sequence[int], turned: bool = False) -> Held:
        """The weight (sizes) that a layer holds."""
        with _disable_current_modes():  # a trace would make a tensor of its own
            empty = torch.empty(tuple(sizes), device="meta")
            held: Held = (empty.mT if turned else empty).as_subclass(cls)
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
        if is_choice(func, args):
            return args[0].matrix(args[-1])
        if is_split(func, args, kwargs):
            return tuple(args[0].matrix(i) for i in range(args[0].sizes[0]))
        if is_fact(func):  # composing would be much work for that
            return args[0].fact(func, *args[1:], **kwargs)
        use = use_of(func, args, kwargs)
        if use is not None and use.form == use.held.form:
            return use.product()
        return plainly(func, args, kwargs)

    @property
    def several(self) -> bool:
        """Whether its first axis counts matrices."""
        return self.form in SEVERAL.values()

    def fact(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """What a function says of the sizes or the kind of the weight."""
        layer: Any = self.layer
        known = next(layer.parameters(), None) if func in _KINDS else self
        with torch._C.DisableTorchFunctionSubclass():
            return func(layer.weight if known is None else known, *args, **kwargs)

    def matrix(self, index: Any) -> Held:
        """One of several."""
        layers: Any = self.layer
        form = LINEAR if self.form == LINEARS else MATMUL
        return type(self).of(routed(layers[int(index)]), form, self.sizes[1:], self.turned)

    def composed(self) -> Tensor:
        """The values."""
        layer: Any = self.layer
        weight = torch.stack([each.weight for each in layer]) if self.several else layer.weight
        weight = (weight.mT if self.form in (MATMUL, MATMULS) else weight).reshape(self.sizes)
        return weight.mT if self.turned else weight

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
        axis: Of several matrices: the axis of x that counts them.
        ends: Of several matrices in place of that: where the rows of each end, (matrices,).
    """

    held: Held
    form: str
    x: Any
    bias: Any = None
    summed: int = 1
    outputs: tuple[int, ...] = ()
    settings: Mapping[str, Any] = {}
    axis: int = 0
    ends: Any = None

    def product(self) -> Any:
        """What the layer gives."""
        layer: Any = self.held.layer
        if self.held.several and self.ends is None:
            return each_of(layer, self.x, self.axis)
        if self.held.several:
            return in_groups(layer, self.x, self.ends)
        vars(layer).update(self.settings)
        y = layer(self.x.flatten(-self.summed) if self.summed > 1 else self.x)
        if len(self.outputs) > 1:
            y = y.unflatten(-1, self.outputs)
        if self.bias is None:
            return y
        return y + (self.bias.view(-1, *(1,) * (layer.weight.dim() - 2)) if self.form == CONV else self.bias)


def plainly(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A function of tensors, given the values of held weights."""

    def value(given: Any) -> Any:
        if isinstance(given, (list, tuple)) and any(isinstance(part, Held) for part in given):
            return type(given)(map(value, given))
        return given.composed() if isinstance(given, Held) else given

    with torch._C.DisableTorchFunctionSubclass():
        return func(*map(value, args), **{name: value(given) for name, given in kwargs.items()})


def needs_no_values(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a held weight answers by itself: turned, as one or each of its matrices, or with a fact."""
    return is_turn(func, args) or is_choice(func, args) or is_split(func, args, kwargs) or is_fact(func)


def is_fact(func: Any) -> bool:
    """Whether it is asked how large a weight is, what kind of numbers it has, and where."""
    return func in _SIZES or func in _KINDS


def is_turn(func: Any, args: Sequence[Any]) -> bool:
    """Whether it is the transpose of a held matrix, or of each of several, that is asked for."""
    if not args or not isinstance(args[0], Held):
        return False
    axes = len(args[0].sizes)
    if not (axes == 2 or (axes == 3 and args[0].several)):
        return False
    turns = _TURNS if axes == 2 else _STACK_TURNS
    return func in turns or (
        func in _TRANSPOSES and sorted(axis % axes for axis in args[1:]) == [axes - 2, axes - 1]
    )


def is_choice(func: Any, args: Sequence[Any]) -> bool:
    """Whether it is one of several held matrices that is asked for, by its number."""
    if func not in _CHOICES or not isinstance(args[0], Held) or any(axis != 0 for axis in args[1:-1]):
        return False
    held, index = args[0], args[-1]
    if not held.several or len(held.sizes) != 3:
        return False
    if isinstance(index, Tensor):
        number = index.dim() == 0 and index.dtype in (torch.int64, torch.int32)
        return number and not torch.compiler.is_compiling()
    return type(index) is int


def is_split(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether it is each of several held matrices that is asked for."""
    if func not in _SPLITS or kwargs or not isinstance(args[0], Held):
        return False
    return args[0].several and len(args[0].sizes) == 3 and all(axis == 0 for axis in args[1:])


def use_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Use | None:
    """How a function of tensors uses a held weight; None where a layer could not take part in it so."""
    if func is torch.einsum:
        return _einsum(*args) if not kwargs else None
    reader = _READERS.get(func) or (_GROUPED_READER if _is_grouped(func) else None)
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


def _batched(held: Held, given: Mapping[str, Any]) -> Use | None:
    """A matrix for each matrix; those of x may have more axes in front."""
    x = given["input"]
    if len(held.sizes) != 3 or x.dim() < 3 or x.shape[-3] != held.sizes[0]:
        return None
    return Use(held, LINEARS if held.turned else MATMULS, x, axis=x.dim() - 3)


def _is_grouped(func: Any) -> bool:
    """Whether it is the fallback that transformers has, `torch.ops.transformers.grouped_mm_fallback`."""
    return getattr(func, "__name__", "").partition(".")[0] == "grouped_mm_fallback"


def _grouped(held: Held, given: Mapping[str, Any]) -> Use | None:
    """Rows of x in groups, of which the first meets the first matrix and so on."""
    x, ends = given["input"], given.get("offs")
    plain = given.get("bias") is None and given.get("out_dtype") is None
    if not plain or ends is None or len(held.sizes) != 3 or x.dim() != 2:
        return None
    return Use(held, LINEARS if held.turned else MATMULS, x, ends=ends)


def _flat(held: Held, given: Mapping[str, Any], *, rows_are_outputs: bool) -> Use | None:
    if len(held.sizes) == 3 and not rows_are_outputs and given.get("bias") is None:
        return _batched(held, given)
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
    return _einsum_of_several(held, x, letters[0], axes, result)


def _einsum_of_several(held: Held, x: Tensor, given: str, axes: str, result: str) -> Use | None:
    """Such as eti,eoi->eto: a letter that all have counts the matrices."""
    if len(axes) != 3 or len(set(given)) != len(given) or "." in given:
        return None
    for form, outputs, summed in ((LINEARS, axes[1], axes[2]), (MATMULS, axes[2], axes[1])):
        before = given.removesuffix(summed)
        if given == before + summed and axes[0] in before and result == before + outputs:
            return Use(held, form, x, axis=before.index(axes[0])) if outputs not in given else None
    return None


_LOOKUPS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_SETTINGS: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_Reader = tuple[tuple[str, ...], Callable[[Held, Mapping[str, Any]], "Use | None"]]
_READERS: dict[Any, _Reader] = {
    F.embedding: (("input", "weight", *_LOOKUPS), _lookup),
    F.linear: (("input", "weight", "bias"), _linear),
    torch.addmm: (("bias", "input", "weight"), _product),
    torch.bmm: (("input", "weight"), _batched),
    Tensor.bmm: (("input", "weight"), _batched),
    **dict.fromkeys(_PRODUCTS, (("input", "weight"), _product)),
    **dict.fromkeys(CONVOLUTIONS, (("input", "weight", "bias", *_SETTINGS), _convolution)),
}
_GROUPED_READER: _Reader = (("input", "weight", "offs", "bias", "out_dtype"), _grouped)
for _function in (getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)):  # newer than 2.6
    if _function is not None:
        _READERS[_function] = _GROUPED_READER
