"""Compiled projections onto sliding kinks of the first layer: planes in the space of each neuron's weights and bias."""

import math

import numpy as np
from numba import njit

from gradflow.kernels.procedures import COUNTED, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.desk import INT, Desk, Wall, at, copy
from gradflow.kinks.passes import X

DEPENDENT = 1e-8
"""Part of a sample outside the span of others, relative to its length, that makes it dependent on them."""


@njit(**COUNTED)
def _by_neuron(desk, wall):
    """Order the kinks of a wall neuron by neuron."""
    m = wall.count
    kinks, order, owners = integers_at(wall.kinks), integers_at(wall.order), integers_at(wall.owners)
    neurons, place = integers_at(desk.of_neuron), np.zeros(desk.width + 1, np.int64)
    for a in range(m):
        place[neurons[kinks[a]] + 1] += 1
    for j in range(desk.width):
        place[j + 1] += place[j]
    for a in range(m):
        neuron = neurons[kinks[a]]
        order[place[neuron]], owners[place[neuron]] = a, neuron
        place[neuron] += 1


@procedure(INT(INT, INT, INT))
def end_of(owners, count, start):
    """End of the rows of one neuron."""
    owners, stop = integers_at(owners), start
    while stop < count and owners[stop] == owners[start]:
        stop += 1
    return stop


@procedure(INT(Desk, Wall, INT, INT, INT))
def add_row(desk_at, wall_at, start, r, sample):
    """Orthonormal row from a sample and the rows before it; 0 if it is dependent on them."""
    desk, wall = at(desk_at), at(wall_at)
    length, inputs = desk.length, desk.inputs
    row, triangle = numbers_at(wall.basis + 8 * r * length), numbers_at(wall.triangle + 8 * r * length)
    x = numbers_at(desk.numbers + 8 * (integers_at(desk.layout)[X] + sample * inputs))
    row[length - 1] = 1.0
    for p in range(inputs):
        row[p] = x[p]
    whole, left = 0.0, 0.0
    for p in range(length):
        triangle[p] = 0.0
        whole += row[p] * row[p]
    for _ in range(2):
        for q in range(start, r):
            other, share = numbers_at(wall.basis + 8 * q * length), 0.0
            for p in range(length):
                share += other[p] * row[p]
            for p in range(length):
                row[p] -= share * other[p]
            triangle[q - start] += share
    for p in range(length):
        left += row[p] * row[p]
    if not left > DEPENDENT * DEPENDENT * whole:
        return 0
    triangle[r - start] = math.sqrt(left)
    for p in range(length):
        row[p] /= triangle[r - start]
    return 1


@procedure(INT(Desk, Wall, Wall))
def span(desk_at, wall_at, old_at):
    """Orthonormal bases of the wall's kinks, neuron by neuron; 0 if some samples of a neuron are dependent.

    Bases of neurons with the same samples in the old wall are copied.
    """
    desk, wall, old = at(desk_at), at(wall_at), at(old_at)
    m, length = wall.count, desk.length
    _by_neuron(desk, wall)
    kinks, order, owners = integers_at(wall.kinks), integers_at(wall.order), integers_at(wall.owners)
    old_kinks, old_order = integers_at(old.kinks), integers_at(old.order)
    old_owners, samples = integers_at(old.owners), integers_at(desk.of_sample)
    start, before = 0, 0
    while start < m:
        stop = end_of(wall.owners, m, start)
        while before < old.count and old_owners[before] < owners[start]:
            before += 1
        after = before
        while after < old.count and old_owners[after] == owners[start]:
            after += 1
        known = after - before == stop - start
        for i in range(stop - start):
            known = known and old_kinks[old_order[before + i]] == kinks[order[start + i]]
        if stop - start > length:
            return 0
        if known:
            here, there, count = 8 * start * length, 8 * before * length, (stop - start) * length
            copy(count, old.basis + there, wall.basis + here)
            copy(count, old.triangle + there, wall.triangle + here)
        else:
            for r in range(start, stop):
                if not add_row(desk_at, wall_at, start, r, samples[kinks[order[r]]]):
                    return 0
        start = stop
    return 1


@procedure(INT(Desk, Wall, INT, INT))
def project(desk_at, wall_at, vector, shares):
    """Remove the basis from a vector of the size of theta; the parts along it go to `shares`, unless that is 0."""
    desk, wall = at(desk_at), at(wall_at)
    inputs, length = desk.inputs, desk.length
    owners, bias_at = integers_at(wall.owners), desk.width * inputs
    for r in range(wall.count):
        block, row = numbers_at(vector + 8 * owners[r] * inputs), numbers_at(wall.basis + 8 * r * length)
        bias, total = numbers_at(vector + 8 * (bias_at + owners[r])), 0.0
        for p in range(inputs):
            total += row[p] * block[p]
        if length > inputs:
            total += row[inputs] * bias[0]
            bias[0] -= total * row[inputs]
        for p in range(inputs):
            block[p] -= total * row[p]
        if shares:
            numbers_at(shares + 8 * r)[0] = total
    return 0


@procedure(INT(Desk, Wall, INT, INT))
def slide_flat(desk_at, wall_at, velocity, multipliers):
    """Project a velocity onto the planes; multipliers come from the triangles, since N' lambda = Q' shares."""
    desk, wall = at(desk_at), at(wall_at)
    m, length = wall.count, desk.length
    shares = np.empty(m)
    project(desk_at, wall_at, velocity, address_of(shares))
    order, found = integers_at(wall.order), numbers_at(multipliers)
    start = 0
    while start < m:
        stop = end_of(wall.owners, m, start)
        for r in range(stop - 1, start - 1, -1):
            total = shares[r]
            for s in range(r + 1, stop):
                total -= numbers_at(wall.triangle + 8 * s * length)[r - start] * shares[s]
            shares[r] = total / numbers_at(wall.triangle + 8 * r * length)[r - start]
            found[order[r]] = shares[r]
        start = stop
    keep(shares)
    return 0
