"""Passes over the vectors of the Adams stepper, each in a numpy form and in a form for compiled code."""

import math

import numpy as np

from gradflow.kernels.procedures import address_of, view
from gradflow.kernels.sums import add_rows as add_rows_at
from gradflow.kernels.sums import sum_rows_three
from gradflow.steppers.adaptive import assign, assign_loops, distance, distance_loops, stage, stage_view

BLOCK = 512
"""Entries whose sums are taken together, so that they stay in the cache."""


def add_rows(out, base, count, weights, rows, places):
    """Write base + sum over l < count of weights[3, l] rows[places[l]] to out."""
    np.add(base, np.dot(weights[3, :count], rows[places[:count]]), out=out)


def add_rows_loop(out, base, count, weights, rows, places):
    """The same for compiled code."""
    step, row, target = rows.strides[0] // 8, address_of(weights) + 3 * weights.strides[0], address_of(out)
    add_rows_at(out.size, count, row, address_of(places), address_of(rows), step, address_of(base), target, 1.0)


def correct(out, y, p, gain, count, weights, rows, places, rtol, atol, parts, norms):
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


def correct_loop(out, y, p, gain, count, weights, rows, places, rtol, atol, parts, norms):
    """The same for compiled code, by blocks that stay in the cache."""
    step, width, first, table = rows.strides[0] // 8, parts.strides[0], address_of(parts), address_of(weights)
    for j in range(norms.size):
        norms[j] = 0.0
    for start in range(0, y.size, BLOCK):
        size, shift = min(BLOCK, y.size - start), 8 * start
        block = address_of(rows) + shift
        sum_rows_three(size, count, table, address_of(places), block, step, first, weights.strides[0] // 8, width // 8)
        low, middle, high = view(first, size), view(first + width, size), view(first + 2 * width, size)
        here, there = view(address_of(y) + shift, size), view(address_of(p) + shift, size)
        shown = view(address_of(out) + shift, size)
        for i in range(size):
            shown[i] = there[i] + gain * middle[i]
        add_squares((here, there, view(address_of(atol) + shift, size)), low, middle, high, rtol, norms)
    for j in range(norms.size):
        norms[j] = math.sqrt(norms[j] / y.size if j < 3 else norms[j])


def add_squares(terms, low, middle, high, rtol, norms):
    """Add the squares of one block to the squared norms."""
    (y, p, atol), (a, b, c, d, e) = terms, (0.0, 0.0, 0.0, 0.0, 0.0)
    for i in range(y.size):
        scale = 1.0 / (atol[i] + rtol * max(abs(y[i]), abs(p[i])))
        a += (low[i] * scale) ** 2
        b += (middle[i] * scale) ** 2
        c += (high[i] * scale) ** 2
        d += y[i] ** 2
        e += middle[i] ** 2
    norms[0] += a
    norms[1] += b
    norms[2] += c
    norms[3] += d
    norms[4] += e


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


HELPERS = (add_squares,)
TWINS = (
    (add_rows, add_rows_loop),
    (correct, correct_loop),
    (mix, mix_loop),
    (start_speed, start_speed_loop),
    (distance, distance_loops),
    (assign, assign_loops),
    (stage, stage_view),
)
