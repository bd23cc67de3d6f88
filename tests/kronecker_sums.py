"""Kronecker sums by torch.kron and NumPy, and strategies that draw their factors."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from phnnify.algebra import Factors, Order

# Rounding of one number of each dtype, with room for sums of a few dozen.
ROUNDING = {torch.float64: 1e-13, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
KERNELS: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3), (3, 3), (1, 2, 2)]


def kron_sum(A: Tensor, S: Tensor, *rest: Tensor | None) -> Tensor:
    """Σ A_r ⊗ S_r with torch.kron, in float64, for every position of the kernel on its own."""
    A, S = A.double(), S.double()
    positions = S.flatten(3) if S.dim() > 3 else S.unsqueeze(3)
    terms = [
        torch.stack([torch.kron(a, s[..., k]) for k in range(s.shape[-1])], -1)
        for a, s in zip(A, positions, strict=True)
    ]
    total = torch.stack(terms).sum(0)
    return total.reshape(*total.shape[:2], *S.shape[3:])


def numpy_rearranged(
    weight: Tensor, n_out: int, n_in: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """R(W), block by block."""
    w = weight.double().numpy()
    p, q = w.shape[0] // n_out, w.shape[1] // n_in
    blocks = [w[i * p : (i + 1) * p, j * q : (j + 1) * q].ravel() for i in range(n_out) for j in range(n_in)]
    return np.stack(blocks)


def random_factors(
    seed: int, order: Order, rows: int, columns: int, kernel: tuple[int, ...], dtype: torch.dtype
) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(order.terms, order.n_out, order.n_in, generator=generator, dtype=torch.float64)
    S = torch.randn(order.terms, rows, columns, *kernel, generator=generator, dtype=torch.float64)
    return Factors(A.to(dtype), S.to(dtype))


orders = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 25)).map(
    lambda o: Order(o[0], o[1], min(o[2], o[0] * o[1]))
)
factors = st.builds(
    random_factors,
    st.integers(0, 2**31),
    orders,
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(KERNELS),
    st.sampled_from(list(ROUNDING)),
)
many = settings(max_examples=60, deadline=None)
