"""Compiled evaluations along a step: pre-activations and masks at a fraction of it, and where one leaves its range."""

import math

import numpy as np
from numba import njit

from gradflow.kernels.elementwise import activate
from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.dense import state_at
from gradflow.kinks.desk import FLOAT, INT, Desk, Wall, at, copy
from gradflow.kinks.frozen import row_of, sliding_velocity
from gradflow.kinks.passes import ABS, BIAS, CODE, INPUTS, LEAKY, LINEAR, OUTPUTS, RELU, SLOPES, UNIT, WEIGHT, X
from gradflow.kinks.roots import NEAREST, SEARCH, first_point, next_point
from gradflow.kinks.watch import EXACT, GRAZING, NUDGE, VANISHES


@njit(**OPTIONS)
def sort(numbers, count):
    """Sort the first few numbers in place."""
    for i in range(1, count):
        k, number = i, numbers[i]
        while k > 0 and numbers[k - 1] > number:
            numbers[k] = numbers[k - 1]
            k -= 1
        numbers[k] = number


@procedure(INT(Desk, FLOAT, INT))
def theta_along(desk_at, x, theta):
    """Theta at the fraction x of the step."""
    desk = at(desk_at)
    return state_at(desk.size, desk.degree, desk.coefficients, desk.places, desk.x_powers, desk.theta, x, theta)


@procedure(FLOAT(Desk, INT, INT, INT))
def preactivation(desk_at, theta, sigma, kink):
    """Pre-activation of one unit, by a pass of its sample alone."""
    desk = at(desk_at)
    head, sigma = integers_at(desk.layout), numbers_at(sigma)
    layer, sample = integers_at(desk.layers)[kink], integers_at(desk.of_sample)[kink]
    widest, total = desk.inputs, 0.0
    for l in range(layer + 1):
        widest = max(widest, row_of(desk.layout, l)[OUTPUTS])
    z, h, slope = np.empty(widest), np.empty(widest), np.empty(widest)
    copy(desk.inputs, desk.numbers + 8 * (head[X] + sample * desk.inputs), address_of(h))
    for l in range(layer + 1):
        row = row_of(desk.layout, l)
        width, inputs, unit = row[OUTPUTS], row[INPUTS], row[UNIT] + sample * row[OUTPUTS]
        first, last = (kink - unit, kink - unit + 1) if l == layer else (0, width)
        for c in range(first, last):
            weights, total = numbers_at(theta + 8 * (row[WEIGHT] + c * inputs)), 0.0
            for p in range(inputs):
                total += weights[p] * h[p]
            if head[BIAS]:
                total += numbers_at(theta + 8 * (row[WEIGHT] + width * inputs + c))[0]
            z[c] = total
        if l == layer:
            break
        slopes = numbers_at(desk.numbers + 8 * (SLOPES + 2 * l))
        if row[CODE] != LINEAR and row[CODE] != RELU and row[CODE] != LEAKY and row[CODE] != ABS:
            activate(row[CODE], slopes[0], width, address_of(z), address_of(h), address_of(slope))
        else:
            for c in range(width):
                h[c] = (slopes[0] + slopes[1] * sigma[unit + c]) * z[c]
    keep(z)
    keep(h)
    keep(slope)
    return total


@procedure(INT(Desk, Wall, FLOAT))
def pulls_along(desk_at, wall_at, x):
    """Address of the multipliers and attractions at a fraction of the step; inside it a gradient is spent."""
    desk = at(desk_at)
    if x == 0.0:
        return desk.pulls
    if x == 1.0:
        return desk.stage_pulls + 16 * desk.stages * desk.capacity
    if x != desk.along:
        units = np.empty(4 * desk.units)
        theta_along(desk_at, x, desk.along_theta)
        found = desk.found
        independent = sliding_velocity(
            desk_at, wall_at, desk.along_theta, desk.sigma, address_of(units), desk.along_velocity, desk.along_pulls
        )
        keep(units)
        desk.found, desk.along = found, x
        desk.gradients += 1
        if not independent:
            desk.trouble = 1
    return desk.along_pulls


@njit(**OPTIONS)
def _mask_distance(desk, wall, pulls, a):
    """Distance of a multiplier from the ends of [0, d] in units of `mask_scale`, with the patience of its start."""
    gap, scale = 8 * desk.capacity, numbers_at(desk.mask_scale)[a]
    sign = -1.0 if integers_at(wall.held)[a] else 1.0
    lam, att = numbers_at(pulls)[a], numbers_at(pulls + gap)[a]
    first, pull = numbers_at(desk.pulls)[a], numbers_at(desk.pulls + gap)[a]
    start = min(sign * first, sign * (pull - first)) / scale
    patience = NUDGE - 3.0 * start if -GRAZING <= start < 0.0 else 0.0
    return min(sign * lam, sign * (att - lam)) / scale + patience


@procedure(FLOAT(Desk, Wall, INT))
def mask_margin(desk_at, wall_at, pulls):
    """Least distance of the multipliers from the ends of their intervals [0, d], in units of `mask_scale`."""
    desk, wall = at(desk_at), at(wall_at)
    least = math.inf
    for a in range(wall.count):
        least = min(least, _mask_distance(desk, wall, pulls, a))
    return least


@procedure(FLOAT(Desk, Wall, INT, FLOAT))
def margin(desk_at, wall_at, masks, x):
    """Distance of the watched kinks (`masks`: of the sliding masks) from a violation at a fraction of the step."""
    desk = at(desk_at)
    if masks:
        return mask_margin(desk_at, wall_at, pulls_along(desk_at, wall_at, x))
    theta_along(desk_at, x, desk.along_theta)
    watched, least = integers_at(desk.watched), math.inf
    signs, slack = numbers_at(desk.watched_sign), numbers_at(desk.watched_slack)
    growth = numbers_at(desk.watched_growth)
    for a in range(desk.watched_count):
        z = preactivation(desk_at, desk.along_theta, desk.sigma, watched[a])
        least = min(least, signs[a] * z + slack[a] + growth[a] * x)
    return least


@procedure(FLOAT(Desk, Wall, INT, FLOAT, FLOAT, FLOAT, FLOAT, FLOAT))
def bracketed_root(desk_at, wall_at, masks, a, fa, b, fb, small):
    """Where the margin changes sign between a and b: on b's side, or where it is small."""
    search = np.empty(SEARCH)
    x = first_point(address_of(search), a, fa, b, fb)
    while x == x:
        x = next_point(address_of(search), x, margin(desk_at, wall_at, masks, x), small)
    keep(search)
    return search[NEAREST]


@procedure(INT(Desk, Wall, FLOAT))
def refine(desk_at, wall_at, guess):
    """First violation above the first layer near the guess, on the dense output itself, if it precedes `x`."""
    desk = at(desk_at)
    end, count = min(desk.x, 1.0), 0
    nodes, points = numbers_at(desk.nodes), np.empty(desk.nodes_count + 5)
    for shift in (-1e-3, -1e-6, 1e-6, 1e-3):
        points[count] = min(max(guess + shift, 0.0), end)
        count += 1
    for k in range(desk.nodes_count):
        if guess < nodes[k] < end:
            points[count] = nodes[k]
            count += 1
    points[count] = end
    sort(points, count + 1)
    low, at_low, high, at_high = 0.0, 0.0, math.inf, 0.0
    for k in range(count + 1):
        if k > 0 and points[k] == points[k - 1]:
            continue
        value = margin(desk_at, wall_at, 0, points[k])
        if value < 0.0:
            high, at_high = points[k], value
            break
        low, at_low = points[k], value
    if not high < math.inf:
        return 0
    x = bracketed_root(desk_at, wall_at, 0, low, at_low, high, at_high, 0.0) if at_low > 0.0 else low
    least = max(0.0, margin(desk_at, wall_at, 0, x))
    watched, culprits, found = (
        integers_at(desk.watched),
        integers_at(desk.culprits),
        0,
    )
    signs, slack = numbers_at(desk.watched_sign), numbers_at(desk.watched_slack)
    growth = numbers_at(desk.watched_growth)
    for a in range(desk.watched_count):
        z = preactivation(desk_at, desk.along_theta, desk.sigma, watched[a])
        if signs[a] * z + slack[a] + growth[a] * x <= least:
            culprits[found] = watched[a]
            found += 1
    desk.x, desk.culprit_count = x, found
    return found


@njit(**OPTIONS)
def _depart(desk, wall, x, pulls, least):
    """Note which masks leave at x and to which side; -1 if one loses its attraction there."""
    m, found = wall.count, 0
    lam, att, scale = numbers_at(pulls), numbers_at(pulls + 8 * desk.capacity), numbers_at(desk.mask_scale)
    kinks = integers_at(wall.kinks)
    culprits, sides = integers_at(desk.culprits), integers_at(desk.sides)
    for a in range(m):
        if _mask_distance(desk, wall, pulls, a) > max(2.0 * EXACT, least):
            continue
        if abs(att[a]) <= VANISHES * scale[a]:
            return -1
        culprits[found], sides[found] = kinks[a], abs(lam[a]) > abs(att[a] - lam[a])
        found += 1
    desk.x, desk.culprit_count = x, found
    return 1


@procedure(INT(Desk, Wall, FLOAT))
def first_departure(desk_at, wall_at, limit):
    """Whether a mask leaves [0, 1] at a fraction `x` <= limit: then the culprits and their sides; -1 if undecided here.

    The rules are those of :func:`gradflow.kinks.watch.first_departure`.
    """
    desk, wall = at(desk_at), at(wall_at)
    m, gap, count = wall.count, 8 * desk.capacity, 0
    end = desk.stage_pulls + 2 * desk.stages * gap
    here, there, scale = numbers_at(desk.pulls + gap), numbers_at(end + gap), numbers_at(desk.mask_scale)
    for a in range(m):
        size = max(abs(here[a]), abs(there[a]))
        scale[a] = size if size > 0.0 else 1.0
    desk.along, desk.trouble = math.nan, 0
    nodes, points = numbers_at(desk.C), np.empty(desk.stages + 1)
    for j in range(1, desk.stages):
        if nodes[j] < 1.0 and mask_margin(desk_at, wall_at, desk.stage_pulls + 2 * j * gap) < 0.0:
            points[count] = min(nodes[j], limit)
            count += 1
    if mask_margin(desk_at, wall_at, end) < 0.0:
        points[count] = min(1.0, limit)
        count += 1
    sort(points, count)
    beyond, least = -1.0, 0.0
    for k in range(count):
        if k == 0 or points[k] != points[k - 1]:
            least = margin(desk_at, wall_at, 1, points[k])
            if least < -EXACT:
                beyond = points[k]
                break
    if beyond < 0.0 or desk.trouble:
        return -desk.trouble
    x, begin = 0.0, margin(desk_at, wall_at, 1, 0.0)
    if begin > -EXACT:
        x = bracketed_root(desk_at, wall_at, 1, 0.0, max(begin, 1e-16), beyond, least, EXACT)
    spent = desk.gradients
    pulls = pulls_along(desk_at, wall_at, x)
    desk.gradients = spent
    return -1 if desk.trouble else _depart(desk, wall, x, pulls, mask_margin(desk_at, wall_at, pulls))
