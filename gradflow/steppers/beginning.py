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


def all_finite(a, b):
    """Whether no entry is NaN or infinite."""
    return np.isfinite(a).all() and np.isfinite(b).all()


def all_finite_loops(a, b):
    """The same for compiled code."""
    wrong = 0
    for i in range(a.size):
        wrong += not (abs(a[i]) < math.inf and abs(b[i]) < math.inf)
    return wrong == 0


def first_step(rhs, t, y, velocity, scratch, probed, rtol, atol, order):
    """Objective at the start, whose velocity is written, and the first step; 0 where the start is not finite.

    Hairer's first step: an explicit Euler step probes the second derivative; ``probed`` is the velocity after it.
    """
    value = evaluate(rhs, t, y, velocity)
    if not (abs(value) < math.inf and all_finite(y, velocity)):
        return value, 0.0
    return value, _first_step(rhs, t, y, velocity, scratch, probed, rtol, atol, order)


def _first_step(rhs, t, y, velocity, scratch, probed, rtol, atol, order):
    """Size of the first step."""
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


_HELPERS = (evaluate, _first_step)
_TWINS = ((scaled_norm, scaled_norm_loops), (add, add_loops), (all_finite, all_finite_loops))


def checked_first_step(first_step: float) -> None:
    """Raise unless a first step that is given is positive."""
    if not first_step > 0.0:
        raise ValueError(f"first_step = {first_step}: the first step must be positive; leave it out for a guess")


def begin(field: Any, t: float, y, velocity, scratch, probed, control: Any, order: float) -> tuple[float, float]:
    """Objective at the start, whose velocity is written, and the first step of a method of an order.

    It costs two gradients, the second left in ``probed``; or one, where the start is not finite, and the step is 0.
    """
    arguments = (field.rhs, t, y, velocity, scratch, probed, control.rtol, control.atol, order)
    if field.compiled:
        return compiled(first_step, helpers=_HELPERS, twins=_TWINS, views=())(*arguments)
    with np.errstate(all="ignore"):
        value, step = first_step(*arguments)
    return value, float(step)


def write(record: np.ndarray, t: float, step: float, value: float, gradients: int) -> None:
    """Write where a run begins to the first row of its record."""
    start = {"t": t, "t_before": t, "h": step, "h_tried": step, "value": value, "gradients": gradients}
    for name, number in (start | {"error_before": 1e-4, "held_for": math.nan}).items():
        record[name][0] = number
