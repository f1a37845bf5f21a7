"""Compiled proof that no pre-activation leaves its side inside a step, or doubt about it."""

import numpy as np
from numba import types

from gradflow.kernels.matrices import multiply_nt
from gradflow.kernels.procedures import address_of, integer_view, integers, keep, procedure, view
from gradflow.kinks.passes import BIAS, DEPTH, HEAD, INPUTS, LAYER, OUTPUTS, SAMPLES, SIZE, UNITS, X, pass_forward

INT = types.int64


@procedure(INT(INT, INT, INT, INT, INT, INT, INT))
def number_wrong(rows, cols, matrix, values, signs, slack, spare):
    """Number of entries of matrix (rows, rows) times values (rows, cols) on the wrong side of their column."""
    matrix, signs, slack, spare = view(matrix, rows * rows), view(signs, cols), view(slack, cols), view(spare, cols)
    wrong = 0
    for r in range(rows):
        spare[:] = 0.0
        for p in range(rows):
            weight, row = matrix[r * rows + p], view(values + 8 * p * cols, cols)
            if weight != 0.0:
                for i in range(cols):
                    spare[i] += weight * row[i]
        for i in range(cols):
            wrong += signs[i] * spare[i] < -slack[i]
    return wrong


@procedure(integers(6))
def first_layer_motion(layout, numbers, coefficients, degree, motion, cols):
    """Coefficients of the pre-activations of the first layer, row by row."""
    head, row = integer_view(layout, HEAD), integer_view(layout + 8 * HEAD, LAYER)
    n, width, inputs, size = head[SAMPLES], row[OUTPUTS], row[INPUTS], head[SIZE]
    for p in range(degree):
        block, target = coefficients + 8 * p * size, motion + 8 * p * cols
        multiply_nt(n, width, inputs, numbers + 8 * head[X], block, target, 0, 0, 0)
        if head[BIAS]:
            bias, values = view(block + 8 * width * inputs, width), view(target, cols)
            for i in range(n):
                for c in range(width):
                    values[i * width + c] += bias[c]


@procedure(INT(*[INT] * 9))
def first_layer_doubts(layout, numbers, coefficients, degree, z, signs, slack, cols, from_powers):
    """Bernstein coefficients on the wrong side, of the first layer's pre-activations as polynomials in time."""
    values, spare = np.empty((degree + 1, cols)), np.empty(cols)
    values[0] = view(z, cols)
    address = address_of(values)
    first_layer_motion(layout, numbers, coefficients, degree, address + 8 * cols, cols)
    found = number_wrong(degree + 1, cols, from_powers, address, signs, slack, address_of(spare))
    keep(values)
    keep(spare)
    return found


@procedure(INT(*[INT] * 13))
def upper_layers_doubts(
    layout, numbers, y, coefficients, degree, sigma, z, signs, slack, begin, nodes, count, from_values
):
    """The same for the units from `begin` on, by the polynomial through the values at the nodes (the first is 0)."""
    head = integer_view(layout, HEAD)
    units, size, last = head[UNITS], head[SIZE], integer_view(layout + 8 * (HEAD + LAYER * (head[DEPTH] - 1)), LAYER)
    cols, start, nodes = units - begin, view(y, size), view(nodes, count)
    values, spare, theta = np.empty((count, cols)), np.empty(4 * units), np.empty(size)
    outputs = np.empty(head[SAMPLES] * last[OUTPUTS])
    values[0] = view(z + 8 * begin, cols)
    for k in range(1, count):
        theta[:] = 0.0
        for p in range(degree - 1, -1, -1):
            row = view(coefficients + 8 * p * size, size)
            for i in range(size):
                theta[i] = (theta[i] + row[i]) * nodes[k]
        for i in range(size):
            theta[i] += start[i]
        pass_forward(layout, numbers, address_of(theta), sigma, address_of(spare), address_of(outputs))
        values[k] = spare[begin:units]
    side, room = signs + 8 * begin, slack + 8 * begin
    found = number_wrong(count, cols, from_values, address_of(values), side, room, address_of(spare))
    keep(values)
    keep(spare)
    keep(theta)
    keep(outputs)
    return found
