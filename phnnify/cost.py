"""Which way of computing with a weight in factors is faster: a small model of time.

A matrix product or a convolution takes as long as its arithmetic and its memory traffic, one after the other,
and a fixed time as an operator:

    multiplications / speed + bytes / bandwidth + overhead

In PyTorch matrix products hide one behind the other (the roofline, Williams et al. 2009), and run at half
their speed with `half` rows, fewer where the weight stays in the cache; those of up to 16 rows run in another
way, at a speed of their own:

    max(multiplications / speed · (1 + half / rows), bytes / bandwidth) + overhead

In ONNX Runtime a convolution in factors also loses what is fused into a composed one: norm, activation and
sum read and write its outputs once more each.

The composed weight is one such operator. In factors it is two: one with S, and a thin one with A, whose
result is written and read again, and a sum with the bias; a low-rank term is two more. What is written counts
twice, since its place is read into the cache first.

Convolutions with a spatial kernel in blocks of fewer than 8 channels are not modelled: they stay composed (a
ResNet-20 in such blocks ran at 0.8 times the dense speed). Else only ratios of these times decide.
`examples/benchmarks/forms_table.py` and `convolutions_table.py` print them beside measured ones.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

from phnnify.algebra import Order
from phnnify.products import FEW_ROWS, filters_first, multiplications

Form = Literal["auto", "factored", "folded"]
_NUMBER = 4  # bytes
_CACHED = 3  # times the bandwidth of the memory
_WORTH = 1.05  # what the factors must promise: so much is left out here, and the composed weight is sure
_WORTH_CONVOLUTION = 1.15  # whose neighbours pass channels on in the runtime's own layout, as it does
_CACHED_WEIGHTS = 4 * 2**20  # bytes of weights that stay in the processor's cache between two runs
_CACHED_MAPS = 24 * 2**20  # bytes that an operator reads and writes and that stay there meanwhile
_TOO_MANY = 4  # times the multiplications of a dense product, up to which reading fewer numbers pays
_CHANNELS = 8  # a vector of them: convolutions of fewer run far below the speed of a matrix product


class Target(NamedTuple):
    """What runs a network; the constants are of one CPU core each, as measured.

    Attributes:
        speed: Multiplications a second, of a large matrix product.
        bandwidth: Bytes a second, from memory.
        half: The rows at which a matrix product reaches half that speed.
        near: The same where the weight stays in the cache; None where it is the same.
        overhead: Seconds of a step that does nothing, with the reshaping around it.
        few: Speed and half instead, for products of up to 16 rows (`products.FEW_ROWS`).
        hides: Whether of arithmetic and traffic the shorter one takes no time.
        convolutions: The constants of convolutions, where they are others.
        fused: How often the outputs of a convolution in factors are read and written more than those of a
            composed one, with which the runtime fuses what follows (a norm, an activation, a sum).
    """

    speed: float
    bandwidth: float
    half: float
    overhead: float
    few: tuple[float, float] | None = None
    near: float | None = None
    hides: bool = False
    convolutions: Target | None = None
    fused: int = 0


PYTORCH = Target(
    speed=48e9, bandwidth=20e9, half=29, near=4, overhead=30e-6, few=(28e9, 2), hides=True,
    convolutions=Target(speed=110e9, bandwidth=12.5e9, half=0, overhead=30e-6),
)  # fmt: skip
ONNX = Target(speed=110e9, bandwidth=22e9, half=0, overhead=3e-6, fused=3)


class Step(NamedTuple):
    """One operator.

    Attributes:
        weights: The numbers it reads whatever the input.
        rows: The vectors that meet them, for each position of the output.
        reads: Numbers read, for each position.
        writes: Numbers written, for each position.
    """

    weights: float
    rows: float
    reads: float
    writes: float

    def time(self, positions: int, target: Target) -> float:
        """Seconds."""
        rows = self.rows * positions
        weights, maps = _NUMBER * self.weights, _NUMBER * (self.reads + 2 * self.writes) * positions
        near = target.near if weights <= _CACHED_WEIGHTS else None
        speed, half = target.speed, target.half if near is None else near
        if target.few and rows <= FEW_ROWS:
            speed, half = target.few
        arithmetic = self.weights * (rows + half) / speed
        slowly = weights * (weights > _CACHED_WEIGHTS) + maps * (maps > _CACHED_MAPS)
        traffic = (slowly + (weights + maps - slowly) / _CACHED) / target.bandwidth
        return (max(arithmetic, traffic) if target.hides else arithmetic + traffic) + target.overhead


def composed(matrix: tuple[int, ...], stride: int = 1) -> list[Step]:
    """A product with the weight (out, in, *kernel); `stride` input positions for each of the output."""
    out, columns = matrix[:2]
    return [Step(math.prod(matrix), 1, columns * stride, out)]


def factored(order: Order, matrix: tuple[int, ...], stride: int = 1) -> list[Step]:
    """The operators of a product in factors, the Kronecker products in the order that `products` takes."""
    out, columns = matrix[:2]
    kernel = math.prod(matrix[2:])
    steps = []
    if order.rank:
        thin = Step(order.rank * columns * kernel, 1, columns * stride, order.rank)
        steps += [thin, Step(order.rank * out, 1, order.rank, out)]
    if order.terms:
        steps += _kronecker(order, out, columns, kernel, stride, spatial=len(matrix) > 2)
        steps.append(Step(0, 0, out * (1 + bool(order.rank)), out))
    return steps


def _kronecker(
    order: Order, out: int, columns: int, kernel: int, stride: int, *, spatial: bool
) -> list[Step]:
    n_out, n_in, terms = order.n_out, order.n_in, order.terms
    rows, width = out // n_out, columns // n_in
    weights, mix = terms * rows * width * kernel, terms * n_out * n_in
    if filters_first(order, out, columns * kernel, spatial=spatial):
        between = n_in * terms * rows
        return [Step(weights, n_in, columns * stride, between), Step(mix, rows, between, out)]
    between = n_out * terms * width * stride
    return [Step(mix, width * stride, columns * stride, between), Step(weights, n_out, between, out)]


def seconds(steps: list[Step], positions: int, target: Target) -> float:
    """The time of operators one after another."""
    return sum(step.time(positions, target) for step in steps)


@lru_cache(maxsize=4096)
def prefers_factored(
    algebra: tuple[int, ...],
    filters: tuple[int, ...],
    rank: int,
    positions: int,
    stride: int,
    target: Target,
) -> bool:
    """Whether the factors are clearly faster than the composed weight.

    Args:
        algebra: The shape of A, (terms, n_out, n_in).
        filters: The shape of S, (terms, out/n_out, in/n_in, *kernel).
        rank: Of the low-rank term.
        positions: How many vectors (rows, pixels) come out.
        stride: How many of the input there are for each of them.
        target: What runs the network.
    """
    terms, n_out, n_in = algebra
    channels = [*filters[1:3] * bool(terms), *[rank] * bool(rank)]
    if math.prod(filters[3:]) > 1 and min(channels) < _CHANNELS:
        return False
    matrix = (n_out * filters[1], n_in * filters[2], *filters[3:])
    steps, worth = factored(Order(n_out, n_in, terms, rank), matrix, stride), _WORTH
    if len(matrix) > 2:
        steps += [Step(0, 0, matrix[0], matrix[0])] * target.fused
        target, worth = target.convolutions or target, _WORTH_CONVOLUTION
    whole = seconds(composed(matrix, stride), positions, target)
    return worth * seconds(steps, positions, target) <= whole


def prefers_dense(order: Order, matrix: tuple[int, ...]) -> bool:
    """Whether, whatever the input, the composed weight is better: a product with it multiplies far less."""
    dense = math.prod(matrix)
    return multiplications(order, matrix[0], dense // matrix[0]) > _TOO_MANY * dense
