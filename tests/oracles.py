"""Runs whose solution is known in closed form: problem, start, times, what is observed, and its exact value."""

from dataclasses import dataclass

import numpy as np

import gradflow as gf

HALF = gf.losses.Square(half=True)
HALF_SUM = gf.losses.Square("sum", half=True)


@dataclass(frozen=True)
class Oracle:
    problem: gf.Problem
    theta0: np.ndarray
    t: np.ndarray
    observe: object
    exact: np.ndarray

    def error(self, theta):
        """Largest relative deviation from the closed form, over the size of the exact curve."""
        return np.abs(self.observe(theta) - self.exact).max() / max(1.0, np.abs(self.exact).max())


def scalar(depth, strength, loss=HALF):
    return gf.Problem(gf.DeepLinear([1] * (depth + 1)), loss, [[1.0]], [[strength]])


def product(theta):
    return theta.prod(-1)


def balanced_mode():
    t = np.linspace(0, 4, 9)
    return Oracle(scalar(2, 2.0), np.full(2, 0.1), t, product, gf.exact.two_layer_mode(t, 2.0, 0.01))


def unbalanced_mode():
    t = np.linspace(0, 3, 7)
    return Oracle(scalar(2, 2.0), np.array([0.3, -0.8]), t, product, gf.exact.two_layer_unbalanced(t, 2.0, -0.24, 0.55))


def whitened(sigma, hidden):
    """Problem with the loss |sigma - W2 W1|^2 / 2."""
    d = sigma.shape[1]
    return gf.Problem(gf.DeepLinear([d, hidden, sigma.shape[0]]), HALF, np.sqrt(d) * np.eye(d), np.sqrt(d) * sigma.T)


def end_to_end(problem):
    def observe(theta):
        layers = problem.layers(theta)
        return layers["W2"] @ layers["W1"]

    return observe


def aligned_modes():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(2))
    sigma = left @ np.diag([3.0, 1.0, 0.5]) @ right.T
    problem = whitened(sigma, 3)
    t = np.linspace(0, 4, 9)
    theta0 = problem.init(0.01, scheme="aligned", seed=1)
    u = gf.exact.two_layer_mode(t[:, None], np.array([3.0, 1.0, 0.5]), 0.01)
    return Oracle(problem, theta0, t, end_to_end(problem), np.einsum("ik,tk,jk->tij", left, u, right))


def zero_balanced(d, h, k):
    rng = np.random.default_rng(d + 10 * h + 100 * k)
    problem = whitened(rng.standard_normal((k, d)), h)
    theta0 = problem.init(0.3, scheme="zero-balanced", seed=2)
    layers, t = problem.layers(theta0), np.linspace(0, 3, 7)
    sigma = problem.y.T @ problem.x / problem.n
    exact = gf.exact.riccati(t, layers["W1"], layers["W2"], sigma).product
    return Oracle(problem, theta0, t, end_to_end(problem), exact)


def lambda_balanced():
    rng = np.random.default_rng(3)
    d, h, k, gap = 4, 2, 3, 0.7
    left, mid, right = (np.linalg.qr(rng.standard_normal((n, h)))[0] for n in (k, h, d))
    w1 = mid @ np.diag([0.2, 0.5]) @ right.T
    w2 = left @ np.diag(np.sqrt(np.array([0.2, 0.5]) ** 2 + gap)) @ mid.T
    problem = whitened(rng.standard_normal((k, d)), h)
    sigma, t = problem.y.T @ problem.x / problem.n, np.linspace(0, 3, 7)
    theta0 = problem.flatten({"W1": w1, "W2": w2})
    return Oracle(problem, theta0, t, end_to_end(problem), gf.exact.riccati(t, w1, w2, sigma).product)


def equal_chain(depth):
    t = np.linspace(0, 2, 5)
    return Oracle(scalar(depth, 2.0), np.full(depth, 0.3), t, product, gf.exact.chain(t, 2.0, 0.3, depth) ** depth)


def diagonal_scalar():
    problem = gf.Problem(gf.Diagonal(1), HALF_SUM, [[1.0]], [[1.5]])
    t = np.linspace(0, 1, 5)
    exact = gf.exact.diagonal_scalar(t, 1.5, 0.2)
    return Oracle(problem, np.full(2, 0.2), t, lambda theta: theta[:, 0] ** 2 - theta[:, 1] ** 2, exact)


def diagonal_sample_limit():
    x, alpha = np.array([[1.0, -0.5, 0.25]]), 0.1
    problem = gf.Problem(gf.Diagonal(3), HALF_SUM, x, [[1.0]])
    exact = np.array([gf.exact.diagonal_limit(x, np.array([1.0]), alpha)])
    return Oracle(problem, np.full(6, alpha), np.array([40.0]), lambda th: th[:, :3] ** 2 - th[:, 3:] ** 2, exact)


def single_exponential():
    x, w0 = np.array([0.6, -0.8, 2.0]), np.array([0.1, 0.2, 0.3])
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Exponential(), x[None], [1.0])
    t = np.array([0.0, 1.0, 10.0, 50.0])
    return Oracle(problem, w0, t, lambda theta: theta, gf.exact.exponential_linear(t, w0, x))


def single_logistic():
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0]], [1.0])
    t = np.array([0.0, 1.0, 10.0, 1e3])
    return Oracle(problem, np.array([0.3]), t, lambda th: th[:, 0], gf.exact.logistic_linear(t, 0.3))


def two_layer_exponential():
    problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Exponential(), [[1.0]], [1.0])
    t = np.array([0.0, 2.0, 50.0])
    return Oracle(problem, np.full(2, 0.2), t, product, gf.exact.two_layer_exponential(t, 0.04))


ORACLES = {
    "C1 balanced mode": balanced_mode,
    "C2 aligned modes": aligned_modes,
    "C3 unbalanced mode": unbalanced_mode,
    "C4 zero-balanced 3-2-2": lambda: zero_balanced(3, 2, 2),
    "C4 zero-balanced 4-5-3": lambda: zero_balanced(4, 5, 3),
    "C4 zero-balanced 2-1-3": lambda: zero_balanced(2, 1, 3),
    "C4 zero-balanced 6-8-4": lambda: zero_balanced(6, 8, 4),
    "C5 lambda-balanced": lambda_balanced,
    "C6 chain of 3": lambda: equal_chain(3),
    "C6 chain of 4": lambda: equal_chain(4),
    "C8 diagonal scalar": diagonal_scalar,
    "C8 diagonal limit": diagonal_sample_limit,
    "C9 exponential": single_exponential,
    "C9 logistic": single_logistic,
    "C9 two-layer exponential": two_layer_exponential,
}


def chain_time_by_integral(start, end, strength, depth):
    """Time of a chain of equal weights from one value to another, by quadrature."""
    from scipy.integrate import quad

    return quad(
        lambda a: 1 / (a ** (depth - 1) * (strength - a**depth)), start, end, epsabs=0, epsrel=1e-12, limit=500
    )[0]
