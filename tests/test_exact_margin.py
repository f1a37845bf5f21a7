"""Margin problems of diagonal networks against linear and quadratic programming, and the path on one sample."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import brentq, linprog, minimize

from gradflow import exact

SAMPLES = np.array([[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]])


def cloud(n, d, seed):
    """Separable samples times their labels, of which most do not support the margin."""
    rng = np.random.default_rng(seed)
    direction, z = rng.standard_normal(d), rng.standard_normal((n, d))
    return z * np.sign(z @ direction)[:, None] + 0.2 * direction / np.linalg.norm(direction)


@pytest.mark.parametrize(
    ("mu", "expected"),
    [
        (1.0, [0.784615, 0.239317, 0.329060]),
        (0.1, [0.863555, 0.151606, 0.208458]),
        (0.01, [0.959198, 0.045336, 0.062337]),
    ],
)
def test_known_separators(mu, expected):
    assert_allclose(exact.diagonal_max_margin(SAMPLES, mu), expected, atol=6e-7)


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("mu", [1e4, 1.0, 1e-2, 1e-8])
def test_separators_satisfy_the_optimality_conditions(n, mu):
    z = cloud(n, 6, n)
    w = exact.diagonal_max_margin(z, mu)
    margins, dual = z @ w, np.arcsinh(w / (2 * mu))
    on_margin = margins < 1 + 1e-9
    assert margins.min() > 1 - 1e-11
    multipliers = np.linalg.lstsq(z[on_margin].T, dual, rcond=None)[0]
    assert_allclose(multipliers @ z[on_margin], dual, rtol=1e-9, atol=1e-9 * np.abs(dual).max())
    assert multipliers.min() >= 0


def test_large_and_small_mu_give_the_l2_and_the_l1_margin():
    z = cloud(40, 6, 0)
    l1 = linprog(np.ones(12), A_ub=-np.hstack([z, -z]), b_ub=-np.ones(40)).x
    margin = {"type": "ineq", "fun": lambda w: z @ w - 1}
    l2 = minimize(lambda w: w @ w, np.ones(6), constraints=margin, method="SLSQP", options={"ftol": 1e-15}).x
    assert_allclose(exact.diagonal_max_margin(z, 1e-10), l1[:6] - l1[6:], atol=1e-6)
    assert_allclose(exact.diagonal_max_margin(z, 1e5), l2, atol=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 10.0, 100.0])
def test_the_path_on_one_sample_has_the_margin_and_is_a_flow(depth, alpha):
    x = np.array([1.0, -0.3, 0.0, 0.5])
    margins = np.array([0.0, 1e-3, 1.0, 1e2, 1e4 * np.log(10)])
    w = exact.diagonal_at_margin(margins, x, alpha, depth)
    assert_allclose(w @ x, margins, rtol=1e-12)
    shift = np.arcsinh(w / (2 * alpha**2)) if depth == 2 else scalar_weights(w, alpha, depth) ** (2 - depth)
    moved = shift[2:] - shift[1]  # along the flow, all of it is a multiple of x
    assert_allclose(moved * x[0], moved[:, :1] * x, rtol=0, atol=1e-6 * np.abs(moved).max(1, keepdims=True).max())


def scalar_weights(w, alpha, depth):
    """u of every entry of w = u^D - v^D, where u^(2-D) + v^(2-D) = 2 alpha^(2-D); found by another root finder."""

    def other(u):
        return (2 * alpha ** (2 - depth) - u ** (2 - depth)) ** (1 / (2 - depth))

    def find(target):
        if target < 0:
            return other(find(-target))
        return brentq(lambda u: u**depth - other(u) ** depth - target, alpha, 2 * alpha + 2 * (1 + target))

    return np.vectorize(find)(w)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="no solution"):
        exact.diagonal_max_margin([[1.0, 0.0], [-1.0, 0.0]], 1.0)
    with pytest.raises(ValueError, match="mu > 0"):
        exact.diagonal_max_margin(SAMPLES, 0.0)
    with pytest.raises(ValueError, match="one per row"):
        exact.diagonal_max_margin([1.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="not negative"):
        exact.diagonal_at_margin(-1.0, [1.0], 1.0)
    with pytest.raises(ValueError, match="not zero"):
        exact.diagonal_at_margin(1.0, [0.0, 0.0], 1.0)


def test_separators_of_several_mu_are_those_of_each():
    mu = np.array([[1.0, 0.3, 1e-8], [40.0, 1e3, 0.02]])
    together = exact.diagonal_max_margin(SAMPLES, mu)
    assert together.shape == (2, 3, np.shape(SAMPLES)[1])
    assert np.array_equal(together[1, 2], exact.diagonal_max_margin(SAMPLES, 0.02))
    with pytest.raises(ValueError, match="mu"):
        exact.diagonal_max_margin(SAMPLES, [1.0, 0.0])
