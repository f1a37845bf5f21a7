r"""Nearest parameters whose layers have a given balance, by Newton's method with conjugate gradients.

The balance of a group of units is :math:`c = \sum_t f_t X_t X_t^\top`, the matrices or only their diagonals, where the
rows of X_t are the weights that enter or leave the units. Parameters move along the normals of the constraints,
:math:`X_t \mathrel{+}= 2 f_t S X_t`: a multiplier S for each group. The system for S couples groups that share a
matrix; the part of one group alone is the Lyapunov operator :math:`S \mapsto M S + S M`,
:math:`M = 2 \sum_t f_t^2 X_t X_t^\top`, whose inverse, with the eigenvectors of M kept from before, preconditions.

Groups of single neurons have diagonal multipliers.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from gradflow.kernels.entries import entry
from gradflow.kernels.matrices import multiply, multiply_nt, multiply_tn
from gradflow.kernels.procedures import EXACT, address_of

GROUP, OFFSET, OUTER, OUTER_STEP, UNIT_STEP, INNER, IDENTITY, PLACE = range(8)
UNITS, FULL, VALUE, BASIS, SPECTRUM = range(5)
MOST_STEPS, MOST_ITERATIONS = 8, 60
NEGLIGIBLE = 1e-13
"""Eigenvalues below this fraction of the largest belong to units that carry nothing: no multiplier moves them."""


class Program(NamedTuple):
    """Where the rows of each term stand in theta, the factors f, and which group they belong to."""

    terms: np.ndarray
    factors: np.ndarray
    groups: np.ndarray


class Room(NamedTuple):
    """Vectors of a projection, and the eigenvectors of each group."""

    rows: np.ndarray
    moved: np.ndarray
    change: np.ndarray
    residual: np.ndarray
    multiplier: np.ndarray
    solved: np.ndarray
    direction: np.ndarray
    image: np.ndarray
    basis: np.ndarray
    spectrum: np.ndarray
    sizes: np.ndarray
    first: np.ndarray
    second: np.ndarray


@njit(**EXACT)
def _rows(program, t, array):
    """Rows of a term in an array of all terms, (units, rest)."""
    term = program.terms[t]
    units, rest = program.groups[term[GROUP], UNITS], term[OUTER] * term[INNER]
    return array[term[PLACE] : term[PLACE] + units * rest].reshape(units, rest)


@njit(**EXACT)
def _value(program, g, array):
    """Entries of a group in an array of values, (units, units) or (units, 1)."""
    units, place = program.groups[g, UNITS], program.groups[g, VALUE]
    columns = units if program.groups[g, FULL] else 1
    return array[place : place + units * columns].reshape(units, columns)


@njit(**EXACT)
def _gather(program, theta, identity, array):
    """Copy the rows of all terms out of theta."""
    for t in range(program.terms.shape[0]):
        term, rows = program.terms[t], _rows(program, t, array)
        inner = term[INNER]
        for i in range(rows.shape[0]):
            for o in range(term[OUTER]):
                place = term[OFFSET] + i * term[UNIT_STEP] + o * term[OUTER_STEP]
                for e in range(inner):
                    rows[i, o * inner + e] = theta[place + e]
        if identity and term[IDENTITY]:
            for i in range(rows.shape[0]):
                rows[i, i] += 1.0


@njit(**EXACT)
def _scatter(program, array, theta):
    """Add the rows of all terms to theta."""
    for t in range(program.terms.shape[0]):
        term, rows = program.terms[t], _rows(program, t, array)
        inner = term[INNER]
        for i in range(rows.shape[0]):
            for o in range(term[OUTER]):
                place = term[OFFSET] + i * term[UNIT_STEP] + o * term[OUTER_STEP]
                for e in range(inner):
                    theta[place + e] += rows[i, o * inner + e]


@njit(**EXACT)
def _add_gram(out, left, right, factor, spare):
    """Add factor * left right^T, or only its diagonal, to the entries of a group."""
    units = out.shape[0]
    if out.shape[1] > 1:
        a, b, c = address_of(left), address_of(right), address_of(spare)
        multiply_nt(units, units, left.shape[1], a, b, c, 0, 0, 0)
        product = spare[: units * units].reshape(units, units)
        for i in range(units):
            for j in range(units):
                out[i, j] += factor * product[i, j]
    else:
        for i in range(out.shape[0]):
            out[i, 0] += factor * np.dot(left[i], right[i])


@njit(**EXACT)
def _balance(program, rows, spare, out):
    """c of all groups."""
    out[:] = 0.0
    for t in range(program.terms.shape[0]):
        own = _rows(program, t, rows)
        _add_gram(_value(program, program.terms[t, GROUP], out), own, own, program.factors[t], spare)


@njit(**EXACT)
def _move(program, room, multiplier):
    """Change of theta that belongs to a multiplier: 2 f S X for every term."""
    for t in range(program.terms.shape[0]):
        rows, out = _rows(program, t, room.rows), _rows(program, t, room.moved)
        S, f = _value(program, program.terms[t, GROUP], multiplier), 2.0 * program.factors[t]
        if S.shape[1] > 1:
            units, rest = rows.shape
            multiply(units, rest, units, address_of(S), address_of(rows), address_of(out), 0, 0, 0)
            for i in range(units):
                for k in range(rest):
                    out[i, k] *= f
        else:
            for i in range(rows.shape[0]):
                for k in range(rows.shape[1]):
                    out[i, k] = f * S[i, 0] * rows[i, k]
    room.change[:] = 0.0
    _scatter(program, room.moved, room.change)


@njit(**EXACT)
def _apply(program, room, multiplier, out):
    """Change of c under the change of theta that belongs to a multiplier."""
    _move(program, room, multiplier)
    _gather(program, room.change, False, room.moved)
    out[:] = 0.0
    for t in range(program.terms.shape[0]):
        own, factor = _value(program, program.terms[t, GROUP], out), 2.0 * program.factors[t]
        _add_gram(own, _rows(program, t, room.moved), _rows(program, t, room.rows), factor, room.first)
    for g in range(program.groups.shape[0]):
        own = _value(program, g, out)
        if own.shape[1] > 1:
            for i in range(own.shape[0]):
                for j in range(i):
                    own[i, j] = own[j, i] = 0.5 * (own[i, j] + own[j, i])


@njit(**EXACT)
def _factor(program, room):
    """Eigenvectors and eigenvalues of M for every group."""
    for g in range(program.groups.shape[0]):
        units, place = program.groups[g, UNITS], program.groups[g, SPECTRUM]
        spectrum = room.spectrum[place : place + units]
        spectrum[:] = 0.0
        M = np.zeros((units, units if program.groups[g, FULL] else 1))
        for t in range(program.terms.shape[0]):
            if program.terms[t, GROUP] == g:
                rows = _rows(program, t, room.rows)
                _add_gram(M, rows, rows, 2.0 * program.factors[t] ** 2, room.first)
        if M.shape[1] > 1:
            values, vectors = np.linalg.eigh(M)
            spectrum[:] = values
            start = program.groups[g, BASIS]
            room.basis[start : start + units * units] = vectors.ravel()
        else:
            spectrum[:] = M[:, 0]


@njit(**EXACT)
def _precondition(program, room, source, out):
    """Solve for each group alone."""
    for g in range(program.groups.shape[0]):
        units, place, start = program.groups[g, UNITS], program.groups[g, SPECTRUM], program.groups[g, BASIS]
        R, S, spectrum = _value(program, g, source), _value(program, g, out), room.spectrum[place : place + units]
        least = NEGLIGIBLE * np.max(spectrum)
        if R.shape[1] > 1:
            Q, r, s = address_of(room.basis) + 8 * start, address_of(R), address_of(S)
            first, second = address_of(room.first), address_of(room.second)
            multiply(units, units, units, r, Q, first, 0, 0, 0)
            multiply_tn(units, units, units, Q, first, second, 0, 0, 0)
            inner = room.second[: units * units].reshape(units, units)
            for i in range(units):
                for j in range(units):
                    total = spectrum[i] + spectrum[j]
                    inner[i, j] = inner[i, j] / total if total > least else 0.0
            multiply_nt(units, units, units, second, Q, first, 0, 0, 0)
            multiply(units, units, units, Q, first, s, 0, 0, 0)
        else:
            for i in range(units):
                S[i, 0] = R[i, 0] / (2.0 * spectrum[i]) if spectrum[i] > least else 0.0


@njit(**EXACT)
def _excess(program, room, residual):
    """Largest entry of a residual, each over the size of its group."""
    largest = 0.0
    for g in range(program.groups.shape[0]):
        own = _value(program, g, residual)
        for i in range(own.shape[0]):
            for j in range(own.shape[1]):
                if not abs(own[i, j]) <= largest * room.sizes[g]:
                    largest = abs(own[i, j]) / room.sizes[g]
    return largest


@njit(**EXACT)
def _measure_sizes(program, room):
    """Size of each group: the largest sum of |f| |row|^2 of a unit."""
    for g in range(program.groups.shape[0]):
        room.sizes[g] = 1e-300
        for i in range(program.groups[g, UNITS]):
            total = 0.0
            for t in range(program.terms.shape[0]):
                if program.terms[t, GROUP] == g:
                    row = _rows(program, t, room.rows)[i]
                    total += abs(program.factors[t]) * np.dot(row, row)
            room.sizes[g] = max(room.sizes[g], total)


@njit(**EXACT)
def _solve(program, room, tolerance):
    """Multiplier whose change of c is the residual, by preconditioned conjugate gradients; iterations spent."""
    r, s, z, p, image = room.residual, room.multiplier, room.solved, room.direction, room.image
    s[:] = 0.0
    _precondition(program, room, r, z)
    p[:] = z
    product = np.dot(r, z)
    for k in range(MOST_ITERATIONS):
        _apply(program, room, p, image)
        curvature = np.dot(p, image)
        if not curvature > 0.0:
            return k
        step = product / curvature
        for i in range(r.size):
            s[i] += step * p[i]
            r[i] -= step * image[i]
        if _excess(program, room, r) <= tolerance:
            return k + 1
        _precondition(program, room, r, z)
        before, product = product, np.dot(r, z)
        for i in range(r.size):
            p[i] = z[i] + product / before * p[i]
    return MOST_ITERATIONS


@entry(exact=True)
def measure(program, rows, spare, theta, out):
    """c at theta, with room for the rows of all terms and for the largest product."""
    _gather(program, theta, True, rows)
    _balance(program, rows, spare, out)


@njit(**EXACT)
def _put_back(program, room, theta, target, tolerance, fresh):
    """Move theta so that c is the target, to a tolerance relative to the size of its terms; Newton steps taken.

    Without `fresh` the eigenvectors of the call before serve again, unless they turn out too old.
    """
    before = np.inf
    for k in range(MOST_STEPS):
        _gather(program, theta, True, room.rows)
        _balance(program, room.rows, room.first, room.residual)
        for i in range(target.size):
            room.residual[i] = target[i] - room.residual[i]
        _measure_sizes(program, room)
        excess = _excess(program, room, room.residual)
        if not (excess > tolerance and excess < 0.5 * before):
            return k
        before = excess
        if fresh:
            _factor(program, room)
        fresh = _solve(program, room, max(0.25 * tolerance, 0.01 * excess * excess)) > 12
        _move(program, room, room.multiplier)
        theta += room.change
    return MOST_STEPS


@entry(exact=True)
def put_back_all(program, room, states, targets, tolerance, done):
    """Move states (m, P), in the order of time, to targets (m, C) or (1, C), but for those that are done."""
    fresh = True
    for row in range(states.shape[0]):
        if not done[row]:
            _put_back(program, room, states[row], targets[min(row, targets.shape[0] - 1)], tolerance, fresh)
            fresh = False
