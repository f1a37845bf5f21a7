"""Matrix products in registers against numpy, elementary functions against exact ones."""

import mpmath
import numpy as np
import pytest
from numba import njit

from gradflow import activations, losses
from gradflow.kernels.elementwise import activate, curvature, exponentials, logarithms_of_one_plus
from gradflow.kernels.matrices import multiply, multiply_nt, multiply_tn
from gradflow.kernels.procedures import address_of

KINDS = ("nn", "tn", "nt")


@njit
def product_of(kind, rows, cols, inner, a, b, c, a2, b2, spare):
    second = address_of(a2) if a2.size else 0
    first, right, out = address_of(a), address_of(b), address_of(c)
    if kind == 0:
        multiply(rows, cols, inner, first, right, out, second, address_of(b2), address_of(spare))
    elif kind == 1:
        multiply_tn(rows, cols, inner, first, right, out, second, address_of(b2), address_of(spare))
    else:
        multiply_nt(rows, cols, inner, first, right, out, second, address_of(b2), address_of(spare))


@njit
def apply(code, slope, z, a, s, c):
    activate(code, slope, z.size, address_of(z), address_of(a), address_of(s))
    curvature(code, z.size, address_of(z), address_of(a), address_of(s), address_of(c))


@njit
def exponentials_of(x):
    exponentials(x.size, address_of(x))


@njit
def logarithms_of(t, out):
    logarithms_of_one_plus(t.size, address_of(t), address_of(out))


def check_product(kind, rows, cols, inner, pairs, rng):
    left, right = rng.standard_normal((pairs, rows, inner)), rng.standard_normal((pairs, inner, cols))
    expected = (left @ right).sum(0)
    left = [np.ascontiguousarray(a.T if kind == 1 else a) for a in left] + [np.empty((0, 0))]
    right = [np.ascontiguousarray(b.T if kind == 2 else b) for b in right] + [np.empty((0, 0))]
    guarded = np.full((rows + 2, cols), np.pi)
    product_of(kind, rows, cols, inner, left[0], right[0], guarded[1:-1], left[1], right[1], np.empty((rows, cols)))
    np.testing.assert_allclose(guarded[1:-1], expected, atol=1e-13 * inner)
    assert (guarded[[0, -1]] == np.pi).all()


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
@pytest.mark.parametrize("pairs", [1, 2], ids=["one", "sum of two"])
def test_products_of_all_small_shapes(kind, pairs):
    rng = np.random.default_rng(0)
    for rows in (1, 2, 3, 4, 5, 7, 8, 11):
        for cols in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 25, 33):
            for inner in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17):
                check_product(kind, rows, cols, inner, pairs, rng)


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_large_products_go_to_blas(kind):
    for pairs in (1, 2):
        check_product(kind, 231, 230, 229, pairs, np.random.default_rng(1))


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_nan_stays_in_its_row(kind):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((5, 9)), rng.standard_normal((9, 10))
    a[2, 8] = np.nan
    out, none = np.empty((5, 10)), np.empty((0, 0))
    left, right = np.ascontiguousarray(a.T if kind == 1 else a), np.ascontiguousarray(b.T if kind == 2 else b)
    product_of(kind, 5, 10, 9, left, right, out, none, none, none)
    np.testing.assert_array_equal(np.isnan(out).all(1), [False, False, True, False, False])
    assert np.isfinite(out[[0, 1, 3, 4]]).all()


def in_ulps(found, exact):
    exact = np.array([float(value) for value in exact])
    return np.max(np.abs(found - exact) / np.spacing(np.maximum(np.abs(exact), 1e-300)))


def points(rng):
    return np.concatenate([np.linspace(-40, 40, 81), rng.standard_normal(60) * 10.0 ** rng.uniform(-8, 1, 60)])


EXACT = {
    "tanh": (mpmath.tanh, lambda z: mpmath.sech(z) ** 2, lambda z: -2 * mpmath.tanh(z) * mpmath.sech(z) ** 2),
    "sigmoid": (
        lambda z: 1 / (1 + mpmath.exp(-z)),
        lambda z: mpmath.sech(z / 2) ** 2 / 4,
        lambda z: -mpmath.tanh(z / 2) * mpmath.sech(z / 2) ** 2 / 4,
    ),
    "softplus": (
        lambda z: mpmath.log1p(mpmath.exp(z)),
        lambda z: 1 / (1 + mpmath.exp(-z)),
        lambda z: mpmath.sech(z / 2) ** 2 / 4,
    ),
    "gelu": (
        lambda z: z * mpmath.ncdf(z),
        lambda z: mpmath.ncdf(z) + z * mpmath.npdf(z),
        lambda z: (2 - z * z) * mpmath.npdf(z),
    ),
    "relu_squared": (
        lambda z: max(z, mpmath.mpf(0)) ** 2,
        lambda z: 2 * max(z, mpmath.mpf(0)),
        lambda z: mpmath.mpf(2 if z > 0 else 0),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_smooth_activations_and_their_derivatives(name):
    z = points(np.random.default_rng(3))
    a, s, c = (np.empty_like(z) for _ in range(3))
    apply(activations.CODES[name], 0.0, z, a, s, c)
    with mpmath.workdps(40):
        value, slope, bend = ([f(mpmath.mpf(float(point))) for point in z] for f in EXACT[name])
        relative = 400 if name == "gelu" else 8
        assert in_ulps(a, value) <= relative
        if name != "gelu":
            assert in_ulps(s, slope) <= relative
        np.testing.assert_allclose(s, np.array(slope, dtype=float), atol=1e-15)
        np.testing.assert_allclose(c, np.array(bend, dtype=float), atol=1e-15)


def test_exponential_and_logarithm_over_their_whole_range():
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.uniform(-708, 709, 2000), rng.standard_normal(2000)])
    found = x.copy()
    exponentials_of(found)
    with mpmath.workdps(30):
        assert in_ulps(found, [mpmath.exp(mpmath.mpf(float(value))) for value in x]) <= 1
    t = rng.uniform(0, 1, 2000) * 10.0 ** rng.uniform(-300, 0, 2000)
    logarithm = np.empty_like(t)
    logarithms_of(t, logarithm)
    with mpmath.workdps(30):
        assert in_ulps(logarithm, [mpmath.log1p(mpmath.mpf(float(value))) for value in t]) <= 3


def test_exponential_of_special_numbers():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 710.0, -746.0, -745.0] * 3)
    exponentials_of(x)
    np.testing.assert_array_equal(x[:7], [np.nan, np.inf, 0.0, 1.0, np.inf, 0.0, 5e-324])


def test_codes_are_the_ones_in_cached_compiled_code():
    """Compiled functions on disk hold these numbers; a change needs a change of the files that use them."""
    names = ("linear", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "quadratic", "abs", "relu_squared")
    assert {name: number for number, name in enumerate(names)} == activations.CODES
    assert losses.CODES == {"square": 0, "exponential": 1, "logistic": 2, "cross-entropy": 3}
