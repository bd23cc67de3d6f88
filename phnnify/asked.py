"""What was asked for about the form and the size of weights, checked for sense before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from phnnify.algebras import Algebra
from phnnify.budget import Budget, parse_budget
from phnnify.constants import read_algebra
from phnnify.errors import UsageError
from phnnify.plan import PlanOptions

FIT, FRESH = "fit", "fresh"
"""Where weights start: near those of the original, or drawn anew."""
_N, _MIN_SHARE = 4, 0.005


@dataclass(frozen=True)
class Form:
    """The papers' part of what was asked for: the dimension, whose algebra it is, and where weights start."""

    n: int
    algebra: Algebra | None
    share_algebra: bool
    fresh: bool

    @classmethod
    def read(cls, n: int | None, algebra: str | Algebra | None, share: bool, init: str, **data: Any) -> Form:
        """From the arguments of a verb; `data` are those that a fresh network has no use for.

        Raises:
            UsageError: one cannot mean anything, or they exclude each other.
            FileError: the file of an algebra cannot be read.
        """
        if init not in (FIT, FRESH):
            raise UsageError(f"--init {init!r} is neither {FIT} nor {FRESH}")
        for option, given in data.items():
            if init == FRESH and given is not None:
                raise UsageError(
                    f"--{option.removesuffix('_data')} has no meaning with --init {FRESH}: nothing is fitted",
                    hint="convert first, then train the network, or `phnnify distill` it from the original",
                )
        fixed = None if algebra is None else read_algebra(algebra, n)
        if fixed and share:
            raise UsageError("--share-algebra has no meaning with --algebra, which no weight learns")
        return cls(n or (fixed.n if fixed else _N), fixed, share, init == FRESH)

    @property
    def of_papers(self) -> bool:
        """Whether all weights have order n with n terms."""
        return self.fresh or self.share_algebra or self.algebra is not None

    def plan_options(
        self,
        include: Sequence[str],
        exclude: Sequence[str],
        min_share: float | None,
        low_rank: float | None,
        embeddings: bool,
    ) -> PlanOptions:
        """These, with what decides which weights have the form."""
        if min_share is None:
            min_share = 0.0 if self.fresh else _MIN_SHARE
        return PlanOptions(
            self.n, tuple(include), tuple(exclude), min_share, low_rank, embeddings, self.algebra,
            self.share_algebra, self.fresh,
        )  # fmt: skip


@dataclass(frozen=True)
class Sizing:
    """What was asked for: the best form of each weight, a share for low rank, a budget, or a largest drop."""

    auto: bool = False
    share: float = 0.0
    budget: Budget | None = None
    drop: float | None = None

    @property
    def low_rank(self) -> float | None:
        """The share that a plan is made with; None where forms are chosen after it."""
        return None if self.auto or self.budget or self.drop else self.share

    @classmethod
    def read(
        cls,
        low_rank: str | float | None,
        budget: str | None,
        max_drop: str | None,
        *,
        has_data: bool,
        form: Form,
    ) -> Sizing:
        """From the arguments of a verb.

        Raises:
            UsageError: one cannot mean anything, they exclude each other, or need data.
        """
        if budget and max_drop:
            raise UsageError("--budget and --max-drop exclude each other")
        if (budget or max_drop) and low_rank is not None:
            raise UsageError("--low-rank has no meaning with --budget or --max-drop, which choose the forms")
        if form.of_papers:
            if given := "--budget" if budget else "--max-drop" if max_drop else "":
                raise UsageError(
                    f"{given} chooses forms, where a given algebra or a fresh network has the papers'"
                )
            if low_rank not in (None, "off"):
                raise UsageError(
                    f"--low-rank {low_rank} has no meaning with a given algebra or a fresh network",
                    hint="they have the papers' form, --low-rank off",
                )
            return cls()
        asked = {"--budget": budget, "--max-drop": max_drop, "--low-rank auto": low_rank == "auto"}
        needy = [option for option, given in asked.items() if given]
        if needy and not has_data:
            raise UsageError(f"{needy[0]} needs --data", hint="a few hundred inputs, no labels needed")
        if budget:
            return cls(budget=parse_budget(budget))
        if max_drop:
            return cls(drop=_percentage(max_drop, "--max-drop"))
        if low_rank is None or low_rank == "auto":
            return cls(auto=has_data)
        return cls(share=0.0 if low_rank == "off" else _share(low_rank))


def _percentage(text: str, option: str) -> float:
    try:
        value = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise UsageError(f"{option} {text!r} is no percentage above 0 and below 100", hint="such as 1%")
    return value


def _share(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--low-rank {text!r} is not auto, off or a number from 0 to 1") from None
