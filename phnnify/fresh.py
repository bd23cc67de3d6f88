"""A network to be trained from scratch: every parameter drawn anew, nothing fitted.

Each module draws its own (`reset_parameters`, inner modules first, as their constructors do), and then the
factors of a weight are drawn so that the weight which they compose has the mean square of the dense weight
just drawn: whatever a layer's own rule is (for a recurrent layer the hidden size counts, for a dense one its
inputs), the converted layer starts with the same variances. PHNNs, arXiv 2110.04176, section III.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phnnify.algebra import Factors, empty_factors
from phnnify.algebras import LEARNED, SHARED
from phnnify.errors import ModelError
from phnnify.layers.fresh import fresh_
from phnnify.measure import copied, first_line
from phnnify.plan import Plan

KEPT = "Not drawn anew, since no module says how: {names}."
_SHOWN = 5  # names in a note


def fresh_network(model: nn.Module, seed: int) -> tuple[nn.Module, list[str]]:
    """The network with all parameters and statistics as its modules' `reset_parameters` leave them.

    Args:
        model: It is not changed.
        seed: For the draws.

    Returns:
        The fresh network, and the names of parameters that no module drew anew: those that hold what they
        held before, and not one and the same number.

    Raises:
        ModelError: it cannot be copied, or a module's `reset_parameters` fails.
    """
    fresh = copied(model, {})
    with _seeded(fresh.parameters(), seed):
        fresh.apply(_reset_)
    old = dict(model.named_parameters())
    return fresh, [name for name, new in fresh.named_parameters() if _is_old(new, old[name])]


def fresh_factors(plan: Plan, weights: Mapping[str, Tensor], seed: int) -> dict[str, Factors]:
    """Factors for each converted weight, drawn so that what they compose has the weight's mean square.

    Args:
        plan: Says the orders, and whose algebra is fixed or shared.
        weights: (out, in, *kernel), by name; only their shapes and mean squares count.
        seed: For the draws.
    """
    drawn: dict[str, Factors] = {}
    shared: dict[tuple[int, ...], Tensor] = {}
    other = torch.randint(1 << 62, (), generator=torch.Generator().manual_seed(seed))  # than the network's
    with _seeded(weights.values(), int(other)):
        for name, order in plan.conversions.items():
            factors, fixed = empty_factors(weights[name], order), plan.fixed(name)
            given = shared.get(factors.A.shape) if fixed is None else fixed
            given = None if plan.algebras[name] == LEARNED else given
            if given is not None:
                factors.A.copy_(given)
            mean_square = float(weights[name].double().square().mean())
            fresh_(factors, mean_square, keep_algebra=given is not None)
            if plan.algebras[name] == SHARED:
                shared[factors.A.shape] = factors.A
            drawn[name] = factors
    return drawn


def _reset_(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if not callable(reset):
        return
    try:
        with torch.no_grad():
            reset()
    except Exception as error:  # whatever the user's own code may raise
        raise ModelError(
            f"{type(module).__name__}.reset_parameters() fails: {first_line(error)}",
            hint="a network to be trained from scratch is drawn by its modules' reset_parameters()",
        ) from None


def _is_old(new: Tensor, old: Tensor) -> bool:
    return new.numel() > 1 and torch.equal(new, old) and bool((new != new.flatten()[0]).any())


@contextmanager
def _seeded(tensors: Iterable[Tensor], seed: int) -> Iterator[None]:
    """Draw for tensors with a seed, and leave everyone else's draws alone."""
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def kept_note(names: list[str]) -> list[str]:
    """What to say about parameters that are not fresh."""
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [KEPT.format(names=", ".join(names[:_SHOWN]) + more)]
