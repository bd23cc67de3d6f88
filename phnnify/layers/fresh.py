"""Fresh factors: drawn so that the composed weight has a given mean square."""

from __future__ import annotations

from torch import Tensor, nn

from phnnify import algebra
from phnnify.algebra import Factors


def fresh_(factors: Factors, mean_square: float, *, keep_algebra: bool = False) -> None:
    """Draw factors anew, in place: the weight that they compose has exactly the given mean square.

    Args:
        factors: All normal, scaled; A and S with equal mean squares.
        mean_square: Where it is 0, S and U vanish.
        keep_algebra: Leave A as it is.
    """
    A, S, U, V = factors
    for factor in (S, U, V) if keep_algebra else (A, S, U, V):
        if factor is not None:
            nn.init.normal_(factor)
    if mean_square:
        _rescale_(factors, mean_square, keep_algebra)
        return
    for factor in (S, U):
        if factor is not None:
            factor.zero_()


def _rescale_(factors: Factors, mean_square: float, keep_algebra: bool) -> None:
    """Scale the factors so that the weight has the given mean square.

    Without a low-rank term |W|² = Σ_rs <A_r, A_s>·<S_r, S_s>, which needs no composed weight. With one, the
    two parts have mean squares in proportion to the numbers they hold.
    """
    A, S, U, V = factors
    if U is None or V is None:
        _scale_pair_(A, S, (mean_square / _mean_square(A, S)).sqrt(), keep_algebra)
        return
    held = [A.numel() + S.numel(), U.numel() + V.numel()]
    if len(A):
        wanted = mean_square * held[0] / sum(held)
        _scale_pair_(A, S, (wanted / _mean_square(A, S)).sqrt(), keep_algebra)
    product = (U @ V.flatten(1)).float().square().mean()
    _scale_pair_(U, V, (mean_square * held[1] / sum(held) / product).sqrt())
    gain = (mean_square / algebra.compose(*factors).float().square().mean()).sqrt()
    _scale_pair_(U, V, gain)
    if len(A):
        _scale_pair_(A, S, gain, keep_algebra)


def _mean_square(A: Tensor, S: Tensor) -> Tensor:
    """Of the composed weight."""
    a, s = A.flatten(1).float(), S.flatten(1).float()
    return ((a @ a.t()) * (s @ s.t())).sum() / (a.shape[1] * s.shape[1])


def _scale_pair_(a: Tensor, s: Tensor, gain: Tensor, keep_first: bool = False) -> None:
    """Multiply the product of two factors by `gain`, shared so that their mean squares become equal."""
    if keep_first:
        s.mul_(gain)
        return
    balance = (s.float().square().mean() / a.float().square().mean()).sqrt()
    a.mul_((gain * balance).sqrt())
    s.mul_((gain / balance).sqrt())
