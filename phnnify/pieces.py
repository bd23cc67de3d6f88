"""A network without data and a plan → pieces of its checkpoint, each converted on its own.

A piece is one module whose weights are converted (an `nn.Linear`, or one that hides weights and is opened),
or one tensor that stays. It knows the names of the tensors that it needs and of those that it gives, so that
no more than one module of the network has to be in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.algebra import Factors, Order
from phnnify.errors import ModelError
from phnnify.fit import fit_weights
from phnnify.measure import owners, submodule
from phnnify.opened import open_modules
from phnnify.plan import Plan
from phnnify.rewrite import dense_weights, rewrite
from phnnify.weights import tied_names

Source = Callable[[str], Tensor]
"""Gives a tensor of the checkpoint by its name there."""


@dataclass
class Piece:
    """What one module, or one tensor, needs from a checkpoint and gives to another.

    Attributes:
        needs: By name within the module (of a tensor: ''), the name in the checkpoint.
        gives: By name within the converted module (of a tensor: ''), the name in the converted checkpoint.
        entries: How many numbers it gives.
        module: The module, without data; None for a tensor that stays.
        orders: By name within the opened module, the order of each weight.
        names: Of these, the names in the whole network.
    """

    needs: dict[str, str]
    gives: dict[str, str] = field(default_factory=dict)
    entries: int = 0
    module: nn.Module | None = None
    orders: dict[str, Order] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def convert(self, source: Source) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What it gives, by name in the converted checkpoint, and the error of each weight.

        Raises:
            ModelError: a weight holds values that are not finite.
        """
        tensors = {local: source(name) for local, name in self.needs.items()}
        if self.module is None:
            # Copies: what was read may hold on to the whole file that it is from.
            return {name: tensors[local].clone() for local, name in self.gives.items()}, {}
        self.module.load_state_dict(tensors, assign=True)
        weights = dense_weights(open_modules(self.module), self.orders)
        fits = fit_weights({self.names[k]: w for k, w in weights.items()}, self._named_orders())
        factors = {local: fits[name].factors for local, name in self.names.items()}
        state = rewrite(self.module, factors).state_dict()
        self.module.to("meta")  # what it gave holds the numbers now
        given = {name: state[local].contiguous() for local, name in self.gives.items()}
        return given, {name: fit.weight_error for name, fit in fits.items()}

    def _named_orders(self) -> dict[str, Order]:
        return {self.names[local]: order for local, order in self.orders.items()}


def pieces_of(model: nn.Module, plan: Plan, stored: Collection[str]) -> list[Piece]:
    """The pieces of a network, in the order of its parameters.

    Args:
        model: Without data (on the meta device).
        plan: Which weights are converted.
        stored: The names of the tensors in its checkpoint.

    Raises:
        ModelError: tensors are missing.
    """
    find = _finder(model, stored)
    opened = open_modules(model)
    units: dict[str, Piece] = {}
    for name, order in plan.conversions.items():
        for owner in owners(opened, name):
            path = _closed_path(model, opened, owner)
            module = model.get_submodule(path)
            if path not in units:
                needs = {local: find(f"{path}.{local}".removeprefix(".")) for local in module.state_dict()}
                units[path] = Piece(needs, module=module)
            local = "weight" if owner in (path, "weight") else owner[len(path) :].removeprefix(".")
            _check(open_modules(module), local, owner)
            units[path].orders[local], units[path].names[local] = order, name
    pieces: dict[int, Piece] = {}
    for group, tensor in _converted_groups(model, plan):
        found = [(unit, name) for name in group for unit in ("", *_prefixes(name)) if unit in units]
        if found:
            unit, name = found[0]
            piece, local = units[unit], name[len(unit) :].removeprefix(".")
        else:
            piece, local = Piece({"": find(group[0])}), ""
        piece.gives[local] = group[0]
        piece.entries += tensor.numel()
        pieces[id(piece)] = piece
    return list(pieces.values())


def _converted_groups(model: nn.Module, plan: Plan) -> Iterator[tuple[list[str], Tensor]]:
    """The names of each tensor of the converted network, tied ones together, and the tensor, without data."""
    opened = open_modules(model)
    weights = dense_weights(opened, plan.conversions)
    converted = rewrite(model, {name: _empty(weights[name], o) for name, o in plan.conversions.items()})
    state: Mapping[str, Tensor] = converted.state_dict()
    for group in tied_names(converted):
        yield group, state[group[0]]


def _empty(weight: Tensor, order: Order) -> Factors:
    """Factors without data."""
    out, columns, *kernel = weight.shape
    make: dict[str, Any] = {"dtype": weight.dtype, "device": "meta"}
    A = torch.empty(order.terms, order.n_out, order.n_in, **make)
    S = torch.empty(order.terms, out // order.n_out, columns // order.n_in, *kernel, **make)
    if not order.rank:
        return Factors(A, S)
    U, V = torch.empty(out, order.rank, **make), torch.empty(order.rank, columns, *kernel, **make)
    return Factors(A, S, U, V)


def _closed_path(model: nn.Module, opened: nn.Module, owner: str) -> str:
    """The module that has a layer in it once it is opened, or is that layer."""
    if submodule(opened, owner) is opened:
        return ""
    for path in ("", *_prefixes(owner)):
        if type(model.get_submodule(path)) is not type(opened.get_submodule(path)):
            return path
    return owner


def _check(opened: nn.Module, local: str, owner: str) -> None:
    """A module may be opened in another way with nothing around it, as attention to other sequences is."""
    try:
        submodule(opened, local)
    except AttributeError:
        raise ModelError(
            f"{owner} cannot be converted apart from what is around it",
            hint=f"leave --stream out, or --exclude {owner!r}",
        ) from None


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _finder(model: nn.Module, stored: Collection[str]) -> Callable[[str], str]:
    """Gives the name in the checkpoint for a name in the network: with, or without, that of its base.

    Raises:
        ModelError: tensors are missing.
    """
    base = f"{getattr(model, 'base_model_prefix', '')}."
    ways: list[Callable[[str], str]] = [lambda n: n, lambda n: n.removeprefix(base), lambda n: base + n]
    groups = tied_names(model)
    missing = []
    for way in ways:
        found = {n: way(m) for g in groups for n in g for m in g if way(m) in stored}
        missing.append([group[0] for group in groups if group[0] not in found])
        if not missing[-1]:
            return found.__getitem__
    raise ModelError(
        f"the checkpoint has no {', '.join(min(missing, key=len)[:3])} of {type(model).__name__}",
        hint="transformers may rename or join tensors as it reads: leave --stream out",
    )
