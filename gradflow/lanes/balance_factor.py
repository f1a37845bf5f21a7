r"""The factor of the constraints of a small linear network, and systems solved with it for eight states.

The matrix :math:`J J^\top`, on the upper triangles of the multipliers S of all groups, is made entry by entry: the
scalar product of the moves of two multipliers is

.. math:: \langle S X, S' X \rangle = \operatorname{tr}(S\, X X^\top S'), \qquad
          \langle S W, W S' \rangle = \operatorname{tr}(W^\top S W S')

for one group of units and for two that share W.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.balance import GROUP, OFFSET, OUTER_STEP, UNITS
from gradflow.kernels.matrices import panel_8, panel_16
from gradflow.kernels.procedures import EXACT, address_of, keep
from gradflow.kernels.registers import wide_registers
from gradflow.lanes.balance_room import STRIPE, add, copy, entries, shape
from gradflow.lanes.vectors import BYTES, LANES, multiply_shared

PANEL = 4
"""Rows that are factored together."""
SINGULAR = 1e-6
"""Smallest pivot, over the largest entry, for which the factor is used."""


@njit(**EXACT)
def solve(room):
    """Two triangular systems with the factor, for all lanes; a stripe of unknowns at a time."""
    m, U, z, right = room.pivots.size, address_of(room.factor), room.solved, room.packed
    sums, inverses = address_of(room.sums), address_of(room.inverses)
    for first in range(0, m, STRIPE):
        width, own = min(STRIPE, m - first), inverses + 8 * STRIPE * first
        multiply_shared(1, width, first, address_of(z), 0, 1, U + 8 * first, m, 1, sums)
        rest = entries(right, first, width)
        add(rest, -1.0, room.sums)
        multiply_shared(1, width, width, address_of(rest), 0, 1, own, 1, STRIPE, address_of(z) + BYTES * first)
    for first in range((m - 1) // STRIPE * STRIPE, -1, -STRIPE):
        width, own, after = min(STRIPE, m - first), inverses + 8 * STRIPE * first, min(first + STRIPE, m)
        right_of, known = U + 8 * (first * m + after), address_of(z) + BYTES * after
        multiply_shared(1, width, m - after, known, 0, 1, right_of, 1, m, sums)
        rest = entries(z, first, width)
        add(rest, -1.0, room.sums)
        multiply_shared(1, width, width, address_of(rest), 0, 1, own, STRIPE, 1, sums)
        copy(rest, room.sums)


@njit(**EXACT)
def _factor(A, pivots):
    """Cholesky factor U, A = U^T U, in the upper triangle, with inverted pivots besides; the least squared pivot."""
    m, least = A.shape[0], np.inf
    start, products = address_of(A), np.empty((PANEL, m))
    for first in range(0, m, PANEL):
        end = min(first + PANEL, m)
        if end - first == PANEL and m >= 8:
            width = 16 if wide_registers() else 8
            for column in range(first, m, width):
                known, out = start + 8 * first, address_of(products)
                if wide_registers():
                    panel_16(first, known, 1, m, start, out, m, column, 0, known, start)
                else:
                    panel_8(first, known, 1, m, start, out, m, column, 0, known, start)
            for i in range(PANEL):
                _subtract(A[first + i, first + i :], 1.0, products[i, first + i :])
        else:
            for i in range(first, end):
                for k in range(first):
                    _subtract(A[i, i:], A[k, i], A[k, i:])
        for k in range(first, end):
            least = min(least, A[k, k])
            pivots[k] = 1.0 / math.sqrt(A[k, k])
            for j in range(k, m):
                A[k, j] *= pivots[k]
            for i in range(k + 1, end):
                _subtract(A[i, i:], A[k, i], A[k, i:])
    keep(products)
    return least


@njit(**EXACT)
def _subtract(row, factor, other):
    for j in range(row.size):
        row[j] -= factor * other[j]


@njit(**EXACT)
def _invert_stripes(room):
    """Inverses of the triangles on the diagonal of the factor."""
    U, m = room.factor, room.pivots.size
    room.inverses[:] = 0.0
    for first in range(0, m, STRIPE):
        own = room.inverses[first : first + STRIPE]
        for j in range(own.shape[0]):
            own[j, j] = room.pivots[first + j]
            for i in range(j + 1, own.shape[0]):
                total = 0.0
                for k in range(j, i):
                    total += U[first + k, first + i] * own[k, j]
                own[i, j] = -total * room.pivots[first + i]


@njit(**EXACT)
def _index(units, i, j):
    """Place of (i, j) or (j, i) in an upper triangle."""
    low, high = min(i, j), max(i, j)
    return low * units - low * (low - 1) // 2 + high - low


@njit(**EXACT)
def _add_own(A, first, units, M):
    """Scalar products <S X, S' X> of the multipliers of one group; M is the sum of 4 f^2 X X^T."""
    for i in range(units):
        for j in range(i, units):
            p = first + _index(units, i, j)
            for c in range(units):
                A[p, first + _index(units, c, i)] += M[j, c]
                if i != j:
                    A[p, first + _index(units, c, j)] += M[i, c]


@njit(**EXACT)
def _add_shared(A, first, rows, second, columns, W, weight):
    """Scalar products <S W, W S'> of multipliers of the rows and of the columns of W, on both sides of the diagonal."""
    for i in range(rows):
        for j in range(i, rows):
            p, twice = first + _index(rows, i, j), (1.0 if i == j else 2.0)
            for k in range(columns):
                q = second + _index(columns, k, k)
                value = weight * twice * W[i, k] * W[j, k]
                A[p, q] += value
                A[q, p] += value
                for l in range(k + 1, columns):
                    q = second + _index(columns, k, l)
                    value = weight * twice * (W[i, k] * W[j, l] + W[j, k] * W[i, l])
                    A[p, q] += value
                    A[q, p] += value


@njit(**EXACT)
def _add_neighbours(program, A, first, t, X):
    """Couplings of a term that makes units with those that read the same matrix."""
    term = program.terms[t]
    for u in range(program.terms.shape[0]):
        other = program.terms[u]
        if other[OFFSET] == term[OFFSET] and term[OUTER_STEP] == 0 < other[OUTER_STEP]:
            weight, h = 4.0 * program.factors[t] * program.factors[u], other[GROUP]
            _add_shared(A, first[term[GROUP]], X.shape[0], first[h], program.groups[h, UNITS], X, weight)


@njit(**EXACT)
def renew(program, room, lane):
    """Factor at the state of a lane; False if it is close to singular."""
    A, theta = room.factor, room.theta
    A[:] = 0.0
    first = np.zeros(program.groups.shape[0], np.int64)
    for g in range(1, first.size):
        units = program.groups[g - 1, UNITS]
        first[g] = first[g - 1] + units * (units + 1) // 2
    for g in range(first.size):
        units = program.groups[g, UNITS]
        M = np.zeros((units, units))
        for t in range(program.terms.shape[0]):
            if program.terms[t, GROUP] == g:
                _, rest, along, across = shape(program, t)
                weight, place = 4.0 * program.factors[t] ** 2, program.terms[t, OFFSET]
                X = np.empty((units, rest))
                for i in range(units):
                    for k in range(rest):
                        X[i, k] = theta[LANES * (place + i * along + k * across) + lane]
                M += weight * np.dot(X, X.T)
                _add_neighbours(program, A, first, t, X)
        _add_own(A, first[g], units, M)
    most = 0.0
    for p in range(A.shape[0]):
        most = max(most, A[p, p])
    for p in range(A.shape[0]):
        A[p, p] += 1e-13 * most
    least = _factor(A, room.pivots)
    _invert_stripes(room)
    room.age[0] = 0
    return least > SINGULAR * most
