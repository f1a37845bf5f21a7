"""Fields for the tests of the stiff stepper.

The net is f(x) = w1 w2 x with one sample x = y = 1 and F = (1 - w1 w2)^2 / 2; from w1 = w2 the product s = w1 w2
solves s' = 2 s (1 - s).
"""

import math

import numpy as np
import pytest

import gradflow as gf
from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.steppers.choose import make_field
from gradflow.steppers.field import Field
from gradflow.steppers.stiff import Stiff

START = [0.1, 0.1]
FORMS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])
DENSE = pytest.mark.parametrize("dense", [True, None, False], ids=["dense", "auto", "matrix-free"])


def product_net(theta, out, numbers, layout, work):
    residual = 1.0 - theta[0] * theta[1]
    out[0] = -residual * theta[1]
    out[1] = -residual * theta[0]
    return 0.5 * residual * residual


def quadratic(theta, out, numbers, layout, work):
    """F = theta^T A theta / 2; not a number outside the cube of size layout[0], if that is positive."""
    matrix = numbers.reshape(theta.size, theta.size)
    value = 0.0
    for i in range(theta.size):
        out[i] = np.dot(matrix[i], theta)
        value += 0.5 * theta[i] * out[i]
        if layout[0] > 0 and abs(theta[i]) > layout[0]:
            value = math.nan
    return value


def riccati(theta, out, numbers, layout, work):
    """F = theta^3 / 3 - theta: the flow theta' = 1 - theta^2."""
    out[0] = theta[0] ** 2 - 1.0
    return theta[0] ** 3 / 3.0 - theta[0]


def double_well(theta, out, numbers, layout, work):
    """F = (theta_0^2 - 1)^2 / 4 + 500 theta_1^2: a saddle at 0, a narrow valley through it."""
    out[0] = theta[0] ** 3 - theta[0]
    out[1] = 1000.0 * theta[1]
    return 0.25 * (theta[0] ** 2 - 1.0) ** 2 + 500.0 * theta[1] ** 2


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value


def ascent(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = theta^2 for a bowl of curvature 1."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = out * out
    return value


def log_time(s, state, out, chain, numbers, layout, work, coefficients):
    """Clock s = log(1 + t)."""
    value = call(chain[0], math.exp(s) - 1.0, state, out, chain[1:], numbers, layout, work, coefficients)
    out *= math.exp(s)
    return value


def ramp(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = (1 + tanh(100 (t - 5))) / 2, nothing before t = 5."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = 0.5 + 0.5 * math.tanh(100.0 * (t - 5.0))
    return value


def field(gradient, compiled=True, numbers=(0.0,), links=(flow,), cube=0):
    layout = np.array([cube], dtype=np.int64)
    numbers = np.array(numbers, dtype=np.float64).ravel()
    return Field(links, Kernel("test", gradient, None, numbers, layout, 1, compiled=compiled, flops=100.0))


def logistic(t, s0=0.01):
    return 1.0 / (1.0 + (1.0 / s0 - 1.0) * np.exp(-2.0 * np.asarray(t)))


def net_stepper(compiled=True, tol=1e-6, **options):
    return Stiff(field(product_net, compiled), 0.0, START, rtol=tol, atol=tol, **options)


def rotated(eigenvalues, seed=0):
    """Symmetric matrix with given eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))[0]
    return q * eigenvalues @ q.T


def small_net(n=200):
    """A 3-8-1 tanh network on noisy data of a teacher, P = 41: the curvature falls from 4 to 1e-5."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((n, 3))
    hidden = np.tanh(x @ (1.5 * rng.standard_normal((4, 3)) / math.sqrt(3)).T)
    y = hidden @ (0.75 * rng.standard_normal((1, 4))).T + 0.1 * rng.standard_normal((n, 1))
    problem = gf.Problem(gf.FullyConnected([3, 8, 1], "tanh", bias=True), gf.losses.Square(half=True), x, y)
    return problem, problem.init(seed=9)


def small_run(problem, theta, tol, **options):
    chain = make_field(problem, gf.GradientFlow(), problem.kernel)
    return Stiff(chain, 0.0, theta, rtol=tol, atol=1e-2 * tol, **options)


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def bits(stepper):
    """All that must agree bit for bit between two runs that end at the same time."""
    return stepper.t, *stepper.state, *stepper.velocity, stepper.value
