"""The start of an explicit run: velocity there and size of the first step; one source, compiled or interpreted."""

import math
from typing import Any

import numpy as np

from gradflow.kernels.calls import call, compiled


def scaled_norm(a, b, y, rtol, atol):
    """Root mean square of a - b, each entry over the tolerance at y."""
    return np.linalg.norm((a - b) / (atol + rtol * np.abs(y))) / math.sqrt(y.size)


def scaled_norm_loops(a, b, y, rtol, atol):
    """The same for compiled code."""
    total = 0.0
    for i in range(y.size):
        total += ((a[i] - b[i]) / (atol[i] + rtol * abs(y[i]))) ** 2
    return math.sqrt(total / y.size)


def add(out, a, factor, b):
    """Write a + factor b to out."""
    np.add(a, factor * b, out=out)


def add_loops(out, a, factor, b):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a[i] + factor * b[i]


def evaluate(rhs, t, state, out):
    """One evaluation of the right-hand side."""
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def first_step(rhs, t, y, velocity, scratch, probed, rtol, atol, order):
    """Hairer's first step: an explicit Euler step probes the second derivative; ``probed`` is the velocity after it."""
    add(scratch, y, -1.0, y)
    size, speed = scaled_norm(y, scratch, y, rtol, atol), scaled_norm(velocity, scratch, y, rtol, atol)
    h = 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed
    add(scratch, y, h, velocity)
    evaluate(rhs, t + h, scratch, probed)
    bend = scaled_norm(probed, velocity, y, rtol, atol) / h
    if not bend < math.inf:
        return h
    steep = max(speed, bend)
    guess = (0.01 / steep) ** (1.0 / order) if steep > 1e-15 else max(1e-6, 1e-3 * h)
    return min(100.0 * h, guess)


def scaled_length(velocity, y, rtol, atol):
    """Root mean square of a velocity, each entry over the tolerance at y."""
    return scaled_norm(velocity, np.zeros(y.size), y, rtol, atol)


_HELPERS = (evaluate,)
_TWINS = ((scaled_norm, scaled_norm_loops), (add, add_loops))


def propose_first_step(field: Any, t: float, y, velocity, scratch, probed, control: Any, order: float) -> float:
    """Size of the first step of a method of an order; it costs one gradient, which is left in ``probed``."""
    arguments = (field.rhs, t, y, velocity, scratch, probed, control.rtol, control.atol, order)
    if field.compiled:
        return compiled(first_step, helpers=_HELPERS, twins=_TWINS)(*arguments)
    with np.errstate(all="ignore"):
        return float(first_step(*arguments))


def first_speed(field: Any, velocity, y, rtol: float, atol) -> float:
    """How many tolerances a run moves at first in a unit of time."""
    if field.compiled:
        return compiled(scaled_length, twins=_TWINS)(velocity, y, rtol, atol)
    with np.errstate(all="ignore"):
        return float(scaled_length(velocity, y, rtol, atol))
