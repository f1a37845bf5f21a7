"""Layers of small linear networks put back on their balance, eight states at a time.

As in :mod:`gradflow.kernels.balance` parameters move along the normals of the constraints. A Cholesky factor of all
constraints serves many states, since what it says varies slowly: only its error is left to the next step. Steps are
mixed with the one before (Anderson's method), the states begin with the multipliers of their neighbours, and a last
small part is taken from single matrices, and is not looked at again where its cube is below rounding.

Groups of single neurons, kernels of several pixels and matrices too close to singular are left to the other module.
"""

import numpy as np
from numba import njit

from gradflow.kernels.balance import GROUP, OFFSET, OUTER, UNITS, VALUE
from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import EXACT, address_of, view
from gradflow.lanes.balance_factor import renew, solve
from gradflow.lanes.balance_own import finish, may_finish, note_way
from gradflow.lanes.balance_room import add, copy, entries, shape
from gradflow.lanes.vectors import BYTES, LANES, dot, largest, multiply

MOST_STEPS, PATIENCE = 40, 5
"""Steps for eight states; steps that cost as much as a new factor."""
SURE = 0.1
"""Tolerances that the cube of a last step may leave for it not to be looked at again."""
ROUNDING = 8.0
"""Tolerances at which a state counts as put back if a step no longer halves what is missing."""


@njit(**EXACT)
def _measure(program, room, first):
    """Target minus c for all lanes; at first, the size of each group too: its largest sum of |f| |row|^2."""
    copy(room.missing, room.target)
    for g in range(program.groups.shape[0]):
        units = program.groups[g, UNITS]
        missing = entries(room.missing, program.groups[g, VALUE], units * units)
        totals = entries(room.change, 0, units)
        if first:
            totals[:] = 0.0
        for t in range(program.terms.shape[0]):
            if program.terms[t, GROUP] != g:
                continue
            _, rest, along, across = shape(program, t)
            x, f = address_of(room.theta) + BYTES * program.terms[t, OFFSET], program.factors[t]
            multiply(units, units, rest, x, along, across, x, across, along, address_of(room.scratch))
            add(missing, -f, room.scratch)
            if first:
                for i in range(units):
                    add(entries(totals, i, 1), abs(f), entries(room.scratch, i * (units + 1), 1))
        if first:
            sizes = entries(room.sizes, g, 1)
            largest(units, address_of(totals), address_of(sizes))
            for lane in range(LANES):
                sizes[lane] = max(sizes[lane], 1e-300)


@njit(**EXACT)
def _worst(program, room):
    """Largest missing entry over the size of its group, and its lane; infinite where one is not finite."""
    worst, at, most, square = 0.0, 0, entries(room.sums, 0, 1), entries(room.sums, 1, 1)
    for g in range(program.groups.shape[0]):
        count, sizes = program.groups[g, UNITS] ** 2, entries(room.sizes, g, 1)
        missing = address_of(room.missing) + BYTES * program.groups[g, VALUE]
        largest(count, missing, address_of(most))
        dot(count, missing, missing, address_of(square))
        for lane in range(LANES):
            relative = most[lane] / sizes[lane] if square[lane] < np.inf else np.inf
            if relative > worst:
                worst, at = relative, lane
    return worst, at


@njit(**EXACT)
def _pack(program, room):
    """Upper triangles of what is missing; entries off the diagonal stand for two."""
    p = 0
    for g in range(program.groups.shape[0]):
        units, place = program.groups[g, UNITS], program.groups[g, VALUE]
        for i in range(units):
            source = entries(room.missing, place + i * (units + 1), units - i)
            target = entries(room.packed, p, units - i)
            for k in range(LANES):
                target[k] = source[k]
            for k in range(LANES, target.size):
                target[k] = 2.0 * source[k]
            p += units - i


@njit(**EXACT)
def _unpack(program, room, step):
    """Whole symmetric matrices from their upper triangles."""
    p = 0
    for g in range(program.groups.shape[0]):
        units, place = program.groups[g, UNITS], program.groups[g, VALUE]
        for i in range(units):
            for j in range(i, units):
                copy(entries(room.multiplier, place + i * units + j, 1), entries(step, p, 1))
                copy(entries(room.multiplier, place + j * units + i, 1), entries(step, p, 1))
                p += 1


@njit(**EXACT)
def _move(program, room, step):
    """Move all lanes by the multiplier with these upper triangles: X += 2 f S X for every term at once."""
    _unpack(program, room, step)
    room.change[:] = 0.0
    for t in range(program.terms.shape[0]):
        units, rest, along, _ = shape(program, t)
        s = address_of(room.multiplier) + BYTES * program.groups[program.terms[t, GROUP], VALUE]
        x, out = address_of(room.theta) + BYTES * program.terms[t, OFFSET], address_of(room.scratch)
        if program.terms[t, OUTER] == 1:
            multiply(units, rest, units, s, units, 1, x, along, 1, out)
        else:
            multiply(rest, units, units, x, units, 1, s, units, 1, out)
        change = entries(room.change, program.terms[t, OFFSET], units * rest)
        add(change, 2.0 * program.factors[t], room.scratch)
    add(room.theta, 1.0, room.change)
    note_way(room)


@njit(**EXACT)
def _mix(room, mixed):
    """The step, from the last two solutions: the mixture whose change is the smallest, lane by lane."""
    f, before, step, size = room.solved, room.solved_before, room.step, room.pivots.size
    share, square = entries(room.sums, 0, 1), entries(room.sums, 1, 1)
    if mixed:
        for i in range(f.size):
            before[i] = f[i] - before[i]
        dot(size, address_of(f), address_of(before), address_of(share))
        dot(size, address_of(before), address_of(before), address_of(square))
        for lane in range(LANES):
            share[lane] = share[lane] / square[lane] if square[lane] > 0.0 else 0.0
        for i in range(size):
            own, change, new = entries(step, i, 1), entries(before, i, 1), entries(f, i, 1)
            for lane in range(LANES):
                own[lane] = new[lane] - share[lane] * (own[lane] + change[lane])
    else:
        step[:] = f
    before[:] = f
    add(room.total, 1.0, step)


@njit(**EXACT)
def _block(program, room, tolerance):
    """Put eight states back; whether they get there."""
    before, finished, renewed, mixed = np.inf, np.inf, False, False
    for k in range(MOST_STEPS):
        _measure(program, room, k == 0)
        worst, lane = _worst(program, room)
        if worst <= tolerance or (worst <= ROUNDING * tolerance and worst > 0.5 * before):
            return True
        if not worst < np.inf:
            return False
        before = worst
        if worst < 0.1 * finished and may_finish(room, worst):
            left = finish(program, room, worst)
            if left < np.inf:
                if left <= SURE * tolerance:
                    return True
                finished, mixed = worst, False
                continue
        if room.age[0] > PATIENCE and not renewed:
            if not renew(program, room, lane):
                return False
            renewed, mixed = True, False
        room.age[0] += k > 0
        _pack(program, room)
        solve(room)
        _mix(room, mixed)
        _move(program, room, room.step)
        mixed = True
    return False


@njit(**EXACT)
def _load(room, states, first):
    """Copy eight states into the lanes, the last one again where there are fewer."""
    _spread(states, first, room.theta)
    for i in room.diagonals:
        for lane in range(LANES):
            room.theta[LANES * i + lane] += 1.0


@njit(**EXACT)
def _spread(rows, first, lanes):
    last = rows.shape[0] - 1
    a, b, c, d, e, f, g, h = (
        rows[min(first, last)],
        rows[min(first + 1, last)],
        rows[min(first + 2, last)],
        rows[min(first + 3, last)],
        rows[min(first + 4, last)],
        rows[min(first + 5, last)],
        rows[min(first + 6, last)],
        rows[min(first + 7, last)],
    )
    for i in range(rows.shape[1]):
        to = lanes[LANES * i : LANES * i + LANES]
        to[0], to[1], to[2], to[3], to[4], to[5], to[6], to[7] = a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]


@njit(**EXACT)
def _store(room, states, first, count):
    """Copy the lanes back to their states."""
    for i in room.diagonals:
        for lane in range(LANES):
            room.theta[LANES * i + lane] -= 1.0
    for lane in range(count):
        own, at = states[first + lane], view(address_of(room.theta) + 8 * lane, LANES * (states.shape[1] - 1) + 1)
        for i in range(own.size):
            own[i] = at[LANES * i]


@njit(**EXACT)
def _foresee(room, count):
    """Multipliers for the next states: those of the last one, continued along a line of half the slope."""
    for i in range(room.pivots.size):
        own = entries(room.total, i, 1)
        first, last = own[0], own[count - 1]
        for lane in range(LANES):
            own[lane] = last + 0.5 * (lane + 1) * (last - first) / (LANES - 1)


@entry(exact=True)
def put_back_all(program, room, states, targets, tolerance, done):
    """Move states (m, P) so that their c are the targets (m, C) or (1, C), neighbours first; `done`: who got there."""
    room.total[:] = 0.0
    room.gain[0] = 0.0
    for first in range(0, states.shape[0], LANES):
        _load(room, states, first)
        if first == 0 or targets.shape[0] > 1:
            _spread(targets, first, room.target)
        room.way[:] = 0.0 if first == 0 else room.way[LANES - 1]
        if first > 0:
            _move(program, room, room.total)
        count = min(LANES, states.shape[0] - first)
        if not _block(program, room, tolerance):
            room.total[:] = 0.0
            continue
        done[first : first + count] = True
        _store(room, states, first, count)
        _foresee(room, count)
