"""Compiled Runge-Kutta steps of the plain flow with frozen masks and sliding kinks.

The arithmetic is that of :mod:`gradflow.kinks.slide` and :mod:`gradflow.steppers.kinked_step`; where the normals of
sliding kinks are dependent the compiled form declines, and the caller takes that path.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.matrices import multiply
from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kernels.sums import add_rows, sum_rows
from gradflow.kinks.desk import FLOAT, INT, Desk, Wall, at
from gradflow.kinks.factors import along_normals, factor_normals, gram_of, remove_normals, room_for
from gradflow.kinks.passes import (
    HEAD,
    INPUTS,
    LAYER,
    OUTPUTS,
    UNIT,
    WEIGHT,
    pass_forward,
    pass_gradient,
    solve_cholesky,
)
from gradflow.kinks.planes import slide_flat


@procedure(FLOAT(INT, INT))
def largest(values, count):
    """Largest size of some numbers: eight at a time, since a single maximum would wait for each comparison."""
    a = b = c = d = e = f = g = h = 0.0
    values = numbers_at(values)
    whole = count - count % 8
    for i in range(0, whole, 8):
        a, b = max(a, abs(values[i])), max(b, abs(values[i + 1]))
        c, d = max(c, abs(values[i + 2])), max(d, abs(values[i + 3]))
        e, f = max(e, abs(values[i + 4])), max(f, abs(values[i + 5]))
        g, h = max(g, abs(values[i + 6])), max(h, abs(values[i + 7]))
    for i in range(whole, count):
        a = max(a, abs(values[i]))
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))


@njit(**OPTIONS)
def row_of(layout, layer):
    """Entries of the layout that belong to a layer."""
    return integers_at(layout + 8 * (HEAD + LAYER * layer))


@procedure(INT(Desk, Wall, INT, INT, INT, INT))
def solve_normals(desk_at, wall_at, top, room, right, out):
    """Solution of N N' x = right; 0 if the normals are dependent."""
    desk, m = at(desk_at), at(wall_at).count
    gram = np.empty(m * m)
    gram_of(desk.layout, m, top, room, address_of(gram))
    solved = solve_cholesky(m, address_of(gram), right, desk.rank, out)
    keep(gram)
    return solved


@procedure(INT(Desk, INT, INT, INT, INT, INT))
def attractions(desk_at, kinks, count, delta, layer, out):
    """d of each kink (of one layer, or of all for -1)."""
    desk = at(desk_at)
    top = desk.rounding * largest(delta, desk.units)
    kinks, delta, out = integers_at(kinks), numbers_at(delta), numbers_at(out)
    layers, gap = integers_at(desk.layers), numbers_at(desk.gap)
    tied_at, tied = integers_at(desk.tied_at), integers_at(desk.tied)
    factor = numbers_at(desk.factor)
    for a in range(count):
        kink = kinks[a]
        if layer >= 0 and layers[kink] != layer:
            continue
        total = delta[kink]
        for t in range(tied_at[kink] + 1, tied_at[kink + 1]):
            total += abs(factor[t]) * delta[tied[t]]
        total *= gap[kink]
        out[a] = 0.0 if abs(total) <= top else total
    return 0


@procedure(INT(Desk, INT, INT, INT))
def is_stacked(desk_at, kinks, count, slides):
    """Whether a sample of some sliding kink (of all, if `slides` is 0) has one of the kinks in a lower layer too."""
    desk = at(desk_at)
    kinks, chosen = integers_at(kinks), integers_at(slides)
    layers, samples = integers_at(desk.layers), integers_at(desk.of_sample)
    least, most, some = desk.units, -1, slides == 0
    for a in range(count):
        least, most = min(least, layers[kinks[a]]), max(most, layers[kinks[a]])
        some = some or chosen[a] != 0
    if desk.flat or least >= most or not some:
        return 0
    if desk.ties:
        return 1
    lowest = np.full(desk.samples, desk.units)
    for a in range(count):
        sample = samples[kinks[a]]
        lowest[sample] = min(lowest[sample], layers[kinks[a]])
    for a in range(count):
        if (slides == 0 or chosen[a]) and lowest[samples[kinks[a]]] < layers[kinks[a]]:
            return 1
    return 0


@procedure(INT(*[Desk] + [INT] * 8))
def stacked_attractions(desk_at, theta, slope, delta, kinks, count, slides, multipliers, out):
    """d of each kink under the masks of the sliding kinks in the layers above; changes slopes and adjoints."""
    desk = at(desk_at)
    names, layers = integers_at(kinks), integers_at(desk.layers)
    chosen = integers_at(slides)
    multipliers, found, slopes = numbers_at(multipliers), numbers_at(out), numbers_at(slope)
    tied_at, tied = integers_at(desk.tied_at), integers_at(desk.tied)
    low, gap, factor = numbers_at(desk.low), numbers_at(desk.gap), numbers_at(desk.factor)
    first, last = desk.units, -1
    for a in range(count):
        first, last = min(first, layers[names[a]]), max(last, layers[names[a]])
    for layer in range(last, first - 1, -1):
        attractions(desk_at, kinks, count, delta, layer, out)
        if layer == first:
            break
        top = 0.0
        for a in range(count):
            if layers[names[a]] == layer and (slides == 0 or chosen[a]):
                top = max(top, abs(found[a]))
        for a in range(count):
            kink = names[a]
            if layers[kink] != layer or (slides and not chosen[a]):
                continue
            mask = 0.0 if abs(found[a]) <= 1e-14 * top else multipliers[a] / found[a]
            for t in range(tied_at[kink], tied_at[kink + 1]):
                own = mask if factor[t] > 0.0 else 1.0 - mask
                slopes[tied[t]] = low[kink] + gap[kink] * own
        row, below = row_of(desk.layout, layer), row_of(desk.layout, layer - 1)[UNIT]
        size = desk.samples * row[OUTPUTS]
        errors, own, by = np.empty(size), numbers_at(delta + 8 * row[UNIT]), numbers_at(slope + 8 * row[UNIT])
        for i in range(size):
            errors[i] = own[i] * by[i]
        weight, target = theta + 8 * row[WEIGHT], delta + 8 * below
        multiply(desk.samples, row[INPUTS], row[OUTPUTS], address_of(errors), weight, target, 0, 0, 0)
        keep(errors)
    return 0


@njit(**OPTIONS)
def remove_rows(m, size, rows, weights, vector):
    """vector -= rows' weights."""
    weights, vector = numbers_at(weights), numbers_at(vector)
    for a in range(m):
        row, weight = numbers_at(rows + 8 * a * size), weights[a]
        for p in range(size):
            vector[p] -= weight * row[p]


@procedure(INT(Desk, Wall, INT, INT, INT, INT))
def slide(desk_at, wall_at, theta, units, velocity, pulls):
    """Project a velocity onto the wall; fills multipliers and attractions; 0 if normals are dependent.

    Stacked kinks change slopes and adjoints in `units`.
    """
    desk, wall = at(desk_at), at(wall_at)
    m, row = wall.count, 8 * desk.units
    if m == 0:
        return 1
    if desk.flat:
        slide_flat(desk_at, wall_at, velocity, pulls)
    else:
        factors, speed = np.empty(room_for(desk.layout, m)), np.empty(m)
        room = address_of(factors)
        top = factor_normals(desk.layout, desk.numbers, theta, units, m, wall.kinks, room)
        along_normals(desk.layout, m, top, room, velocity, address_of(speed))
        independent = solve_normals(desk_at, wall_at, top, room, address_of(speed), pulls)
        if independent:
            remove_normals(desk.layout, m, top, room, pulls, velocity)
        keep(factors)
        keep(speed)
        if not independent:
            return 0
    found = pulls + 8 * desk.capacity
    if wall.stacked:
        stacked_attractions(desk_at, theta, units + row, units + 3 * row, wall.kinks, m, 0, pulls, found)
    else:
        attractions(desk_at, wall.kinks, m, units + 3 * row, -1, found)
    return 1


@procedure(INT(Desk, Wall, INT, INT, INT, INT, INT))
def sliding_velocity(desk_at, wall_at, theta, sigma, units, velocity, pulls):
    """Objective (in `found`), velocity, multipliers and attractions; 0 if normals are dependent."""
    desk = at(desk_at)
    desk.found = pass_gradient(desk.layout, desk.numbers, theta, sigma, units, velocity)
    out = numbers_at(velocity)
    for p in range(desk.size):
        out[p] = -out[p]
    return slide(desk_at, wall_at, theta, units, velocity, pulls)


@procedure(INT(Desk, INT, INT, INT))
def preactivations(desk_at, theta, sigma, units):
    """Fill pre-activations, slopes and values of all units."""
    desk = at(desk_at)
    pass_forward(desk.layout, desk.numbers, theta, sigma, units, 0)
    return 0


@procedure(INT(Desk, Wall, INT, INT, INT))
def restore_curved(desk_at, wall_at, theta, units, bend):
    """Move theta by one Newton step of least norm towards the wall; `bend` is the move. 0 if normals are dependent."""
    desk, wall = at(desk_at), at(wall_at)
    m, size = wall.count, desk.size
    preactivations(desk_at, theta, desk.sigma, units)
    factors, z, multipliers = np.empty(room_for(desk.layout, m)), np.empty(m), np.empty(m)
    heights, kinks = numbers_at(units), integers_at(wall.kinks)
    for a in range(m):
        z[a] = heights[kinks[a]]
    room, lam = address_of(factors), address_of(multipliers)
    top = factor_normals(desk.layout, desk.numbers, theta, units, m, wall.kinks, room)
    independent = solve_normals(desk_at, wall_at, top, room, address_of(z), lam)
    if independent:
        move, place = numbers_at(bend), numbers_at(theta)
        for p in range(size):
            move[p] = 0.0
        remove_normals(desk.layout, m, top, room, lam, bend)
        for p in range(size):
            place[p] += move[p]
    keep(factors)
    keep(z)
    keep(multipliers)
    return independent


@procedure(FLOAT(Desk, INT, INT))
def step_error(desk_at, stages, y_new):
    """Root mean square of the estimated error over the tolerance; two estimates are joined as Hairer does."""
    desk = at(desk_at)
    size, rows = desk.size, desk.rows
    y, new, atol, estimate = numbers_at(desk.theta), numbers_at(y_new), numbers_at(desk.atol), np.empty(size)
    first, second = 0.0, 0.0
    for e in range(desk.estimates):
        sum_rows(size, rows, desk.E + 8 * e * rows, desk.places, stages, size, 0, address_of(estimate), 1.0)
        total = 0.0
        for p in range(size):
            share = estimate[p] / max(atol[p] + desk.rtol * max(abs(y[p]), abs(new[p])), 1e-300)
            total += share * share
        if e == 0:
            first = total
        else:
            second = total
    keep(estimate)
    if desk.estimates == 1 or first == 0.0:
        return desk.h * math.sqrt(first / size)
    return desk.h * first / math.sqrt((first + 0.01 * second) * size)


@procedure(INT(Desk, Wall, INT))
def take_step(desk_at, wall_at, own):
    """One step from theta; the first stage in the block `own` is the velocity there.

    Fills the other stages with their multipliers and attractions, the new state, what the return to the wall has moved
    it by, units, objective and error. Returns 0 if normals were dependent.
    """
    desk, wall = at(desk_at), at(wall_at)
    size, rows, last = desk.size, desk.rows, desk.stages
    stages, y_new, bend = (
        desk.all_stages + 8 * own * rows * size,
        desk.ends + 8 * own * size,
        desk.bends + 8 * own * size,
    )
    moved = numbers_at(bend)
    for p in range(size):
        moved[p] = 0.0
    argument, spare, value, independent = np.empty(size), np.empty(4 * desk.units), math.nan, 1
    for j in range(1, rows):
        target, units = address_of(argument), address_of(spare)
        if j == last:
            target, units = y_new, desk.spare_units
        add_rows(size, j, desk.A + 8 * j * desk.A_step, desk.places, stages, size, desk.theta, target, desk.h)
        if j == last and wall.count and not desk.flat and largest(target, size) < math.inf:
            independent = restore_curved(desk_at, wall_at, target, units, bend)
            if not independent:
                break
        pulls, velocity = desk.stage_pulls + 16 * j * desk.capacity, stages + 8 * j * size
        independent = sliding_velocity(desk_at, wall_at, target, desk.sigma, units, velocity, pulls)
        if not independent:
            break
        if j == last:
            value = desk.found
    keep(argument)
    keep(spare)
    if independent:
        desk.found, desk.error = value, step_error(desk_at, stages, y_new)
    return independent
