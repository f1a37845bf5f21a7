"""Compiled passes between a state of scales and directions and theta, and the metric on gradients by the state.

The state holds `count` scales, then one direction per group, in order: entry i of the directions, from `starts` of its
group on, belongs to the parameter `order[i]`.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import OPTIONS

POLAR, WEIGHT_NORM, LM = range(3)


@njit(**OPTIONS)
def _products(state, starts, order, count, k, row):
    """Inner products of the direction of a group with itself, and with a vector of the size of theta."""
    square, along = 0.0, 0.0
    for i in range(starts[k], starts[k + 1]):
        square += state[count + i] * state[count + i]
        along += state[count + i] * row[order[i]]
    return square, along


@njit(**OPTIONS)
def _scale(kind, state, square, groups, k):
    """What multiplies the direction of a group in theta."""
    if kind == POLAR:
        return state[k]
    if kind == WEIGHT_NORM:
        return state[k] / math.sqrt(square)
    return state[0] if k == groups - 1 else 1.0


@entry("void(i8, f8[::1], i8[::1], i8[::1], i8, f8[::1])")
def parameters(kind, state, starts, order, count, out):
    """Fill theta."""
    for k in range(starts.size - 1):
        square = 0.0
        for i in range(starts[k], starts[k + 1]):
            square += state[count + i] * state[count + i]
        scale = _scale(kind, state, square, starts.size - 1, k)
        for i in range(starts[k], starts[k + 1]):
            out[order[i]] = scale * state[count + i]


@entry("void(i8, f8[::1], i8[::1], i8[::1], i8, f8[:, ::1], f8[:, ::1])")
def pulled(kind, state, starts, order, count, rows, out):
    """Gradients by the state from gradients by theta."""
    groups = starts.size - 1
    for m in range(len(rows)):
        for k in range(groups):
            square, along = _products(state, starts, order, count, k, rows[m])
            scale, share = _scale(kind, state, square, groups, k), 0.0
            if kind == WEIGHT_NORM:
                out[m, k], share = along / math.sqrt(square), along / square
            elif kind == POLAR or k == groups - 1:
                out[m, min(k, count - 1)] = along
            for i in range(starts[k], starts[k + 1]):
                out[m, count + i] = scale * (rows[m, order[i]] - share * state[count + i])


@entry("void(i8, f8[::1], i8[::1], i8, f8[::1], f8[::1], f8[:, ::1], f8[:, ::1])")
def raised(kind, state, starts, count, radial, angular, rows, out):
    """Gradients by the state times the metric: rates of the scales, rates of the directions, which turn only."""
    for m in range(len(rows)):
        for k in range(count):
            out[m, k] = radial[k] * rows[m, k]
        for k in range(starts.size - 1):
            square, along = 0.0, 0.0
            for i in range(count + starts[k], count + starts[k + 1]):
                square += state[i] * state[i]
                along += state[i] * rows[m, i]
            share = 0.0 if kind == WEIGHT_NORM else along / square
            for i in range(count + starts[k], count + starts[k + 1]):
                out[m, i] = angular[k] * (rows[m, i] - share * state[i])


@entry("void(f8[::1], i8[::1], i8, f8[::1])")
def lengths(state, starts, count, out):
    """Length of the direction of each group."""
    for k in range(starts.size - 1):
        square = 0.0
        for i in range(starts[k], starts[k + 1]):
            square += state[count + i] * state[count + i]
        out[k] = np.sqrt(square)
