r"""The last small step of eight states to their balance, by the matrices that no two groups of units share.

With one such matrix X in each group, :math:`X \mathrel{+}= Z X` where :math:`Z X X^\top` is half of what is missing
of :math:`f X X^\top`: exact up to the square of the step, without the factor of all constraints. It is not the way to
the nearest point, by the condition of X, and therefore is kept for a small part of the drift.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.balance import OFFSET, OUTER, UNITS, VALUE
from gradflow.kernels.procedures import EXACT, address_of
from gradflow.lanes.balance_room import add, entries, shape
from gradflow.lanes.vectors import BYTES, LANES, multiply

SMALL_PART, LEAST_PART = 0.2, 1e-5
"""Part of the drift that may be taken from own matrices, where these are orthogonal; below the second, none is."""


@njit(**EXACT)
def _factor_lanes(G, n):
    """Cholesky factor of a matrix in each lane, in place; smallest and largest pivot."""
    least, most = np.inf, 0.0
    for j in range(n):
        for i in range(j, n):
            own = entries(G, i * n + j, 1)
            for k in range(j):
                left, right = entries(G, i * n + k, 1), entries(G, j * n + k, 1)
                for lane in range(LANES):
                    own[lane] -= left[lane] * right[lane]
        pivot = entries(G, j * (n + 1), 1)
        for lane in range(LANES):
            least, most = min(least, pivot[lane]), max(most, pivot[lane])
            pivot[lane] = 1.0 / math.sqrt(pivot[lane])
        for i in range(j + 1, n):
            own = entries(G, i * n + j, 1)
            for lane in range(LANES):
                own[lane] *= pivot[lane]
    return least, most


@njit(**EXACT)
def _invert_lanes(L, n):
    """Inverse of the factor in each lane, in place, with zeros above; the diagonal comes inverted."""
    for j in range(n):
        for i in range(j + 1, n):
            own, first, pivot = entries(L, i * n + j, 1), entries(L, j * (n + 1), 1), entries(L, i * (n + 1), 1)
            for lane in range(LANES):
                own[lane] *= first[lane]
            for k in range(j + 1, i):
                left, right = entries(L, i * n + k, 1), entries(L, k * n + j, 1)
                for lane in range(LANES):
                    own[lane] += left[lane] * right[lane]
            for lane in range(LANES):
                own[lane] *= -pivot[lane]
        for i in range(j):
            above = entries(L, i * n + j, 1)
            for lane in range(LANES):
                above[lane] = 0.0


@njit(**EXACT)
def _own(program, room, g):
    """Factor of X X^T of the matrix that a group has for itself; its smallest pivot over the largest."""
    t, units = room.own[g], program.groups[g, UNITS]
    _, rest, along, across = shape(program, t)
    x, G = address_of(room.theta) + BYTES * program.terms[t, OFFSET], room.multiplier
    multiply(units, units, rest, x, along, across, x, across, along, address_of(G))
    least, most = _factor_lanes(G, units)
    return least / most


@njit(**EXACT)
def small_part(program, room):
    """Part of the drift that may be taken from own matrices."""
    part = 0.0 if room.own.size == 0 else np.inf
    for g in range(room.own.size):
        part = min(part, SMALL_PART * math.sqrt(max(0.0, _own(program, room, g))))
    return part if part > LEAST_PART else 0.0


@njit(**EXACT)
def finish(program, room):
    """Take what is missing from the own matrix of each group: X += Z X, where Z X X^T = missing / (2 f)."""
    for g in range(program.groups.shape[0]):
        t, units = room.own[g], program.groups[g, UNITS]
        _, rest, along, _ = shape(program, t)
        _own(program, room, g)
        _invert_lanes(room.multiplier, units)
        L, missing = address_of(room.multiplier), address_of(room.missing) + BYTES * program.groups[g, VALUE]
        x, Z, out = address_of(room.theta) + BYTES * program.terms[t, OFFSET], missing, address_of(room.scratch)
        multiply(units, units, units, L, units, 1, missing, units, 1, out)
        multiply(units, units, units, L, 1, units, out, units, 1, Z)
        if program.terms[t, OUTER] == 1:
            multiply(units, rest, units, Z, 1, units, x, along, 1, out)
        else:
            multiply(rest, units, units, x, units, 1, Z, units, 1, out)
        change = entries(room.theta, program.terms[t, OFFSET], units * rest)
        add(change, 0.5 / program.factors[t], room.scratch)
