"""Compiled decision at kinks: cross or slide, and the place after it.

The rules are those of :func:`gradflow.kinks.decide.settle` and :func:`gradflow.kinks.arrive.change`. Dependent normals,
neurons at the origin and decisions that take long are declined.
"""

import math

import numpy as np
from numba import njit

from gradflow.kernels.matrices import multiply_nt
from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.arrive import SHADOW
from gradflow.kinks.desk import INT, Desk, Wall, at, copy, length_of
from gradflow.kinks.frozen import attractions, is_stacked, remove_rows, slide, stacked_attractions
from gradflow.kinks.passes import X, factor_cholesky, pass_gradient, pass_normals, solve_factored
from gradflow.kinks.planes import span
from gradflow.kinks.rules import SLIDE, TIE, resting_speeds, solve_slides, weigh

TURNS = 100
"""Changes of a status in one decision after which it is declined."""


@njit(**OPTIONS)
def set_masks(desk, sigma, count, names, status, fixed):
    """Write the masks of a choice, 0 for sliding kinks, with those tied to them; whether one of `fixed` has changed."""
    tied_at, tied = integers_at(desk.tied_at), integers_at(desk.tied)
    factor, changed = numbers_at(desk.factor), False
    for a in range(count):
        side = 1 if status[a] == 1 else 0
        changed = changed or side != fixed[a]
        fixed[a] = side
        for t in range(tied_at[names[a]], tied_at[names[a] + 1]):
            sigma[tied[t]] = side if factor[t] > 0.0 else 1 - side
    return changed


@njit(**OPTIONS)
def sample_of(desk, kink):
    """Address of the sample of a kink."""
    number = integers_at(desk.of_sample)[kink]
    return desk.numbers + 8 * (integers_at(desk.layout)[X] + number * desk.inputs)


@njit(**OPTIONS)
def along_sample(desk, kink, vector):
    """Inner product of the normal of a first-layer kink with a vector of the size of theta."""
    neuron, total = integers_at(desk.of_neuron)[kink], 0.0
    sample, block = numbers_at(sample_of(desk, kink)), numbers_at(vector + 8 * neuron * desk.inputs)
    for p in range(desk.inputs):
        total += sample[p] * block[p]
    return total + numbers_at(vector + 8 * (desk.width * desk.inputs + neuron))[0] if desk.bias else total


@procedure(INT(Desk, INT, INT, INT))
def flat_trial(desk_at, gram, plain, sizes):
    """Gram matrix of the named kinks, their normal speeds under the masks set, sizes of their neurons' velocities."""
    desk = at(desk_at)
    k, velocity = desk.name_count, desk.event_velocity
    names, neurons = integers_at(desk.names), integers_at(desk.of_neuron)
    gram, plain, sizes = numbers_at(gram), numbers_at(plain), numbers_at(sizes)
    for a in range(k):
        plain[a] = along_sample(desk, names[a], velocity)
        one, block = numbers_at(sample_of(desk, names[a])), velocity + 8 * neurons[names[a]] * desk.inputs
        own, square = numbers_at(block), 0.0
        for p in range(desk.inputs):
            square += own[p] * own[p]
        if desk.bias:
            square += numbers_at(velocity + 8 * (desk.width * desk.inputs + neurons[names[a]]))[0] ** 2
        sizes[a] = math.sqrt(square)
        for b in range(a + 1):
            total = 0.0
            if neurons[names[a]] == neurons[names[b]]:
                other = numbers_at(sample_of(desk, names[b]))
                for p in range(desk.inputs):
                    total += one[p] * other[p]
                total += desk.bias
            gram[a * k + b] = gram[b * k + a] = total
    return 0


@procedure(INT(Desk, INT, INT, INT))
def curved_trial(desk_at, gram, plain, size):
    """The same for kinks of any layer; one size serves all."""
    desk = at(desk_at)
    k, row, units = desk.name_count, 8 * desk.units, desk.event_units
    normals = np.empty(k * desk.size)
    rows = address_of(normals)
    pass_normals(desk.layout, desk.numbers, desk.spot, units + row, units + 2 * row, k, desk.names, rows)
    multiply_nt(k, k, desk.size, rows, rows, gram, 0, 0, 0)
    multiply_nt(k, 1, desk.size, rows, desk.event_velocity, plain, 0, 0, 0)
    numbers_at(size)[0] = length_of(desk.event_velocity, desk.size)
    keep(normals)
    return 0


@procedure(INT(Desk))
def evaluate_event(desk_at):
    """Objective, velocity and units at the spot under the masks of the event."""
    desk = at(desk_at)
    desk.event_value = pass_gradient(
        desk.layout, desk.numbers, desk.spot, desk.next_sigma, desk.event_units, desk.event_velocity
    )
    velocity = numbers_at(desk.event_velocity)
    for p in range(desk.size):
        velocity[p] = -velocity[p]
    desk.gradients += 1
    return 0


@procedure(INT(Desk, INT, INT, INT, INT, INT, INT, INT))
def weigh_choice(desk_at, gram, plain, d, multipliers, sizes, offence, better):
    """Offenders of the present status of the named kinks; -1 if the sliding ones are dependent."""
    desk = at(desk_at)
    k, units = desk.name_count, desk.units
    speed, tie, slides = np.empty(k), np.empty(k), np.empty(k, np.int64)
    status = integers_at(desk.status)
    for a in range(k):
        slides[a] = status[a] == SLIDE
    offenders = -1
    if solve_slides(k, gram, plain, desk.status, multipliers, address_of(speed)):
        if not desk.flat and is_stacked(desk_at, desk.names, k, address_of(slides)):
            spare = np.empty(2 * units)
            slope = address_of(spare)
            copy(units, desk.event_units + 8 * units, slope)
            copy(units, desk.event_units + 24 * units, slope + 8 * units)
            stacked_attractions(
                desk_at, desk.spot, slope, slope + 8 * units, desk.names, k, address_of(slides), multipliers, d
            )
            keep(spare)
        resting_speeds(k, gram, sizes, d, address_of(tie), desk.flat)
        offenders = weigh(
            k, multipliers, d, address_of(speed), address_of(tie), desk.status, desk.calm, desk.stay, desk.leeway,
            offence, better,
        )  # fmt: skip
    keep(speed)
    keep(tie)
    keep(slides)
    return offenders


@procedure(INT(Desk))
def decide(desk_at):
    """Status of the named kinks that agrees with the velocity it leads to, with masks and units; 0 if none is found."""
    desk = at(desk_at)
    k = desk.name_count
    names, status, fixed = integers_at(desk.names), integers_at(desk.status), np.full(k, -1)
    sigma = numbers_at(desk.next_sigma)
    copy(desk.units, desk.sigma, desk.next_sigma)
    gram, plain, start, d = np.empty(k * k), np.empty(k), np.empty(k), np.empty(k)
    multipliers, sizes, offence, better = np.empty(k), np.empty(k), np.empty(k), np.empty(k, np.int64)
    seen, known, first, found = np.empty(TURNS * k, np.int64), 0, False, 0
    guess = np.empty(k, np.int64)
    for turn in range(TURNS):
        if turn == 0 or not desk.flat:
            if set_masks(desk, sigma, k, names, status, fixed):
                evaluate_event(desk_at)
                if desk.flat:
                    flat_trial(desk_at, address_of(gram), address_of(plain), address_of(sizes))
                    copy(k, address_of(fixed), address_of(guess))
                else:
                    curved_trial(desk_at, address_of(gram), address_of(plain), address_of(sizes))
                copy(k, address_of(plain), address_of(start))
            attractions(desk_at, desk.names, k, desk.event_units + 24 * desk.units, -1, address_of(d))
        if desk.flat:
            for a in range(k):
                plain[a] = start[a]
                for b in range(k):
                    plain[a] += gram[a * k + b] * d[b] * (guess[b] - (status[b] == 1))
        offenders = weigh_choice(
            desk_at, address_of(gram), address_of(plain), address_of(d), address_of(multipliers), address_of(sizes),
            address_of(offence), address_of(better),
        )  # fmt: skip
        if offenders <= 0:
            found = offenders == 0
            break
        for s in range(known):
            same = True
            for a in range(k):
                same = same and seen[s * k + a] == status[a]
            first = first or same
        for a in range(k):
            seen[known * k + a] = status[a]
        known += 1
        worst = -1
        for a in range(k):
            if offence[a] > 0.0 and (worst < 0 or (not first and offence[a] > offence[worst])):
                worst = a
        status[worst] = better[worst]
    if found and set_masks(desk, sigma, k, names, status, fixed):
        evaluate_event(desk_at)
    keep(gram)
    keep(plain)
    keep(d)
    keep(multipliers)
    keep(sizes)
    keep(offence)
    keep(better)
    return found


@procedure(INT(Desk, Wall, Wall))
def gather(desk_at, wall_at, next_at):
    """The next wall: sliding kinks that are not named, and named ones that slide; 0 if it is not of the usual kind."""
    desk, wall, new = at(desk_at), at(wall_at), at(next_at)
    marks, kinks, held = (
        np.zeros(desk.units, np.int64),
        integers_at(wall.kinks),
        integers_at(wall.held),
    )
    names, status = integers_at(desk.names), integers_at(desk.status)
    for a in range(wall.count):
        marks[kinks[a]] = 1 + 2 * held[a]
    for a in range(desk.name_count):
        marks[names[a]] = marks[names[a]] | 1 if status[a] == SLIDE else 0
    found = 0
    own, stay = integers_at(new.kinks), integers_at(new.held)
    for i in range(desk.units):
        if marks[i] & 1:
            if found == desk.capacity:
                return 0
            own[found], stay[found] = i, marks[i] >> 1
            found += 1
    new.count = found
    new.stacked = is_stacked(desk_at, new.kinks, found, 0)
    return span(desk_at, next_at, wall_at) if desk.flat else 1


@procedure(INT(Desk, INT, INT, INT, INT, INT))
def list_left(desk_at, count, left, speed, lengths, dark):
    """Write the lists of kinks kept at 0 and of fresh ones."""
    desk = at(desk_at)
    left, speed, lengths, dark = integers_at(left), numbers_at(speed), numbers_at(lengths), integers_at(dark)
    sigma, total = numbers_at(desk.next_sigma), length_of(desk.event_velocity, desk.size)
    fresh, shadowed = 0, 0
    for a in range(count):
        if dark[a]:
            integers_at(desk.event_dark)[shadowed] = left[a]
            shadowed += 1
            continue
        away = (2.0 * sigma[left[a]] - 1.0) * speed[a]
        integers_at(desk.event_fresh)[fresh] = left[a]
        numbers_at(desk.event_speed)[fresh] = speed[a]
        numbers_at(desk.event_rest)[fresh] = max(TIE * lengths[a] * total, -2.0 * away)
        fresh += 1
    desk.event_count, desk.event_dark_count = fresh, shadowed
    return fresh


@procedure(INT(Desk, Wall, INT, INT, INT, INT, INT))
def curved_speeds(desk_at, next_at, count, left, speed, lengths, dark):
    """Normal speeds of some kinks, lengths of their normals, and which lie in the span of the sliding ones."""
    desk, m = at(desk_at), at(next_at).count
    size, row, units = desk.size, 8 * desk.units, desk.event_units
    normals, gram, factor, scale = np.empty((count + m) * size), np.empty(m * m), np.empty(m * m), np.empty(m)
    right, share = np.empty(m), np.empty(m)
    rows, weights = address_of(normals), address_of(share)
    walls = rows + 8 * count * size
    pass_normals(desk.layout, desk.numbers, desk.spot, units + row, units + 2 * row, count, left, rows)
    multiply_nt(count, 1, size, rows, desk.event_velocity, speed, 0, 0, 0)
    independent = 1
    if m and count:
        pass_normals(desk.layout, desk.numbers, desk.spot, units + row, units + 2 * row, m, at(next_at).kinks, walls)
        multiply_nt(m, m, size, walls, walls, address_of(gram), 0, 0, 0)
        independent = factor_cholesky(m, address_of(gram), desk.rank, address_of(factor), address_of(scale))
    for a in range(count if independent else 0):
        normal, lies_in = rows + 8 * a * size, False
        length = length_of(normal, size)
        for turn in range(2 if m and length > 0.0 else 0):
            multiply_nt(m, 1, size, walls, normal, address_of(right), 0, 0, 0)
            inside = solve_factored(m, address_of(factor), address_of(scale), address_of(right), weights)
            if turn == 0 and inside < (1.0 - 1e-6) * length * length:
                break
            remove_rows(m, size, walls, weights, normal)
            lies_in = length_of(normal, size) <= SHADOW * length
        numbers_at(lengths)[a], integers_at(dark)[a] = length, lies_in
    keep(normals)
    keep(gram)
    keep(factor)
    keep(scale)
    keep(right)
    keep(share)
    return independent


@procedure(INT(Desk, Wall))
def speeds_of_left(desk_at, next_at):
    """Named kinks that do not slide: those that sliding ones keep at 0, and the others with speeds. 0 if undecided."""
    desk, count = at(desk_at), 0
    left, status, names = (
        np.empty(desk.name_count, np.int64),
        integers_at(desk.status),
        integers_at(desk.names),
    )
    for a in range(desk.name_count):
        if status[a] != SLIDE:
            left[count] = names[a]
            count += 1
    speed, lengths, dark = np.empty(count), np.empty(count), np.zeros(count, np.int64)
    if desk.flat:
        for a in range(count):
            speed[a] = along_sample(desk, left[a], desk.event_velocity)
            sample, square = numbers_at(sample_of(desk, left[a])), float(desk.bias)
            for p in range(desk.inputs):
                square += sample[p] * sample[p]
            lengths[a] = math.sqrt(square)
    elif not curved_speeds(
        desk_at, next_at, count, address_of(left), address_of(speed), address_of(lengths), address_of(dark)
    ):
        return 0
    for a in range(count):
        if dark[a]:
            return 0
    list_left(desk_at, count, address_of(left), address_of(speed), address_of(lengths), address_of(dark))
    keep(left)
    keep(speed)
    keep(lengths)
    keep(dark)
    return 1


@njit(**OPTIONS)
def _pinned(desk, wall, named):
    """Whether the sliding kinks of a named neuron hold it at the origin."""
    owners, count = integers_at(wall.owners), 0
    for r in range(wall.count):
        count = count + 1 if r > 0 and owners[r] == owners[r - 1] else 1
        if count == desk.length and named[desk.units + owners[r]]:
            return True
    return False


@procedure(INT(Desk, Wall, Wall))
def change(desk_at, wall_at, next_at):
    """Settle the named kinks together with the sliding ones; 0 if that is left to others."""
    desk, wall = at(desk_at), at(wall_at)
    names, status = integers_at(desk.names), integers_at(desk.status)
    calm, stay, leeway = (
        integers_at(desk.calm),
        integers_at(desk.stay),
        numbers_at(desk.leeway),
    )
    neurons, sigma = integers_at(desk.of_neuron), numbers_at(desk.sigma)
    kinks, held, dark = (
        integers_at(wall.kinks),
        integers_at(wall.held),
        integers_at(desk.dark),
    )
    named = np.zeros(desk.units + desk.width, np.int64)
    k = desk.name_count
    for a in range(k):
        named[names[a]] = 1
        if desk.flat:
            named[desk.units + neurons[names[a]]] = 1
    for a in range(desk.dark_count):
        if not named[dark[a]]:
            names[k], status[k], calm[k], stay[k], leeway[k] = dark[a], int(sigma[dark[a]]), 0, 0, -TIE
            named[dark[a]] = 1
            k += 1
    for a in range(wall.count):
        if not named[kinks[a]] and (not desk.flat or named[desk.units + neurons[kinks[a]]]):
            names[k], status[k], calm[k], stay[k], leeway[k] = kinks[a], SLIDE, 0, held[a], -TIE
            k += 1
    desk.name_count = k
    if k > desk.capacity or (desk.flat and _pinned(desk, wall, named)) or not decide(desk_at):
        return 0
    if not gather(desk_at, wall_at, next_at):
        return 0
    units = desk.event_units
    spare = np.empty(4 * desk.units if at(next_at).stacked else 0)
    if spare.size:
        copy(spare.size, units, address_of(spare))
        units = address_of(spare)
    settled = slide(desk_at, next_at, desk.spot, units, desk.event_velocity, desk.event_pulls)
    keep(spare)
    return speeds_of_left(desk_at, next_at) if settled else 0
