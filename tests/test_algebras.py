"""Algebras by name against independent products, and the distance of learned ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phnnify.algebra import compose
from phnnify.algebras import (
    NAMES,
    Algebra,
    algebras_of,
    aligned,
    named_algebra,
    own_algebra,
    random_distance,
    recognised,
    span_distance,
    stacked,
    unstacked,
)

Quaternion = tuple[float, float, float, float]


def hamilton(p: Quaternion, q: Quaternion) -> Quaternion:
    """The product as Hamilton wrote it, i² = j² = k² = ijk = -1."""
    a, b, c, d = p
    e, f, g, h = q
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def product(name: str, x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("rij,r,j->i", named_algebra(name, len(x)).A(), x, y)


numbers = st.floats(-10, 10)
many = settings(max_examples=50, deadline=None)


@many
@given(st.tuples(*[numbers] * 4), st.tuples(*[numbers] * 4))
def test_the_quaternion_algebra_is_hamiltons_product(p: Quaternion, q: Quaternion) -> None:
    found = product("quaternion", torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64))
    np.testing.assert_allclose(found, hamilton(p, q), atol=1e-12)


@many
@given(st.complex_numbers(max_magnitude=10), st.complex_numbers(max_magnitude=10))
def test_the_complex_algebra_is_pythons(a: complex, b: complex) -> None:
    x, y = (torch.tensor([z.real, z.imag], dtype=torch.float64) for z in (a, b))
    np.testing.assert_allclose(product("complex", x, y), [(a * b).real, (a * b).imag], atol=1e-12)


@many
@given(st.lists(numbers, min_size=16, max_size=16))
def test_octonions_keep_lengths_and_are_alternative(values: list[float]) -> None:
    x, y = torch.tensor(values, dtype=torch.float64).view(2, 8)
    xy = product("octonion", x, y)
    np.testing.assert_allclose(xy.norm(), x.norm() * y.norm(), atol=1e-9)
    grouped = product("octonion", product("octonion", x, x), y)
    np.testing.assert_allclose(product("octonion", x, xy), grouped, atol=1e-7)


def test_octonions_multiply_as_in_the_usual_table() -> None:
    e = torch.eye(8, dtype=torch.float64)
    for a, b, c in [(1, 2, 3), (1, 4, 5), (1, 7, 6), (2, 4, 6), (2, 5, 7), (3, 4, 7), (3, 6, 5)]:
        for i, j, k in [(a, b, c), (b, c, a), (c, a, b)]:
            assert torch.equal(product("octonion", e[i], e[j]), e[k])
            assert torch.equal(product("octonion", e[j], e[i]), -e[k])


def test_tessarines_commute_and_square_to_their_signs() -> None:
    one, i, j, k = torch.eye(4, dtype=torch.float64)
    squares = {"i": (i, -one), "j": (j, one), "k": (k, -one)}
    for x, square in squares.values():
        assert torch.equal(product("tessarine", x, x), square)
    assert torch.equal(product("tessarine", i, j), k)
    for x, y in itertools.combinations((one, i, j, k), 2):
        assert torch.equal(product("tessarine", x, y), product("tessarine", y, x))


def test_split_complex_numbers_square_to_one() -> None:
    one, j = torch.eye(2, dtype=torch.float64)
    assert torch.equal(product("split-complex", j, j), one)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_cyclic_algebra_is_circular_convolution(n: int) -> None:
    x, y = torch.randn(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    wanted = np.fft.ifft(np.fft.fft(x) * np.fft.fft(y)).real
    np.testing.assert_allclose(product("cyclic", x, y), wanted, atol=1e-12)


def test_the_first_unit_of_every_named_algebra_is_one() -> None:
    for name in NAMES:
        algebra = named_algebra(name, 3 if name == "cyclic" else None)
        eye = torch.eye(algebra.n, dtype=torch.float64)
        assert torch.equal(algebra.A()[0], eye)
        assert torch.equal(algebra.A()[:, :, 0], eye)


@pytest.mark.parametrize(
    ("name", "n", "message"),
    [
        ("quaternion", 3, "quaternion algebra has dimension 4, not 3"),
        ("sedenion", None, "no algebra 'sedenion'.*real, complex"),
        ("cyclic", None, "no algebra 'cyclic' of dimension None"),
        ("cyclic", 10**6, "cyclic algebra of dimension 1000000 is too large; 64 is the most"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, n: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_algebra(name, n)


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ([[[1.0, 2.0]]], r"got \(1, 1, 2\)"),
        ([[[1.0], [2.0, 3.0]]], "needs numbers of shape"),
        ("text", "needs numbers of shape"),
        ([], "got no numbers"),
        (5.0, "got no numbers"),
        ([[[math.nan]]], "not finite"),
        ([[[0.0]]], "linearly dependent"),
        ([[[1, 0], [0, 1]], [[2, 0], [0, 2]]], "linearly dependent"),
    ],
)
def test_constants_of_no_algebra_are_refused(constants: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Algebra.of("mine", constants)


def test_an_algebra_of_ones_own_has_a_name_of_its_own() -> None:
    A = named_algebra("complex").A()
    algebra = own_algebra("mine", A)
    assert (algebra.n, Algebra.of("mine", algebra.lists())) == (2, algebra)
    assert torch.equal(algebra.A(torch.float32), A.float())
    for taken in ("learned", "shared", "complex"):
        with pytest.raises(ValueError, match="cannot be called"):
            own_algebra(taken, A)


def test_algebras_are_recognised_by_their_values() -> None:
    for n in (1, 2, 4, 5, 8):
        names = [algebra.name for algebra in algebras_of(n)]
        for algebra in algebras_of(n):
            found = recognised(algebra.A(torch.float32))
            assert found is not None
            assert found.name == algebra.name or torch.equal(found.A(), algebra.A())  # two names for one
        assert names[-1] == "cyclic"
    assert recognised(named_algebra("complex").A() * 2) is None
    assert recognised(torch.ones(2, 3, 2)) is None
    assert recognised(torch.eye(65).repeat(65, 1, 1)) is None


@many
@given(st.integers(0, 2**31))
def test_the_distance_knows_no_basis_between_terms(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    H = named_algebra("quaternion").A()
    G = torch.randn(4, 4, dtype=torch.float64, generator=draw) + 3 * torch.eye(4, dtype=torch.float64)
    mixed = torch.einsum("rs,sij->rij", G, H)
    assert span_distance(mixed, H) < 1e-6
    torch.testing.assert_close(aligned(mixed, H), H)


def test_the_distance_is_that_of_the_projections() -> None:
    A, B = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    P, Q = (np.linalg.pinv(x.flatten(1).numpy()) @ x.flatten(1).numpy() for x in (A, B))
    wanted = np.sqrt(np.square(P - Q).sum() / 2 / 3)  # ‖P − Q‖² = 2·Σ sin²
    assert span_distance(A, B) == pytest.approx(wanted)


def test_quaternions_and_tessarines_share_two_of_four_directions() -> None:
    distance = span_distance(named_algebra("quaternion").A(), named_algebra("tessarine").A())
    assert distance == pytest.approx(math.sqrt(0.5))


def test_random_spaces_are_as_far_apart_as_is_said() -> None:
    draw = torch.Generator().manual_seed(0)
    distances = [span_distance(*torch.randn(2, 4, 4, 4, generator=draw)) ** 2 for _ in range(200)]
    assert np.mean(distances) ** 0.5 == pytest.approx(random_distance((4, 4, 4)), abs=0.01)


def test_a_stack_has_filters_of_its_own_in_each_part() -> None:
    A = named_algebra("quaternion").A()
    S = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = compose(stacked(A, 3), S.flatten(0, 1))
    assert torch.equal(found, torch.cat([compose(A, part) for part in S]))
    assert torch.equal(unstacked(stacked(A, 3)), A)
    assert unstacked(A).shape == (4, 4, 4)
    for other in (torch.randn(12, 12, 4), torch.randn(3, 4, 4), torch.randn(4, 2, 8)):
        assert unstacked(other) is other
