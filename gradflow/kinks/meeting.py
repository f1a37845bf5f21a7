"""Compiled events: kinks that a path reaches, and masks that leave [0, 1].

The rules are those of :func:`gradflow.kinks.arrive.arrive` and :func:`gradflow.kinks.arrive.leave`.
"""

import numpy as np
from numba import njit

from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.arrive import GRAZING, NEAR
from gradflow.kinks.desk import INT, Desk, Wall, at
from gradflow.kinks.frozen import preactivations, restore_curved
from gradflow.kinks.inside import scales_of
from gradflow.kinks.passes import DEPTH, pass_normals
from gradflow.kinks.planes import project, span
from gradflow.kinks.rules import SLIDE, TIE
from gradflow.kinks.settling import change


@procedure(INT(INT, INT, INT, INT))
def put_mark(marks, kinks, count, mark):
    """Add a mark to some kinks."""
    marks, kinks = integers_at(marks), integers_at(kinks)
    for a in range(count):
        marks[kinks[a]] |= mark
    return count


@procedure(INT(Desk, Wall, INT))
def reached(desk_at, wall_at, address):
    """Name the kinks at 0 or beyond, then those just left that are still near; returns the number of the first.

    The marks at the address become 1 for fresh kinks, 2 for culprits, 4 for sliding ones and 16 for dark ones.
    """
    desk, wall = at(desk_at), at(wall_at)
    layers, live = integers_at(desk.layers), integers_at(desk.live)
    z, before, sigma = numbers_at(desk.event_units), numbers_at(desk.z), numbers_at(desk.sigma)
    names, marks = integers_at(desk.names), integers_at(address)
    scales = np.empty(integers_at(desk.layout)[DEPTH] - 1)
    scales_of(desk, desk.spot, desk.event_units, scales)
    for i in range(desk.units):
        marks[i] = 0
    put_mark(address, desk.fresh, desk.fresh_count, 1)
    put_mark(address, desk.culprits, desk.culprit_count, 2)
    put_mark(address, wall.kinks, wall.count, 4)
    put_mark(address, desk.dark, desk.dark_count, 16)
    count = 0
    for again in range(2 if desk.fresh_count else 1):
        for i in range(desk.units):
            near, size, side = NEAR * scales[layers[i]], abs(z[i]), (2.0 * sigma[i] - 1.0) * z[i]
            if (size >= near and side > 0.0 and not marks[i]) or not live[i] or marks[i] >= 4:
                continue
            hit = marks[i] & 2 or side < -0.01 * near
            hit = hit or (size < near and not abs(before[i]) < near and not marks[i] & 1)
            if (again and not hit and marks[i] & 1 and size < near) or (not again and hit):
                names[count] = i
                count += 1
        if not again:
            hits = count
    desk.name_count = count
    return hits


@procedure(INT(Desk, Wall, Wall, Wall, INT))
def join(desk_at, wall_at, joint_at, free_at, hits):
    """Wall of the sliding kinks and hits that may meet: those of the same neurons, or with a normal; 0 if declined."""
    desk, wall, joint = at(desk_at), at(wall_at), at(joint_at)
    if wall.count + hits > desk.capacity:
        return 0
    names, kinks = integers_at(desk.names), integers_at(wall.kinks)
    own, neurons = integers_at(joint.kinks), integers_at(desk.of_neuron)
    joint.stacked, count = 0, 0
    met = np.zeros(desk.units, np.int64)
    for a in range(hits):
        met[neurons[names[a]]] = 1
    for a in range(wall.count):
        if not desk.flat or met[neurons[kinks[a]]]:
            own[count] = kinks[a]
            count += 1
    for a in range(hits):
        own[count] = names[a]
        count += 1
    joint.count = count
    if desk.flat:
        return span(desk_at, joint_at, free_at)
    normals, row = np.empty(count * desk.size), 8 * desk.units
    rows, units = address_of(normals), desk.event_units
    pass_normals(desk.layout, desk.numbers, desk.spot, units + row, units + 2 * row, count, joint.kinks, rows)
    kept = 0
    for a in range(count):
        normal, moves = numbers_at(rows + 8 * a * desk.size), False
        for p in range(desk.size):
            moves = moves or normal[p] != 0.0
        if moves:
            own[kept] = own[a]
            kept += 1
    joint.count = kept
    keep(normals)
    return 1


@njit(**OPTIONS)
def _fills_a_space(desk, wall):
    """Whether the kinks of some neuron leave none of its weights free: it is at the origin."""
    owners, count = integers_at(wall.owners), 0
    for r in range(wall.count if desk.flat else 0):
        count = count + 1 if r > 0 and owners[r] == owners[r - 1] else 1
        if count == desk.length:
            return True
    return False


@procedure(INT(Desk, Wall))
def restore(desk_at, wall_at):
    """Project the spot onto a wall, twice; 0 if normals are dependent."""
    desk, wall = at(desk_at), at(wall_at)
    if wall.count == 0:
        return 1
    if desk.flat:
        project(desk_at, wall_at, desk.spot, 0)
        project(desk_at, wall_at, desk.spot, 0)
        return 1
    bend, units, solved = np.empty(desk.size), np.empty(4 * desk.units), 1
    for _ in range(2):
        solved = solved and restore_curved(desk_at, wall_at, desk.spot, address_of(units), address_of(bend))
    keep(bend)
    keep(units)
    return solved


@procedure(INT(Desk, INT, INT, INT))
def wakes_others(desk_at, hits, marks, lowest):
    """Whether a hit may wake units above that rest at 0, since no unit below them is active, or lies above another."""
    desk, waking = at(desk_at), False
    names, marks, lowest = (
        integers_at(desk.names),
        integers_at(marks),
        integers_at(lowest),
    )
    layers, samples = integers_at(desk.layers), integers_at(desk.of_sample)
    for a in range(hits):
        waking = waking or layers[names[a]] < desk.last
    if desk.flat or desk.bias or not waking:
        return 0
    units, live = np.empty(4 * desk.units), integers_at(desk.live)
    preactivations(desk_at, desk.spot, desk.sigma, address_of(units))
    for a in range(hits):
        marks[names[a]] |= 8
        if lowest[samples[names[a]]] < layers[names[a]]:
            return 1
    z = numbers_at(address_of(units))
    for i in range(desk.units):
        if z[i] == 0.0 and live[i] and not marks[i] & 12 and lowest[samples[i]] < layers[i]:
            return 1
    keep(units)
    return 0


@procedure(INT(Desk, Wall, Wall, Wall, Wall))
def arrive(desk_at, wall_at, next_at, joint_at, free_at):
    """Event at the spot at which kinks are reached: project onto them, decide; 0 if that is left to others."""
    desk = at(desk_at)
    marks, lowest = np.empty(desk.units, np.int64), np.full(desk.samples, desk.units)
    names, status = integers_at(desk.names), integers_at(desk.status)
    calm, stay, leeway = (
        integers_at(desk.calm),
        integers_at(desk.stay),
        numbers_at(desk.leeway),
    )
    layers, samples = integers_at(desk.layers), integers_at(desk.of_sample)
    sigma, neurons = numbers_at(desk.sigma), integers_at(desk.of_neuron)
    preactivations(desk_at, desk.spot, desk.sigma, desk.event_units)
    hits = reached(desk_at, wall_at, address_of(marks))
    for a in range(hits):
        lowest[samples[names[a]]] = min(lowest[samples[names[a]]], layers[names[a]])
    found = join(desk_at, wall_at, joint_at, free_at, hits) and not _fills_a_space(desk, at(joint_at))
    found = found and restore(desk_at, joint_at)
    found = found and not wakes_others(desk_at, hits, address_of(marks), address_of(lowest))
    if found:
        for a in range(hits):
            above, back = layers[names[a]] > lowest[samples[names[a]]], marks[names[a]] & 3 == 3
            side = int(sigma[names[a]])
            status[a] = SLIDE if back else side if above else 1 - side
            calm[a], stay[a], leeway[a] = back, 0, GRAZING if back else -TIE
        count = hits
        for a in range(hits, desk.name_count):
            kink, near = names[a], not desk.flat
            for b in range(hits):
                near = near or neurons[names[b]] == neurons[kink]
            if near:
                names[count], status[count], calm[count] = kink, int(sigma[kink]), 0
                stay[count], leeway[count] = 0, -TIE
                count += 1
        desk.name_count = count
        found = change(desk_at, wall_at, next_at)
    keep(marks)
    keep(lowest)
    return found


@procedure(INT(Desk, Wall, Wall))
def leave(desk_at, wall_at, next_at):
    """Event at the spot at which the culprits' masks have reached their sides; 0 if that is left to others."""
    desk = at(desk_at)
    if not restore(desk_at, wall_at):
        return 0
    culprits, sides = integers_at(desk.culprits), integers_at(desk.sides)
    names, status = integers_at(desk.names), integers_at(desk.status)
    calm, stay, leeway = (
        integers_at(desk.calm),
        integers_at(desk.stay),
        numbers_at(desk.leeway),
    )
    for a in range(desk.culprit_count):
        names[a], status[a], calm[a], stay[a], leeway[a] = culprits[a], sides[a], 1, 0, -TIE
    desk.name_count = desk.culprit_count
    return change(desk_at, wall_at, next_at)
