r"""The last small step of eight states to their balance, by the matrices that no two groups of units share.

With one such matrix X in each group, :math:`X \mathrel{+}= (Z - Z^2/2) X` where :math:`Z X X^\top` is half of what is
missing of :math:`f X X^\top`: exact up to the cube of the step, without the factor of all constraints. It is not the
way to the nearest point, by the condition of X, and therefore is taken only where it is short beside the way before.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.balance import OFFSET, OUTER, UNITS, VALUE
from gradflow.kernels.procedures import EXACT, address_of
from gradflow.lanes.balance_room import add, entries, shape
from gradflow.lanes.vectors import BYTES, LANES, dot, multiply

SMALL_PART, EPSILON = 0.2, 1e-15
"""Longest such step beside the way of the multipliers; its rounding over what it takes away, for orthogonal rows."""


@njit(**EXACT)
def _factor(G, n, spare):
    """Cholesky factor L of a matrix in each lane, in place, its diagonal inverted; smallest and largest pivot."""
    least, most = np.inf, 0.0
    start = address_of(G)
    for j in range(n):
        for i in range(j, n):
            own = entries(G, i * n + j, 1)
            dot(j, start + BYTES * i * n, start + BYTES * j * n, address_of(spare))
            for lane in range(LANES):
                own[lane] -= spare[lane]
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
def _invert(G, n, spare):
    """Transposed inverse of such a factor in each lane, in place, with zeros below the diagonal."""
    start = address_of(G)
    for i in range(1, n):
        pivot = entries(G, i * (n + 1), 1)
        for j in range(i):
            dot(i - j, start + BYTES * (i * n + j), start + BYTES * j * (n + 1), address_of(spare))
            own = entries(G, j * n + i, 1)
            for lane in range(LANES):
                own[lane] = -pivot[lane] * spare[lane]
    for i in range(1, n):
        entries(G, i * n, i)[:] = 0.0


@njit(**EXACT)
def note_way(room):
    """Keep the square of the longest move of each lane by multipliers."""
    square = entries(room.sums, 0, 1)
    dot(room.change.size // LANES, address_of(room.change), address_of(room.change), address_of(square))
    longest = 0.0
    for lane in range(LANES):
        longest = max(longest, square[lane])
        room.way[lane] = max(room.way[lane], longest)


@njit(**EXACT)
def may_finish(room, worst):
    """Whether a last step is likely to be short enough, by the length of the one before."""
    shortest = np.inf
    for lane in range(LANES):
        shortest = min(shortest, room.way[lane])
    return room.own.size > 0 and (room.gain[0] * worst) ** 2 <= SMALL_PART**2 * shortest


@njit(**EXACT)
def _own_change(program, room, g, worst):
    """Change of the matrix that a group has for itself, and what is then missing, over the size of the group."""
    t, units, f = room.own[g], program.groups[g, UNITS], program.factors[room.own[g]]
    _, rest, along, across = shape(program, t)
    first, square, cube = program.terms[t, OFFSET], entries(room.sums, 0, 1), entries(room.sums, 2, 1)
    x, missing = address_of(room.theta) + BYTES * first, address_of(room.missing) + BYTES * program.groups[g, VALUE]
    G, change, Z = address_of(room.multiplier), address_of(room.change) + BYTES * first, address_of(room.scratch)
    multiply(units, units, rest, x, along, across, x, across, along, G)
    least, most = _factor(room.multiplier, units, square)
    _invert(room.multiplier, units, square)
    multiply(units, units, units, G, 1, units, missing, units, 1, change)
    multiply(units, units, units, G, units, 1, change, units, 1, Z)
    multiply(units, units, units, Z, units, 1, Z, units, 1, G)
    own = entries(room.scratch, 0, units * units)
    for i in range(own.size):
        own[i] = (0.5 / f) * (own[i] - (0.25 / f) * room.multiplier[i])
    if program.terms[t, OUTER] == 1:
        multiply(units, rest, units, Z, 1, units, x, along, 1, change)
    else:
        multiply(rest, units, units, x, units, 1, Z, units, 1, change)
    dot(units * units, Z, Z, address_of(cube))
    dot(units * rest, change, change, address_of(square))
    total, sizes = entries(room.sums, 1, 1), entries(room.sizes, g, 1)
    left = EPSILON * worst * most / least if least > 0.0 else np.inf
    for lane in range(LANES):
        total[lane] += square[lane]
        left = max(left, 2.0 * abs(f) * square[lane] * math.sqrt(cube[lane]) / sizes[lane])
    return left


@njit(**EXACT)
def finish(program, room, worst):
    """Take what is missing from the own matrix of each group: X += (Z - Z^2/2) X, where Z X X^T = missing / (2 f).

    Returns what may be missing then, over the size of the groups; infinite where nothing was done, as the step would
    not be short beside the way of the multipliers.
    """
    total, left = entries(room.sums, 1, 1), 0.0
    total[:] = 0.0
    for g in range(program.groups.shape[0]):
        left = max(left, _own_change(program, room, g, worst))
    longest, short = 0.0, True
    for lane in range(LANES):
        longest = max(longest, total[lane])
        short = short and total[lane] <= SMALL_PART**2 * room.way[lane]
    room.gain[0] = math.sqrt(longest) / worst
    if not (short and left < np.inf):
        return np.inf
    for g in range(program.groups.shape[0]):
        t = room.own[g]
        units, rest, _, _ = shape(program, t)
        first, count = program.terms[t, OFFSET], units * rest
        add(entries(room.theta, first, count), 1.0, entries(room.change, first, count))
    return left
