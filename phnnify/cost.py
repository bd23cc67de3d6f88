"""Which way of computing with a weight in factors is faster: a small model of time.

A matrix product takes as long as its arithmetic or its memory traffic, whichever is longer (the roofline,
Williams et al. 2009), and a fixed time as an operator:

    max(multiplications / speed · (1 + half / rows), bytes / bandwidth) + overhead

where a product of `half` rows runs at half its speed. In PyTorch those of up to 16 rows have a speed of their
own: they run in another way, and on one thread. A convolution, whose blocks of channels are copied on the
way, takes as long as both together, each at a speed of its own:

    multiplications / speed + bytes / bandwidth + overhead

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
from phnnify.products import FEW_ROWS, filters_first

Form = Literal["auto", "factored", "folded"]
_NUMBER = 4  # bytes
_CACHED = 3  # times the bandwidth of the memory
_WORTH = 1.05  # what the factors must promise: so much is left out here, and the composed weight is sure
_WORTH_CONVOLUTION = 1.15  # whose neighbours pass channels on in the runtime's own layout, as it does
_CACHED_MAPS = 24 * 2**20  # bytes that a convolution reads and writes and that stay in the cache meanwhile
_CHANNELS = 8  # a vector of them: convolutions of fewer run far below the speed of a matrix product


class Target(NamedTuple):
    """What runs a network; the constants are of one CPU core each, as measured.

    Attributes:
        speed: Multiplications a second, of a large matrix product.
        bandwidth: Bytes a second, from memory.
        half: The rows at which a matrix product reaches half that speed.
        overhead: Seconds of a step that does nothing, with the reshaping around it.
        cache: Weights of so many bytes stay in the processor's cache between two runs.
        few: Speed and half instead, for products of up to 16 rows (`products.FEW_ROWS`).
        convolving: Speed and bandwidth of convolutions.
    """

    speed: float
    bandwidth: float
    half: float
    overhead: float
    cache: float = 4 * 2**20
    few: tuple[float, float] | None = None
    convolving: tuple[float, float] = (110e9, 20e9)


PYTORCH = Target(48e9, 20e9, half=29, overhead=30e-6, few=(28e9, 2), convolving=(110e9, 12.5e9))
ONNX = Target(45e9, 20e9, half=2, overhead=3e-6, convolving=(110e9, 20e9))


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
        """Seconds, as a matrix product."""
        rows = self.rows * positions
        speed, half = target.few if target.few and rows <= FEW_ROWS else (target.speed, target.half)
        arithmetic = self.weights * (rows + half) / speed
        kept = _NUMBER * self.weights <= target.cache
        bandwidth = target.bandwidth * (_CACHED if kept else 1)
        return max(arithmetic, self._bytes(positions) / bandwidth) + target.overhead

    def convolution_time(self, positions: int, target: Target) -> float:
        """Seconds, as a convolution or a part of one."""
        speed, bandwidth = target.convolving
        moved = self._bytes(positions)
        bandwidth *= _CACHED if moved <= _CACHED_MAPS else 1
        return self.weights * self.rows * positions / speed + moved / bandwidth + target.overhead

    def _bytes(self, positions: int) -> float:
        return _NUMBER * (self.weights + (self.reads + 2 * self.writes) * positions)


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


def seconds(steps: list[Step], positions: int, target: Target, *, convolution: bool = False) -> float:
    """The time of operators one after another: matrix products, or those of a convolution."""
    time = Step.convolution_time if convolution else Step.time
    return sum(time(step, positions, target) for step in steps)


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
    convolution = len(matrix) > 2
    whole = seconds(composed(matrix, stride), positions, target, convolution=convolution)
    steps = factored(Order(n_out, n_in, terms, rank), matrix, stride)
    parts = seconds(steps, positions, target, convolution=convolution)
    return (_WORTH_CONVOLUTION if convolution else _WORTH) * parts <= whole
