"""A number of the original and of the network made from it, or of any two networks side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_Number = TypeVar("_Number", bound=float, covariant=True)


@dataclass(frozen=True)
class Change(Generic[_Number]):
    """A number of the first and of the second network; None where it was not measured."""

    before: _Number | None = None
    after: _Number | None = None

    @property
    def kept(self) -> float | None:
        """after/before: what part of it is left."""
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def ratio(self) -> float | None:
        """before/after: how many times smaller the second one is."""
        return self.before / self.after if self.before is not None and self.after else None


UNMEASURED: Change[Any] = Change()
