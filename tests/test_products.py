"""Products with a weight in factors, against products with the weight composed by torch.kron."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phnnify import products
from phnnify.algebra import Factors, Order, compose
from phnnify.products import filters_first, multiplications, multiply, multiply_channels, product_layout
from tests.kronecker_sums import kron_sum

ORDERS = [  # of a (20, 21) weight
    Order(4, 3, 5),
    Order(20, 3, 2),
    Order(1, 21, 3),
    Order(20, 21, 1),
    Order(4, 3, 2, 3),
    Order(20, 7, 4, 1),
    Order.low_rank(4),
]


def factors_of(order: Order, out: int, columns: int) -> Factors:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    A = draw(order.terms, order.n_out, order.n_in)
    S = draw(order.terms, out // order.n_out, columns // order.n_in)
    return Factors(A, S, draw(out, order.rank), draw(order.rank, columns)) if order.rank else Factors(A, S)


def dense(factors: Factors) -> torch.Tensor:
    A, S, U, V = factors
    weight = torch.zeros(A.shape[1] * S.shape[1], A.shape[2] * S.shape[2], dtype=torch.float64)
    weight = weight + kron_sum(A, S) if len(A) else weight
    return weight if U is None or V is None else weight + U @ V


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("lead", [(), (1,), (3,), (0,), (2, 5), (2, 0, 3), (40,)])
@pytest.mark.parametrize("parted", [False, True], ids=["whole", "in parts"])
def test_multiply_is_the_dense_product(
    parted: bool, lead: tuple[int, ...], order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_FEW_NUMBERS", 0 if parted else 1 << 16)
    factors = factors_of(order, 20, 21)
    x = torch.randn(*lead, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(multiply(x, *factors), x @ dense(factors).t())


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("positions", [(9,), (4, 5), (2, 3, 4), (1, 1)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_multiply_channels_is_the_dense_product_at_every_position(
    positions: tuple[int, ...], batch: int, order: Order
) -> None:
    factors = factors_of(order, 20, 21)
    x = torch.randn(batch, 21, *positions, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.einsum("oi,bi...->bo...", dense(factors), x)
    torch.testing.assert_close(multiply_channels(x, *factors), wanted)


@pytest.mark.parametrize("order", [Order(4, 4, 4), Order(16, 4, 2, 1)], ids=str)
def test_multiply_channels_keeps_channels_last(order: Order) -> None:
    factors = factors_of(order, 16, 16).to(torch.float32)
    x = torch.randn(2, 16, 5, 6).contiguous(memory_format=torch.channels_last)
    y = multiply_channels(x, *factors)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, multiply_channels(x.contiguous(), *factors))


@pytest.mark.parametrize("order", [Order(4, 4, 4), Order(12, 2, 2, 2), Order.low_rank(3)], ids=str)
@pytest.mark.parametrize("rows", [1, 4, 5, 64])
def test_gradients_of_the_factored_product_are_those_of_the_dense_one(rows: int, order: Order) -> None:
    factors = [f.requires_grad_() for f in factors_of(order, 12, 8) if f is not None]
    x = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    outputs = multiply(x, *factors), x @ compose(*factors).t()
    inputs = (x, *(f for f in factors if f.numel()))
    grads = [torch.autograd.grad(y.square().sum(), inputs, retain_graph=True) for y in outputs]
    for factored, composed in zip(*grads, strict=True):
        torch.testing.assert_close(factored, composed)


def test_the_way_that_multiplies_less_is_taken() -> None:
    assert not filters_first(Order(4, 4, 4), 64, 64)
    assert filters_first(Order(200, 16, 12), 200, 784)
    # 12 filters on 16 blocks of 49, then 200 sums over 12·16.
    assert multiplications(Order(200, 16, 12), 200, 784) == 12 * 784 + 200 * 12 * 16
    assert multiplications(Order.low_rank(5), 10, 20) == 5 * 30


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_layout_changes_no_number_and_gives_the_product_a_view(order: Order) -> None:
    S = nn.Parameter(factors_of(order, 20, 21).S)
    laid = product_layout(S, order, (20, 21))
    assert torch.equal(laid, S)
    if filters_first(order, 20, 21):
        assert laid is S
    else:
        assert laid.transpose(0, 1).is_contiguous()
