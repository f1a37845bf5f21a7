"""Links that change the independent variable of a flow: they scale the velocity, and do nothing else.

Below the clock, a flow runs over the log of its objective: it then hands back log L as value, and the velocity
dstate/dT with dT = L dt, because every flow here is linear in the gradient. A flow in physical time works as well where
the number of the link says so. The chain of a loss clock begins with the descent, -d log L/dT.
"""

import math

import numpy as np

from gradflow.kernels.calls import call


def loss_clock(t, state, out, chain, numbers, layout, work, coefficients):
    """d log L/ds = -1; with coefficients[0] = 1 in the variable log(1 + s)."""
    rest = coefficients[1:]
    value = call(chain[1], t, state, out, chain[2:], numbers, layout, work, rest)
    scale = 1.0 / call(chain[0], t, state, out, chain[2:], numbers, layout, work, rest)
    if coefficients[0] != 0.0:
        scale *= np.exp(t)
    for i in range(out.size):
        out[i] *= scale
    return value


def log_time_clock(t, state, out, chain, numbers, layout, work, coefficients):
    """dt = (t + t0) dtau; coefficients: log t0, and whether the value is a logarithm."""
    elapsed = np.expm1(t) * np.exp(coefficients[0])
    value = call(chain[0], elapsed, state, out, chain[1:], numbers, layout, work, coefficients[2:])
    exponent = coefficients[0] + t
    if coefficients[1] != 0.0:
        exponent += value
    scale = np.exp(exponent)
    for i in range(out.size):
        out[i] *= scale
    return value


def length_clock(t, state, out, chain, numbers, layout, work, coefficients):
    """Arc length of the state; with coefficients[0] = 1 relative to the size of the state. Norms never underflow."""
    value = call(chain[0], t, state, out, chain[1:], numbers, layout, work, coefficients[1:])
    top, largest = 0.0, 0.0
    for i in range(out.size):
        top = max(top, abs(out[i]))
        largest = max(largest, abs(state[i]))
    speed, size = 0.0, 0.0
    for i in range(out.size):
        speed += (out[i] / top) ** 2
        size += (state[i] / largest) ** 2
    length = math.sqrt(size) * largest if coefficients[0] != 0.0 else 1.0
    scale = length / math.sqrt(speed)
    for i in range(out.size):
        out[i] = out[i] / top * scale
    return value


def polar_start(t, state, out, chain, numbers, layout, work, coefficients):
    """Relative length of the plain flow of a homogeneous network in (log |theta|, theta/|theta|).

    Below coefficients[0] the direction of the gradient no longer depends on log |theta|, and is taken there.
    """
    u = state[1:]
    gradient = out[1:]
    size = math.sqrt(np.dot(u, u))
    value = call(chain[0], np.exp(max(state[0], coefficients[0])) / size * u, gradient, numbers, layout, work)
    top = 0.0
    for i in range(gradient.size):
        top = max(top, abs(gradient[i]))
    speed, along = 0.0, 0.0
    for i in range(gradient.size):
        gradient[i] /= top
        speed += gradient[i] * gradient[i]
        along += gradient[i] * u[i]
    speed = math.sqrt(speed)
    along /= size * speed
    out[0] = -along
    for i in range(gradient.size):
        gradient[i] = along * u[i] / size - gradient[i] / speed
    return value


def plain_descent(t, state, out, chain, numbers, layout, work, coefficients):
    """|v|^2, for a flow v = -gradient in its own coordinates."""
    total = 0.0
    for i in range(out.size):
        total += out[i] * out[i]
    return total


def rated_descent(t, state, out, chain, numbers, layout, work, coefficients):
    """Sum of v_i^2/c_i, for time constants c."""
    total = 0.0
    for i in range(out.size):
        total += out[i] * out[i] / coefficients[i]
    return total


def polar_descent(t, state, out, chain, numbers, layout, work, coefficients):
    """Sum over groups of r'^2/eta_r(r) + |u'|^2/eta_u(r)."""
    groups, total = int(coefficients[0]), 0.0
    for k in range(groups):
        a, b = int(coefficients[7 + k]), int(coefficients[8 + k])
        radial, angular, turn = coefficients[3], coefficients[5], 0.0
        if coefficients[4] != 0.0:
            radial *= state[k] ** coefficients[4]
        if coefficients[6] != 0.0:
            angular *= state[k] ** coefficients[6]
        for i in range(groups + a, groups + b):
            turn += out[i] * out[i]
        total += out[k] * out[k] / radial + turn / angular
    return total


def log_polar_descent(t, state, out, chain, numbers, layout, work, coefficients):
    """The same for directions carried as log u."""
    radial, angular, turn = coefficients[3], coefficients[5], 0.0
    if coefficients[4] != 0.0:
        radial *= state[0] ** coefficients[4]
    if coefficients[6] != 0.0:
        angular *= state[0] ** coefficients[6]
    for i in range(1, out.size):
        turn += (np.exp(max(state[i], -230.0)) * out[i]) ** 2
    return out[0] * out[0] / radial + turn / angular


def weight_norm_descent(t, state, out, chain, numbers, layout, work, coefficients):
    """Sum of g'^2/eta_g + |v'|^2/eta_v."""
    groups, total, turn = int(coefficients[0]), 0.0, 0.0
    for k in range(groups):
        if coefficients[4 + k] != 0.0:
            total += out[k] * out[k] / coefficients[4 + k]
    for i in range(groups, out.size):
        turn += out[i] * out[i]
    return total + (turn / coefficients[3] if coefficients[3] != 0.0 else 0.0)
