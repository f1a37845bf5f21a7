"""Passes over the vectors of the Adams stepper, each in a numpy form and in a form for compiled code."""

import math

import numpy as np

from gradflow.kernels.correction import correct_rows
from gradflow.kernels.procedures import address_of
from gradflow.kernels.sums import add_rows as add_rows_at
from gradflow.steppers.adaptive import assign, assign_loops, distance, distance_loops, stage, stage_view


def add_rows(out, base, count, weights, rows, places):
    """Write base + sum over l < count of weights[3, l] rows[places[l]] to out."""
    np.add(base, np.dot(weights[3, :count], rows[places[:count]]), out=out)


def add_rows_loop(out, base, count, weights, rows, places):
    """The same for compiled code."""
    step, row, target = rows.strides[0] // 8, address_of(weights) + 3 * weights.strides[0], address_of(out)
    add_rows_at(out.size, count, row, address_of(places), address_of(rows), step, address_of(base), target, 1.0)


def correct(out, y, p, gain, count, weights, rows, places, rtol, atol, norms):
    """Write p + gain d[1] to out, d the three weighted sums of `count` rows, and norms.

    These are the root mean squares of d[0], d[1], d[2], entries over their tolerances, and the lengths of y and d[1].
    """
    scale = atol + rtol * np.maximum(np.abs(y), np.abs(p))
    for j in range(3):
        d = np.dot(weights[j, :count], rows[places[:count]])
        norms[j] = math.sqrt(np.dot(d / scale, d / scale) / y.size)
        if j == 1:
            out[:] = p + gain * d
            norms[4] = math.sqrt(np.dot(d, d))
    norms[3] = math.sqrt(np.dot(y, y))


def correct_loop(out, y, p, gain, count, weights, rows, places, rtol, atol, norms):
    """The same for compiled code."""
    table, step, row = address_of(weights), weights.strides[0] // 8, rows.strides[0] // 8
    here, there, tolerance, target = address_of(y), address_of(p), address_of(atol), address_of(out)
    first, found = address_of(rows), address_of(norms)
    correct_rows(
        y.size, count, table, step, address_of(places), first, row, here, there, tolerance, target, found, gain, rtol
    )
    for j in range(norms.size):
        norms[j] = math.sqrt(norms[j] / y.size if j < 3 else norms[j])


def mix(out, a, b, share):
    """Write (1 - share) a + share b to out."""
    out[:] = (1.0 - share) * a + share * b


def mix_loop(out, a, b, share):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = (1.0 - share) * a[i] + share * b[i]


def start_speed(velocity, y, rtol, atol):
    """How many tolerances a run moves at first in a unit of time; -1 where an entry is not finite."""
    if not (np.isfinite(velocity).all() and np.isfinite(y).all()):
        return -1.0
    scaled = velocity / (atol + rtol * np.abs(y))
    return math.sqrt(np.dot(scaled, scaled) / y.size)


def start_speed_loop(velocity, y, rtol, atol):
    """The same for compiled code."""
    total, wrong = 0.0, 0
    for i in range(y.size):
        wrong += not (abs(y[i]) < math.inf and abs(velocity[i]) < math.inf)
        total += (velocity[i] / (atol[i] + rtol * abs(y[i]))) ** 2
    return math.sqrt(total / y.size) if wrong == 0 else -1.0


TWINS = (
    (add_rows, add_rows_loop),
    (correct, correct_loop),
    (mix, mix_loop),
    (start_speed, start_speed_loop),
    (distance, distance_loops),
    (assign, assign_loops),
    (stage, stage_view),
)
