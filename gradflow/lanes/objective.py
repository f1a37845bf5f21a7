"""Losses and penalty of eight runs at a time: derivatives in the outputs as for eight times the samples, values apart.

The numbers of a kernel of lanes end with the targets, each as often as there are lanes; the last entry of its layout
says where they begin.
"""

import math

import numpy as np
from numba import njit, types

from gradflow.kernels.kernel import Kernel
from gradflow.kernels.loss_terms import CROSS_ENTROPY, EXPONENTIAL, LOGISTIC, SQUARE, differentiate
from gradflow.kernels.procedures import EXACT, procedure, view
from gradflow.lanes.vectors import BYTES, LANES, dot

INT, FLOAT = types.int64, types.float64
SERVED = (SQUARE, EXPONENTIAL, LOGISTIC, CROSS_ENTROPY)


def widened(kernel: Kernel, name: str, gradient, y: np.ndarray) -> Kernel:
    """Kernel of lanes on the numbers and the layout of a single kernel; y are its targets, in its order."""
    numbers = np.concatenate([kernel.numbers, np.repeat(y, LANES)])
    layout = np.append(kernel.layout, kernel.numbers.size)
    work_size = LANES * (kernel.work_size + 1)
    return Kernel(name, gradient, None, numbers, layout, work_size, compiled=True, flops=LANES * kernel.flops)


@njit(**EXACT)
def _logistic_value(factor, count, f, y, log, value):
    f, y, log, value = view(f, count), view(y, count), view(log, count), view(value, LANES)
    for i in range(count):
        margin = y[i] * f[i]
        log[i] += 0.0 if margin > 0.0 else -margin
    for lane in range(LANES):
        total = 0.0
        for i in range(0, count, LANES):
            total += log[i + lane]
        value[lane] = factor * total


@njit(**EXACT)
def _cross_entropy_value(factor, count, classes, f, label, spare, value):
    """From top, the largest of 0 and all f_j - f_label, and what `differentiate` has left in `spare`."""
    f, label, value = view(f, classes * count), view(label, count), view(value, LANES)
    spare = view(spare, 3 * count)
    for lane in range(LANES):
        total = 0.0
        for i in range(lane, count, LANES):
            own, top = f[int(label[i]) * count + i], 0.0
            for j in range(classes):
                difference = f[j * count + i] - own
                top = top if difference <= top else difference
            others, weight = spare[2 * count + i], spare[count + i] / factor
            total += math.log1p(others) if top == 0.0 else top - math.log(weight)
        value[lane] = factor * total


@procedure(types.void(INT, FLOAT, FLOAT, INT, INT, INT, INT, INT, INT, INT), exact=True)
def differentiate_outputs(code, factor, constant, outputs, n, f, y, d, spare, values):
    """d = derivatives of the loss in the outputs f; the values of the loss plus a constant go to `values`."""
    count = outputs * n
    differentiate(code, factor, LANES * n, outputs, f, y, d, spare)
    value = view(values, LANES)
    if code == SQUARE:
        dot(count, d, d, values)
        for lane in range(LANES):
            value[lane] = constant + 0.25 / factor * value[lane]
    elif code == EXPONENTIAL:
        dot(count, y, d, values)
        for lane in range(LANES):
            value[lane] = constant - value[lane]
    elif code == LOGISTIC:
        _logistic_value(factor, LANES * count, f, y, spare + BYTES * count, values)
    else:
        _cross_entropy_value(factor, LANES * n, outputs, f, y, spare, values)


@procedure(types.void(INT, FLOAT, INT, INT, INT, INT), exact=True)
def add_penalty(size, decay, theta, out, values, spare):
    """Add decay |theta|^2 to the values and its derivative to the gradients; `spare` has room for one entry."""
    if decay == 0.0:
        return
    dot(size, theta, theta, spare)
    value, square = view(values, LANES), view(spare, LANES)
    for lane in range(LANES):
        value[lane] += decay * square[lane]
    theta, out = view(theta, LANES * size), view(out, LANES * size)
    for i in range(LANES * size):
        out[i] += 2.0 * decay * theta[i]
