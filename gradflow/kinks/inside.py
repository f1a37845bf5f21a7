"""Compiled look inside a step: the first pre-activation that leaves its side, by proof, polynomial and root.

The rules are those of :class:`gradflow.kinks.look.Lookout`.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.along import refine, theta_along
from gradflow.kinks.dense import step_coefficients
from gradflow.kinks.desk import FLOAT, INT, Desk, Wall, at, copy
from gradflow.kinks.frozen import largest, preactivations, row_of
from gradflow.kinks.look import COARSE, EXACT
from gradflow.kinks.passes import (
    DEPTH,
    INPUTS,
    OUTPUTS,
    UNIT,
    WEIGHT,
    X,
    negative_from,
)

TOGETHER, ABOUT = 1e-14, 1e-2
"""Fractions of a step within which two roots are one, and within which a root later than the first may be the first on
the path, where both are guesses."""


@njit(**OPTIONS)
def _ignore(signs, kinks, count):
    """Watch no side of some kinks."""
    kinks = integers_at(kinks)
    for a in range(count):
        signs[kinks[a]] = 0.0


@procedure(INT(Desk, Wall))
def watch_sides(desk_at, wall_at):
    """Signs +1 and -1 of the sides that are watched, unless known, and the depths of violations; how many there are."""
    desk = at(desk_at)
    signs, live = numbers_at(desk.signs), integers_at(desk.live)
    z, slack, theta = numbers_at(desk.z), numbers_at(desk.slack), desk.theta
    if not desk.signs_known:
        sigma = numbers_at(desk.sigma)
        for i in range(desk.units):
            signs[i] = live[i] * (2.0 * sigma[i] - 1.0)
        _ignore(signs, at(wall_at).kinks, at(wall_at).count)
        _ignore(signs, desk.dark, desk.dark_count)
        _ignore(signs, desk.fresh, desk.fresh_count)
        desk.signs_known = 1
    layout = integers_at(desk.layout)
    below = desk.input_scale
    wrong = 0
    for l in range(layout[DEPTH] - 1):
        row = row_of(desk.layout, l)
        start, count = row[UNIT], desk.samples * row[OUTPUTS]
        weight = largest(theta + 8 * row[WEIGHT], row[INPUTS] * row[OUTPUTS])
        below = max(largest(desk.z + 8 * start, count), 1e-2 * weight * below)
        depth = desk.wrong * below
        for i in range(start, start + count):
            slack[i] = depth
            wrong += signs[i] * z[i] < -depth
    return wrong


@njit(**OPTIONS)
def scales_of(desk, theta, z, scales):
    """Size of the pre-activations of each hidden layer: the largest, but not less than what rounding can cause."""
    below = desk.input_scale
    for l in range(integers_at(desk.layout)[DEPTH] - 1):
        row = row_of(desk.layout, l)
        weight = largest(theta + 8 * row[WEIGHT], row[INPUTS] * row[OUTPUTS])
        below = max(largest(z + 8 * row[UNIT], desk.samples * row[OUTPUTS]), 1e-2 * weight * below)
        scales[l] = below


@procedure(INT(INT, INT, INT, INT, INT, INT, INT))
def wrong_columns(rows, cols, matrix, values, signs, slack, marks):
    """Marks the columns of matrix (rows, rows) times values (rows, cols) with an entry on the wrong side; how many."""
    matrix, signs, slack, marks = numbers_at(matrix), numbers_at(signs), numbers_at(slack), numbers_at(marks)
    spare, wrong = np.empty(cols), 0
    for i in range(cols):
        marks[i] = 0.0
    for r in range(rows):
        for i in range(cols):
            spare[i] = 0.0
        for p in range(rows):
            weight, row = matrix[r * rows + p], numbers_at(values + 8 * p * cols)
            if weight != 0.0:
                for i in range(cols):
                    spare[i] += weight * row[i]
        for i in range(cols):
            marks[i] = 1.0 if signs[i] * spare[i] < -slack[i] else marks[i]
    for i in range(cols):
        wrong += marks[i] > 0.0
    return wrong


@procedure(INT(Desk, INT))
def reach_of_neurons(desk_at, reach):
    """How far the weights and bias of each neuron of the first layer go in the step, at most: sums of lengths."""
    desk = at(desk_at)
    width, inputs, reach = desk.width, desk.inputs, numbers_at(reach)
    for c in range(width):
        reach[c] = 0.0
    for p in range(desk.degree):
        block = numbers_at(desk.coefficients + 8 * p * desk.size)
        for c in range(width):
            total = 0.0
            for q in range(c * inputs, (c + 1) * inputs):
                total += block[q] * block[q]
            if desk.bias:
                total += block[width * inputs + c] * block[width * inputs + c]
            reach[c] += math.sqrt(total)
    return 0


@njit(**OPTIONS)
def _motion(desk, kink, out):
    """Coefficients of 1, x, x^2, ... of the pre-activation of a first-layer kink."""
    width, inputs = desk.width, desk.inputs
    i, c = kink // width, kink % width
    x = numbers_at(desk.numbers + 8 * (integers_at(desk.layout)[X] + i * inputs))
    out[0] = numbers_at(desk.z)[kink]
    for p in range(desk.degree):
        block = desk.coefficients + 8 * p * desk.size
        weights, total = numbers_at(block + 8 * c * inputs), 0.0
        for q in range(inputs):
            total += weights[q] * x[q]
        out[p + 1] = total + numbers_at(block + 8 * (width * inputs + c))[0] if desk.bias else total


@njit(**OPTIONS)
def _early(matrix, size, values, step, sign, slack, spare, halvings, end):
    """First x from which sign times a polynomial, a column of values, is below -slack; 2 if it is not up to `end`."""
    doubt = False
    for r in range(size):
        total = 0.0
        for p in range(size):
            total += numbers_at(matrix + 8 * (r * size + p))[0] * numbers_at(values + 8 * p * step)[0]
        spare[r] = sign * total + slack
        doubt = doubt or spare[r] < 0.0
    return negative_from(address_of(spare), size, halvings, end) if doubt else 2.0


@procedure(INT(Desk))
def violation_in_first_layer(desk_at):
    """Fraction `x` of the first violation in the first layer, infinite if there is none, and the culprits.

    Only kinks that the step may reach, by the length of the sample times the way of the weights, are looked at.
    """
    desk = at(desk_at)
    width, cols, degree, count = desk.width, desk.first, desk.degree, 0
    motion, spare, reach = np.empty(degree + 1), np.empty(degree + 1), np.empty(width)
    kinks, times, lengths = np.empty(cols, np.int64), np.empty(cols), numbers_at(desk.lengths)
    signs, slack, z, column = numbers_at(desk.signs), numbers_at(desk.slack), numbers_at(desk.z), address_of(motion)
    end = 1.0
    reach_of_neurons(desk_at, address_of(reach))
    for i in range(desk.samples):
        for c in range(width):
            kink = i * width + c
            if signs[kink] != 0.0 and not signs[kink] * z[kink] > reach[c] * lengths[i]:
                _motion(desk, kink, motion)
                sign, some = signs[kink], slack[kink]
                times[count] = _early(desk.from_powers, degree + 1, column, 1, sign, some, spare, EXACT, end)
                kinks[count], end = kink, min(end, times[count] + TOGETHER)
                count += times[count] <= 1.0
    fresh, rest = integers_at(desk.fresh), numbers_at(desk.fresh_rest)
    sigma = numbers_at(desk.sigma)
    for a in range(desk.fresh_count):
        if fresh[a] < cols:
            sign, i = 2.0 * sigma[fresh[a]] - 1.0, fresh[a]
            _motion(desk, i, motion)
            times[count] = _early(desk.from_shorter, degree, column + 8, 1, sign, rest[a] * desk.h, spare, EXACT, end)
            kinks[count], end = i, min(end, times[count] + TOGETHER)
            count += times[count] <= 1.0
    x, culprits, found = math.inf, integers_at(desk.culprits), 0
    for a in range(count):
        x = min(x, times[a])
    for a in range(count):
        if times[a] <= x + TOGETHER:
            culprits[found] = kinks[a]
            found += 1
    desk.x, desk.culprit_count = x, found
    keep(motion)
    keep(spare)
    keep(reach)
    return found


@njit(**OPTIONS)
def _watch(desk, kink, sign, slack, growth):
    """Add a kink to those watched."""
    a = desk.watched_count
    integers_at(desk.watched)[a] = kink
    numbers_at(desk.watched_sign)[a] = sign
    numbers_at(desk.watched_slack)[a] = slack
    numbers_at(desk.watched_growth)[a] = growth
    desk.watched_count = a + 1


@procedure(FLOAT(Desk))
def doubts_above(desk_at):
    """Watch the kinks above the first layer that may leave their side; least root of their polynomials, or 2."""
    desk = at(desk_at)
    cols, count, begin, guess = desk.units - desk.begin, desk.nodes_count, desk.begin, 2.0
    nodes, spare, end = numbers_at(desk.nodes), np.empty(count), 1.0
    values, marks, units = np.empty(count * cols), np.empty(cols), np.empty(4 * desk.units)
    table = address_of(values)
    copy(cols, desk.z + 8 * begin, table)
    for k in range(1, count - 1):
        theta_along(desk_at, nodes[k], desk.along_theta)
        preactivations(desk_at, desk.along_theta, desk.sigma, address_of(units))
        copy(cols, address_of(units) + 8 * begin, table + 8 * k * cols)
    copy(cols, desk.spare_units + 8 * begin, table + 8 * (count - 1) * cols)
    desk.watched_count = 0
    signs, slack, sigma = numbers_at(desk.signs), numbers_at(desk.slack), numbers_at(desk.sigma)
    if wrong_columns(
        count, cols, desk.from_values, table, desk.signs + 8 * begin, desk.slack + 8 * begin, address_of(marks)
    ):
        for i in range(cols):
            if marks[i] > 0.0:
                a = begin + i
                x = _early(desk.from_values, count, table + 8 * i, cols, signs[a], slack[a], spare, COARSE, end)
                if x <= end:
                    _watch(desk, a, signs[a], slack[a], 0.0)
                    guess, end = min(guess, x), min(end, x + ABOUT)
    fresh, speed = integers_at(desk.fresh), numbers_at(desk.fresh_speed)
    rests, column = numbers_at(desk.fresh_rest), np.empty(count)
    for f in range(desk.fresh_count):
        a = fresh[f]
        if a < begin:
            continue
        sign, rest, beyond = 2.0 * sigma[a] - 1.0, rests[f] * desk.h, False
        column[0] = speed[f] * desk.h
        for k in range(1, count):
            value = values[k * cols + a - begin]
            beyond = beyond or sign * value < -slack[a]
            column[k] = value / nodes[k]
        if beyond:
            x = _early(desk.from_values, count, address_of(column), 1, sign, rest, spare, COARSE, end)
            if x <= end:
                _watch(desk, a, sign, 0.0, rest)
                guess, end = min(guess, x), min(end, x + ABOUT)
    keep(values)
    keep(marks)
    keep(units)
    keep(column)
    keep(spare)
    return guess


@procedure(INT(Desk, Wall, INT))
def first_violation(desk_at, wall_at, own):
    """Fraction `x` of the step at which the stored pattern is first violated, infinite if nowhere, and the culprits."""
    desk = at(desk_at)
    size, rows, degree = desk.size, desk.rows, desk.degree
    stages = desk.all_stages + 8 * own * rows * size
    bend = 0 if desk.flat or at(wall_at).count == 0 else desk.bends + 8 * own * size
    step_coefficients(size, rows, degree, desk.powers, desk.places, stages, bend, desk.h, desk.coefficients)
    desk.x, desk.culprit_count = math.inf, 0
    if desk.first > 0:
        violation_in_first_layer(desk_at)
    if desk.begin < desk.units:
        guess = doubts_above(desk_at)
        if guess <= 1.0:
            refine(desk_at, wall_at, guess)
    return desk.culprit_count
