"""Fields for the tests of the own steppers.

The net is f(x) = w1 w2 x with one sample x = y = 1 and F = (1 - w1 w2)^2 / 2; from w1 = w2 the product s = w1 w2
solves s' = 2 s (1 - s).
"""

import math

import numpy as np
import pytest

from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.steppers.field import Field

START = [0.1, 0.1]
FORMS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])


def product_net(theta, out, numbers, layout, work):
    residual = 1.0 - theta[0] * theta[1]
    out[0] = -residual * theta[1]
    out[1] = -residual * theta[0]
    return 0.5 * residual * residual


def bowl(theta, out, numbers, layout, work):
    """F = sum numbers_i theta_i^2 / 2, not a number outside the cube of size layout[0], if that is positive."""
    value = 0.0
    for i in range(theta.size):
        out[i] = numbers[i] * theta[i]
        value += 0.5 * out[i] * theta[i]
        if layout[0] > 0 and abs(theta[i]) > layout[0]:
            value = math.nan
    return value


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value


def ascent(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = theta^2 / 2 for a bowl of curvature 1."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = 0.5 * out * out
    return value


def forced(t, state, out, chain, numbers, layout, work, coefficients):
    """theta' = cos t - lambda (theta - sin t): the solution from 0 is sin t."""
    value = call(chain[0], state, out, numbers, layout, work)
    for i in range(state.size):
        out[i] = math.cos(t) - out[i] + numbers[i] * math.sin(t)
    return value


def walled(t, state, out, chain, numbers, layout, work, coefficients):
    """The same, but not a number where an entry is beyond coefficients[0]."""
    value = call(chain[0], state, out, numbers, layout, work)
    for i in range(state.size):
        out[i] = math.cos(t) - out[i] + numbers[i] * math.sin(t)
        if abs(state[i]) > coefficients[0]:
            out[i] = math.nan
    return value


def log_time(s, state, out, chain, numbers, layout, work, coefficients):
    """Clock s = log(1 + t)."""
    value = call(chain[0], math.exp(s) - 1.0, state, out, chain[1:], numbers, layout, work, coefficients)
    out *= math.exp(s)
    return value


def net_field(compiled=True, *clocks):
    kernel = Kernel("net", product_net, None, np.zeros(1), np.zeros(1, np.int64), 1, compiled=compiled, flops=6.0)
    return Field((*clocks, flow), kernel)


def bowl_field(curvatures, compiled=True, link=flow, cube=0, numbers=()):
    layout = np.array([cube], dtype=np.int64)
    kernel = Kernel("bowl", bowl, None, np.array(curvatures, dtype=float), layout, 1, compiled=compiled, flops=2.0)
    return Field((link,), kernel, numbers)


def logistic(t, s0=0.01):
    return 1.0 / (1.0 + (1.0 / s0 - 1.0) * np.exp(-2.0 * np.asarray(t)))


def record(stepper):
    """All that must agree bit for bit between two runs that end in the same state."""
    own = (stepper.step, stepper.rho) if hasattr(stepper, "rho") else ()
    return stepper.t, *stepper.state, *stepper.velocity, stepper.value, *own
