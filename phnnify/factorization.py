"""From a weight to the factors that come nearest to it, in closed form: inverse of `algebra.compose`.

In the rearrangement R (`algebra.rearrange`) Kronecker sums of t terms are matrices of rank t. So the best t
terms for a weight are the leading singular triplets of R(W); the best filters for a given algebra are a
projection; and the best algebra for many weights together are the leading eigenvectors of the sum of their
Gram matrices. Time is linear in the size of a weight, and extra memory bounded.

Van Loan & Pitsianis 1993, "Approximation with Kronecker products".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from phnnify.algebra import Factors, Order, compose, empty_factors, error_ratio, level, rearrange

_CHUNK = 1 << 21  # elements of a weight that are rearranged at a time: bounds the extra memory
_NOISE = (1e-8, 1e-15)  # relative rounding of singular values found with one and with two passes
_MIXED_ROUNDS = 4  # between Kronecker products and the low-rank term


def factorize(weight: Tensor, order: Order) -> Factors:
    """The nearest weight of an order, in closed form: inverse of `compose`.

    Without a low-rank term it minimises ‖W − Σ A_r ⊗ S_r‖. The left singular vectors of R(W) are the
    eigenvectors of its Gram matrix R Rᵀ, which has only (n_out·n_in)² entries; one more pass over the weight
    gives the filters. Time is linear in the size of the weight and extra memory is the result plus a bounded
    buffer. Without terms it is the truncated singular value decomposition of W, an eigenproblem of its
    smaller side. With both, the two alternate on what the other leaves, a few rounds from the low-rank end.

    Arithmetic is in float64. The terms come in order of falling weight, balanced (A_r and S_r have the same
    mean square, U and V too) and with the entry of largest magnitude in each A_r positive. Where nothing is
    left for a term, its S_r vanishes and its A_r does not, so that training can still move it.

    Van Loan & Pitsianis 1993, "Approximation with Kronecker products".

    Args:
        weight: (out, in, *kernel), any floating dtype.
        order: Blocks and terms; n_out divides out, n_in divides in.

    Returns:
        The factors, in the dtype and on the device of the weight.

    Raises:
        ValueError: the order does not fit the weight, or the weight holds NaN or infinity.
    """
    weight = _checked(weight, order)
    scale = _largest_magnitude(weight)
    if not order.rank:
        return _nearest_sum(weight, order, scale)
    U, V = truncated(weight, order.rank)
    A, S = _nothing(weight, order)[:2]
    if order.terms:
        whole = weight.double()
        for _ in range(_MIXED_ROUNDS):
            rest = whole - compose(A[:0], S[:0], U.double(), V.double())
            A, S = _nearest_sum(rest, order, _largest_magnitude(rest))[:2]
            U, V = truncated(whole - compose(A, S), order.rank)
    return Factors(A, S, U, V).to(weight.dtype)


def project(weight: Tensor, A: Tensor) -> Factors:
    """The nearest weight with a given algebra: the filters S = (Â Âᵀ)⁻¹ Â R(W), where Â has rows vec(A_r).

    Args:
        weight: (out, in, *kernel), any floating dtype.
        A: (terms, n_out, n_in); n_out divides out, n_in divides in.

    Returns:
        The factors, in the dtype and on the device of the weight.

    Raises:
        ValueError: the algebra does not fit the weight, or the weight holds NaN or infinity.
    """
    order = Order(A.shape[1], A.shape[2], len(A))
    weight = _checked(weight, order)
    inverse = torch.linalg.pinv(A.to(weight.device, torch.float64).flatten(1))
    return Factors(A.to(weight), _project(weight, order, inverse))


def common_algebra(weights: Sequence[Tensor], order: Order) -> Tensor:
    """The one algebra with which all weights can be approximated best, each with filters of its own.

    It minimises Σ ‖W − Σ A_r ⊗ S_r‖²/‖W‖²: the leading eigenvectors of the sum of the Gram matrices
    R Rᵀ/‖W‖². Its mean square is that of all filters together, as `project` finds them.

    Args:
        weights: Each (out, in, *kernel); at least one.
        order: Blocks and terms; it fits all weights.

    Returns:
        A (terms, n_out, n_in), in the dtype and on the device of the first weight.

    Raises:
        ValueError: the order does not fit a weight, or a weight holds NaN or infinity.
    """
    blocks = order.n_out * order.n_in
    grams = [_gram(_checked(weight, order), order, None, 1.0) for weight in weights]
    shares = [gram / gram.trace().clamp_min(torch.finfo(gram.dtype).tiny) for gram in grams]
    vectors = _eigenpairs(torch.stack([share.to(grams[0]) for share in shares]).sum(0))[0][:, : order.terms]
    held = sum(order.terms * weight.numel() // blocks for weight in weights)
    filters = sum(float((vectors.t() @ gram.to(vectors) @ vectors).trace()) for gram in grams) / held
    scale = (filters * blocks) ** 0.25 or 1.0
    A = (vectors * scale).t().reshape(order.terms, order.n_out, order.n_in)
    return A.to(weights[0].dtype).contiguous()


def _checked(weight: Tensor, order: Order) -> Tensor:
    """The weight without gradients, if it can be written in an order."""
    if weight.dim() < 2 or not order.fits(weight.shape):
        raise ValueError(f"{order} does not fit a weight of shape {tuple(weight.shape)}")
    weight = weight.detach()
    if not math.isfinite(_largest_magnitude(weight)):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} holds values that are not finite")
    return weight


def truncated(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product U V to a weight: its truncated singular value decomposition.

    Args:
        weight: (out, in, *kernel).
        rank: At most the smaller side.

    Returns:
        U (out, rank) and V (rank, in, *kernel), balanced, in the weight's dtype.
    """
    W = weight.flatten(1).double()
    if len(W) <= W.shape[1]:
        U = torch.linalg.eigh(W @ W.t())[1][:, -rank:].flip(1)
        V = U.t() @ W
    else:
        V = torch.linalg.eigh(W.t() @ W)[1][:, -rank:].flip(1).t()
        U = W @ V.t()
    U, V = level(U.t(), V)
    return U.t().to(weight.dtype).contiguous(), V.view(rank, *weight.shape[1:]).to(weight.dtype)


def _nearest_sum(weight: Tensor, order: Order, scale: float) -> Factors:
    """The nearest Kronecker sum; `scale` is the largest magnitude in the weight."""
    if scale == 0:
        return _nothing(weight, order)
    wide = order.n_out * order.n_in <= weight.numel() // (order.n_out * order.n_in)
    many = order.terms > weight.numel() // (order.n_out * order.n_in)
    vectors, values = (_left_singular if wide or many else _left_singular_thin)(weight, order, scale)
    vectors, values = vectors[:, : order.terms], values[: order.terms]
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(peak < 0, -1.0, 1.0)
    # A_r = a·u and S_r = (σ/a)·v with unit vectors u, v: the mean squares a²/blocks and (σ/a)²/positions
    # are equal for this a. Values below the rounding of the Gram matrix say nothing: they get its level.
    blocks = order.n_out * order.n_in
    values = values.clamp_min(values[0].item() * _NOISE[weight.dtype == torch.float64])
    a = (values * scale * math.sqrt(blocks / (weight.numel() // blocks))).sqrt()
    A = (vectors * a).t().reshape(order.terms, order.n_out, order.n_in)
    return Factors(A.to(weight.dtype).contiguous(), _project(weight, order, vectors / a))


def _largest_magnitude(weight: Tensor) -> float:
    if not weight.numel():
        return 0.0
    low, high = weight.aminmax()
    return max(-low.item(), high.item())


def _nothing(weight: Tensor, order: Order) -> Factors:
    """Factors of a zero weight: each term holds another block, all filters are zero."""
    blocks = order.n_out * order.n_in
    A = torch.eye(blocks, dtype=weight.dtype, device=weight.device)[: order.terms]
    return Factors(A.view(order.terms, order.n_out, order.n_in), empty_factors(weight, order).S.zero_())


def _chunks(weight: Tensor, n_out: int) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of a weight that hold the same rows of every block, as (rows within a block, piece)."""
    blocks = weight.reshape(n_out, weight.shape[0] // n_out, *weight.shape[1:])
    rows = max(1, _CHUNK * blocks.shape[1] // weight.numel())
    for start in range(0, blocks.shape[1], rows):
        part = slice(start, start + rows)
        yield part, blocks[:, part].flatten(0, 1)


def _gram(weight: Tensor, order: Order, basis: Tensor | None, scale: float) -> Tensor:
    """B Bᵀ with B = basisᵀ·R(W)/scale (or R(W)/scale), in float64."""
    size = order.n_out * order.n_in
    gram = torch.zeros(size, size, dtype=torch.float64, device=weight.device)
    for _, piece in _chunks(weight, order.n_out):
        rows = rearrange(piece, order.n_out, order.n_in).double() / scale
        rows = rows if basis is None else basis.t() @ rows
        gram.addmm_(rows, rows.t())
    return gram


def _left_singular(weight: Tensor, order: Order, scale: float) -> tuple[Tensor, Tensor]:
    """Left singular vectors (in columns) and singular values of R(W)/scale, largest first."""
    vectors, values = _eigenpairs(_gram(weight, order, None, scale))
    if weight.dtype != torch.float64:
        return vectors, values
    # Squaring lost half of the digits of the small singular values. In the basis just found the rows are
    # nearly orthogonal, so their Gram matrix, scaled to a unit diagonal, is accurate down to the smallest:
    # R = V·D·(D⁻¹VᵀR), the last factor having Gram matrix H = L Lᵀ, and V·svd(D L) finishes the job.
    gram = _gram(weight, order, vectors, scale)
    sizes = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    roots, lengths = _eigenpairs(gram / sizes / sizes[:, None])
    left, values, _ = torch.linalg.svd(sizes[:, None] * roots * lengths)
    return vectors @ left, values


def _left_singular_thin(weight: Tensor, order: Order, scale: float) -> tuple[Tensor, Tensor]:
    """As `_left_singular`, for more blocks than positions within a block."""
    R = rearrange(weight, order.n_out, order.n_in).double() / scale
    if weight.dtype == torch.float64:
        left, values, _ = torch.linalg.svd(R, full_matrices=False)
        return left, values
    right, values = _eigenpairs(R.t() @ R)
    left = R @ right
    return left / left.norm(dim=0).clamp_min(torch.finfo(left.dtype).tiny), values


def _eigenpairs(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (in columns) and square roots of the eigenvalues of a Gram matrix, largest first."""
    values, vectors = torch.linalg.eigh(gram)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt()


def _project(weight: Tensor, order: Order, basis: Tensor) -> Tensor:
    """The filters basisᵀ·R(W): (terms, out/n_out, in/n_in, *kernel), in the dtype of the weight."""
    S = empty_factors(weight, order).S
    for part, piece in _chunks(weight, order.n_out):
        rows = rearrange(piece, order.n_out, order.n_in).double()
        S[:, part] = (basis.t() @ rows).view(S[:, part].shape).to(S.dtype)
    return S


def factorization_error(weight: Tensor, factors: Factors) -> float:
    """‖W − Ŵ‖ / ‖W‖ as `relative_error`, without holding the composed weight Ŵ."""
    A, S, U, V = factors.detach()
    n_out = factors.A.shape[1]
    lost = total = 0.0
    for part, piece in _chunks(weight.detach(), n_out):
        rows = None if U is None else U.view(n_out, -1, U.shape[1])[:, part].flatten(0, 1)
        approximation = compose(A, S[:, part], rows, V)
        lost += float((piece.double() - approximation.double()).square().sum())
        total += float(piece.double().square().sum())
    return error_ratio(lost, total)
