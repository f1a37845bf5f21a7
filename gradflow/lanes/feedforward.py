"""Gradient of plain feedforward networks for eight runs at a time, on the numbers of the single kernel.

Values of a layer are stored unit by unit, then sample by sample, (width, samples, lanes).
"""

import numpy as np
from numba import njit

from gradflow.kernels.calls import GRADIENT
from gradflow.kernels.elementwise import activate
from gradflow.kernels.entries import entry
from gradflow.kernels.feedforward import (
    BIAS,
    CHUNK,
    CODE,
    CONSTANT,
    DECAY,
    DELTA,
    DEPTH,
    FACTOR,
    FIXED,
    HEAD,
    IDENTITY,
    INPUTS,
    LOSS,
    OUTPUTS,
    SAMPLES,
    SIZE,
    SKIP,
    SLOPE,
    SLOPES,
    SPARE,
    STAGE,
    TARGETS,
    VALUES,
    WEIGHT,
    X,
    Y,
)
from gradflow.kernels.kernel import Kernel
from gradflow.kernels.procedures import EXACT, address_of, integer_view, view
from gradflow.lanes.objective import SERVED, add_penalty, differentiate_outputs, widened
from gradflow.lanes.vectors import BYTES, LANES, add_to_rows, multiply, multiply_shared, sum_rows


@njit(**EXACT)
def _row(layout, stage):
    """Entries of the layout that belong to a stage."""
    return integer_view(layout + 8 * (HEAD + STAGE * stage), STAGE)


@njit(**EXACT)
def _forward(n, depth, theta, numbers, layout, work, x):
    """Values and slopes of all layers."""
    below = x
    for stage in range(depth):
        row = _row(layout, stage)
        rows, inner, weight = row[OUTPUTS], row[INPUTS], theta + BYTES * row[WEIGHT]
        values, linear = work + BYTES * row[VALUES], row[SLOPE] < 0
        target = values if linear else work + BYTES * row[DELTA]
        if stage == 0:
            multiply_shared(rows, n, inner, weight, inner, 1, below, n, 1, target)
        else:
            multiply(rows, n, inner, weight, inner, 1, below, n, 1, target)
        if row[BIAS] >= 0:
            add_to_rows(rows, n, theta + BYTES * row[BIAS], target)
        if not linear:
            slope = view(numbers + 8 * (SLOPES + stage), 1)[0]
            activate(row[CODE], slope, LANES * rows * n, target, values, work + BYTES * row[SLOPE])
        below = values


@njit(**EXACT)
def _scale(count, target, by):
    target, by = view(target, count), view(by, count)
    for i in range(count):
        target[i] *= by[i]


@njit(**EXACT)
def _backward(n, depth, theta, out, layout, work, x):
    """Gradients from the derivatives in the outputs, which are in DELTA of the last layer."""
    for stage in range(depth - 1, -1, -1):
        row = _row(layout, stage)
        rows, cols, delta = row[OUTPUTS], row[INPUTS], work + BYTES * row[DELTA]
        if row[SLOPE] >= 0:
            _scale(LANES * rows * n, delta, work + BYTES * row[SLOPE])
        if row[BIAS] >= 0:
            sum_rows(rows, n, delta, out + BYTES * row[BIAS])
        target = out + BYTES * row[WEIGHT]
        if stage == 0:
            multiply_shared(rows, cols, n, delta, n, 1, x, 1, n, target)
        else:
            lower = _row(layout, stage - 1)
            multiply(rows, cols, n, delta, n, 1, work + BYTES * lower[VALUES], 1, n, target)
            weight = theta + BYTES * row[WEIGHT]
            multiply(cols, n, rows, weight, 1, cols, delta, n, 1, work + BYTES * lower[DELTA])


@entry(GRADIENT, exact=True)
def gradient(theta, out, numbers, layout, work):
    """Gradients; the values come first in work."""
    parameters, result, data = address_of(theta), address_of(out), address_of(numbers)
    places, values = address_of(layout), address_of(work)
    place = values + BYTES
    depth, n = layout[DEPTH], layout[SAMPLES]
    last = _row(places, depth - 1)
    x, y, spare = data + 8 * layout[X], data + 8 * layout[layout.size - 1], place + BYTES * layout[SPARE]
    f, d = place + BYTES * last[VALUES], place + BYTES * last[DELTA]
    _forward(n, depth, parameters, data, places, place, x)
    constant, outputs = numbers[CONSTANT], last[OUTPUTS]
    differentiate_outputs(layout[LOSS], numbers[FACTOR], constant, outputs, n, f, y, d, spare, values)
    _backward(n, depth, parameters, result, places, place, x)
    add_penalty(layout[SIZE], numbers[DECAY], parameters, result, values, spare)
    return 0.0


def widen(kernel: Kernel) -> Kernel | None:
    """Kernel of lanes beside a single one; None where it does not serve."""
    layout = kernel.layout
    rows, n = layout[HEAD:].reshape(-1, STAGE), layout[SAMPLES]
    plain = np.all(rows[:, [FIXED, IDENTITY, SKIP]] < 0)
    if not plain or layout[LOSS] not in SERVED or layout[CHUNK] < n:
        return None
    y = kernel.numbers[layout[Y] : layout[Y] + n * layout[TARGETS]]
    return widened(kernel, "feedforward in lanes", gradient, y)
