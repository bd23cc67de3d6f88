r"""Algebras by name, and any other: what a fixed `A` holds, and how far a learned one is from them.

An algebra of dimension n multiplies vectors of n numbers. With basis e_0 … e_{n-1} and

    e_r · e_j = Σ_i A_r[i, j] e_i

a weight W = Σ_r A_r ⊗ S_r multiplies from the left, by a matrix (or filter) whose entries are Σ_r S_r e_r,
vectors of n blocks: real parts first, then the first imaginary parts, and so on. This is the layout of the
literature's layers:

- complex: Trabelsi et al. 2018, arXiv 1705.09792, [[R, -I], [I, R]];
- quaternion: Hamilton's product, Gaudet & Maida 2018, arXiv 1712.04604, and Parcollet et al. 2019, arXiv
  1806.04418, [[R, -I, -J, -K], [I, R, -K, J], [J, K, R, -I], [K, -J, I, R]];
- octonion: Cayley-Dickson pairs of quaternions, (a, b)(c, d) = (ac - d*b, da + bc*), so that e1·e2 = e3,
  e1·e4 = e5, e2·e4 = e6, e3·e4 = e7;
- split-complex: j² = 1; tessarine (bicomplex): i² = -1, j² = 1, k = ij = ji, all commute;
- cyclic: e_r·e_j = e_{(r + j) mod n}, circular convolution, for any n;
- real: n = 1, an ordinary weight.

Replacing S_r by Σ_s G[r, s] S_s and A by the inverse transposed leaves W as it is: of a learned A only the
space that its matrices span means anything. `span_distance` compares such spaces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

LEARNED, SHARED = "learned", "shared"
"""Words for weights whose algebra is trained: one of their own, or one for all of the same form."""
_DEPENDENT = 1e-6  # of the largest singular value


@dataclass(frozen=True)
class Algebra:
    """A fixed algebra.

    Attributes:
        name: Such as 'quaternion'.
        constants: A as nested tuples (n, n, n): constants[r][i][j] is the part of e_i in e_r·e_j.

    Raises:
        ValueError: the constants are no such cube of finite numbers, or its matrices are linearly dependent,
            so that filters would be wasted.
    """

    name: str
    constants: tuple[tuple[tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        shape = _shape(self.constants)
        if len(shape) != 3 or len(set(shape)) > 1 or not shape[0]:
            wanted = "constants of shape (n, n, n)"
            raise ValueError(f"the algebra {self.name!r} needs {wanted}, got {shape or 'no numbers'}")
        A = self.A()
        if not A.isfinite().all():
            raise ValueError(f"the algebra {self.name!r} holds values that are not finite")
        values = torch.linalg.svdvals(A.flatten(1))
        if values[-1] <= _DEPENDENT * values[0]:
            raise ValueError(f"the matrices of the algebra {self.name!r} are linearly dependent")

    @classmethod
    def of(cls, name: str, constants: Any) -> Algebra:
        """From a tensor, an array or nested lists."""
        try:
            values = torch.as_tensor(constants, dtype=torch.float64).tolist()
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ValueError(f"the algebra {name!r} needs numbers of shape (n, n, n)") from None
        return cls(name, _nested(values))

    def lists(self) -> Any:
        """The constants as nested lists; inverse of `of`."""
        return torch.tensor(self.constants, dtype=torch.float64).tolist()

    @property
    def n(self) -> int:
        """The dimension."""
        return len(self.constants)

    def A(self, dtype: torch.dtype = torch.float64) -> Tensor:  # noqa: N802
        """The algebra as a layer holds it: (n, n, n)."""
        return torch.tensor(self.constants, dtype=torch.float64).to(dtype)


def _shape(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not values:
        return ()
    inner = {_shape(value) for value in values}
    return (len(values), *inner.pop()) if len(inner) == 1 else ()


def _nested(values: Any) -> Any:
    return tuple(map(_nested, values)) if isinstance(values, list) else values


def _doubled(A: Tensor) -> Tensor:
    """Cayley-Dickson: pairs with (a, b)(c, d) = (a·c - d*·b, d·a + b·c*), where * negates all but e_0."""
    n = len(A)
    star = -torch.ones(n, dtype=A.dtype)
    star[0] = 1
    right = A.transpose(0, 2)  # right[j, i, r]: the part of e_i in e_r·e_j, as a matrix that takes e_r
    double = torch.zeros(2 * n, 2 * n, 2 * n, dtype=A.dtype)
    double[:n, :n, :n] = A  # a·c
    double[:n, n:, n:] = right  # d·a: what a multiplies from the right
    double[n:, n:, :n] = A * star  # b·c*
    double[n:, :n, n:] = -right * star  # -d*·b
    return double


def _cyclic(n: int) -> Tensor:
    return torch.stack([torch.eye(n, dtype=torch.float64).roll(r, 0) for r in range(n)])


def _tessarine() -> Tensor:
    split, complex_numbers = _cyclic(2), _doubled(_cyclic(1))
    return torch.stack([torch.kron(j, i) for j in split for i in complex_numbers])


_REAL = _cyclic(1)
_FIXED: dict[str, Tensor] = {
    "real": _REAL,
    "complex": _doubled(_REAL),
    "split-complex": _cyclic(2),
    "quaternion": _doubled(_doubled(_REAL)),
    "tessarine": _tessarine(),
    "octonion": _doubled(_doubled(_doubled(_REAL))),
}
CYCLIC = "cyclic"
NAMES = (*_FIXED, CYCLIC)
"""The algebras that have a name; the last has any dimension."""
LARGEST_CYCLIC = 64
"""Up to which that has a name: its constants are written out, n³ numbers."""


@lru_cache
def named_algebra(name: str, n: int | None = None) -> Algebra:
    """An algebra of `NAMES`.

    Args:
        name: One of them.
        n: Its dimension; may be left out where the name says it.

    Raises:
        ValueError: there is no such algebra of that dimension.
    """
    if name == CYCLIC and n and n > LARGEST_CYCLIC:
        raise ValueError(f"the cyclic algebra of dimension {n} is too large; {LARGEST_CYCLIC} is the most")
    if name == CYCLIC and n:
        return Algebra.of(name, _cyclic(n))
    if name not in _FIXED:
        raise ValueError(f"there is no algebra {name!r} of dimension {n}; there are {', '.join(NAMES)}")
    A = _FIXED[name]
    if n not in (None, len(A)):
        raise ValueError(f"the {name} algebra has dimension {len(A)}, not {n}")
    return Algebra.of(name, A)


def own_algebra(name: str, constants: Any) -> Algebra:
    """A user's algebra.

    Raises:
        ValueError: the name means something else, or the constants are not those of an algebra.
    """
    if name in (LEARNED, SHARED, *NAMES):
        raise ValueError(f"an algebra of one's own cannot be called {name!r}")
    return Algebra.of(name, constants)


def algebras_of(n: int) -> tuple[Algebra, ...]:
    """All of `NAMES` that have dimension n."""
    names = [name for name, A in _FIXED.items() if len(A) == n]
    return tuple(named_algebra(name, n) for name in [*names, *([CYCLIC] if n <= LARGEST_CYCLIC else [])])


def stacked(A: Tensor, parts: int) -> Tensor:
    """The algebra of a weight whose rows are several products of one, such as a recurrent layer's gates.

    Σ_kr (e_k ⊗ A_r) ⊗ S_kr has in its k-th part of rows Σ_r A_r ⊗ S_kr: each part has filters of its own.

    Args:
        A: (n, n, n).
        parts: How many.

    Returns:
        (parts·n, parts·n, n).
    """
    units = torch.eye(parts, dtype=A.dtype, device=A.device)
    return torch.einsum("kp,rij->krpij", units, A).reshape(parts * len(A), parts * A.shape[1], A.shape[2])


def unstacked(A: Tensor) -> Tensor:
    """The algebra that each part has where A is a stack of it; else A itself."""
    n = A.shape[2]
    parts = A.shape[1] // n
    base = A[:n, :n]
    same = A.shape == (parts * n, parts * n, n) and torch.equal(stacked(base, parts), A)
    return base if same else A


def recognised(A: Tensor) -> Algebra | None:
    """The algebra of `NAMES` that has exactly these values (n, n, n)."""
    same = (x for x in algebras_of(len(A)) if x.A().shape == A.shape and torch.equal(x.A(A.dtype), A.cpu()))
    return next(same, None)


def span_distance(A: Tensor, B: Tensor) -> float:
    """How far the spaces apart are that two algebras span: sqrt(mean sin² θ) over their principal angles θ.

    0 where each matrix of the one is a combination of the other's, 1 where they are orthogonal. It knows the
    symmetry between terms, and no other: a layer inside a network may also have its components in another
    order or basis than the algebra's. A random space of t matrices of size n × n is at about
    sqrt(1 - t/n²) from any other.

    Args:
        A: (t, n_out, n_in).
        B: The same shape.
    """
    basis = [torch.linalg.svd(x.detach().double().flatten(1), full_matrices=False)[2] for x in (A, B)]
    cosines = torch.linalg.svdvals(basis[0] @ basis[1].mT).clamp_max(1)
    return math.sqrt(max(0.0, 1 - float(cosines.square().mean())))


def random_distance(shape: Sequence[int]) -> float:
    """What `span_distance` is for a random space of this shape (t, n_out, n_in)."""
    return math.sqrt(1 - shape[0] / (shape[1] * shape[2]))


def aligned(A: Tensor, B: Tensor) -> Tensor:
    """The combination of the matrices of A that is nearest to B: G·A with the best G, in B's shape."""
    a, b = A.detach().double().flatten(1), B.detach().double().flatten(1)
    nearest: Tensor = b @ torch.linalg.pinv(a) @ a
    return nearest.view(B.shape)
