"""Compiled path of the plain flow: steps, and the ordinary events inside them, for as long as nothing else happens.

The order of things is that of :func:`gradflow.steppers.kinked_piece.attempt`, which takes over where this declines.
"""

import math

from numba import njit

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import OPTIONS, integers_at, numbers_at, procedure
from gradflow.kinks.along import first_departure, theta_along
from gradflow.kinks.desk import FLOAT, INT, Desk, Wall, at, copy, pointer_to
from gradflow.kinks.frozen import sliding_velocity, take_step
from gradflow.kinks.inside import first_violation, watch_sides
from gradflow.kinks.look import ALONE, AT_ONCE, EVENTS_AT_ONCE, LITTLE_TIME, PAUSED, STALLED, TRIED
from gradflow.kinks.meeting import arrive, leave
from gradflow.kinks.planes import span
from gradflow.kinks.regions import name_region
from gradflow.kinks.rules import SLIDE

CROSS, SLIDES, EXIT = 1, 2, 3


@njit(**OPTIONS)
def _stops(desk):
    """Whether a limit is reached."""
    full = desk.instant_count >= desk.most_instants or desk.row_count + desk.units > desk.most_rows
    spent = desk.accepted >= desk.most_accepted or desk.gradients + desk.rows - 1 > desk.most_gradients
    return full or spent or desk.value < desk.loss_below


@procedure(INT(Desk))
def looks(desk_at):
    """Whether it is time to look at the frozen field: every few accepted steps, near rest or far from any event."""
    desk = at(desk_at)
    if desk.accepted < desk.look:
        return False
    desk.look += desk.look_every
    left, quiet = desk.t_end - desk.t, desk.accepted - desk.since >= desk.patience
    if quiet and left / desk.h * (desk.rows - 1) > desk.least:
        return True
    theta, atol, total = numbers_at(desk.theta), numbers_at(desk.atol), 0.0
    velocity = numbers_at(desk.all_stages + 8 * desk.own * desk.rows * desk.size)
    for p in range(desk.size):
        share = velocity[p] / max(atol[p] + desk.rtol * abs(theta[p]), 1e-300)
        total += share * share
    return math.sqrt(total / desk.size) * min(desk.h, left) <= desk.reach


@njit(**OPTIONS)
def _reject(desk, finite):
    """Propose a shorter step from the same state; False if it would be too short."""
    factor = max(0.2, 0.9 * desk.error ** (-1.0 / desk.order)) if finite else 0.1
    if not factor * desk.h > 1e-14 * max(abs(desk.t), 1e-300):
        return False
    desk.h *= factor
    desk.rejected += 1
    return True


@procedure(FLOAT(FLOAT, FLOAT))
def quotient(a, b):
    """a / b as Python has it; in a loop it would become a product with 1 / b."""
    return a / b


@procedure(INT(Desk, FLOAT, INT))
def move(desk_at, t, end):
    """Go to the time t inside the step, where theta is that at `end`; theta itself is left where the step began.

    States at save times on the way are written, and the blocks of stages change places.
    """
    desk = at(desk_at)
    times = numbers_at(desk.save_times)
    while desk.save_next < desk.save_count and times[desk.save_next] <= t:
        target = desk.saved + 8 * desk.save_next * desk.size
        if times[desk.save_next] < t:
            theta_along(desk_at, quotient(times[desk.save_next] - desk.t, desk.h), target)
        else:
            copy(desk.size, end, target)
        desk.save_next += 1
    copy(desk.size, desk.theta, desk.theta_before)
    desk.t_before, desk.length_before, desk.t = desk.t, desk.h, t
    desk.own = 1 - desk.own
    desk.accepted += 1
    return 0


@procedure(INT(Desk))
def accept(desk_at):
    """Go to the end of a whole step, and propose the next."""
    desk = at(desk_at)
    length, size, own = desk.h, desk.size, desk.own
    end = desk.ends + 8 * own * size
    move(desk_at, desk.t + length, end)
    desk.event_last, desk.value = 0, desk.found
    copy(size, end, desk.theta)
    copy(desk.units, desk.spare_units, desk.z)
    copy(2 * desk.capacity, desk.stage_pulls + 16 * desk.stages * desk.capacity, desk.pulls)
    block = 8 * desk.rows * size
    copy(size, desk.all_stages + own * block + 8 * desk.stages * size, desk.all_stages + desk.own * block)
    error = max(desk.error, 1e-10)
    factor = 0.9 * error ** (-0.7 / desk.order) * desk.error_before ** (0.4 / desk.order)
    desk.h, desk.error_before = length * min(5.0, max(0.2, factor)), max(error, 1e-4)
    if desk.fresh_count:
        desk.fresh_count = desk.signs_known = 0
    return 0


@njit(**OPTIONS)
def _record(desk, kind, kink, mask):
    """Add a row to the record."""
    row = desk.row_count
    integers_at(desk.kinds)[row] = kind
    integers_at(desk.kinks)[row] = kink
    numbers_at(desk.masks)[row] = mask
    integers_at(desk.row_instants)[row] = desk.instant_count
    desk.row_count = row + 1


@njit(**OPTIONS)
def _place(kinks, count, kink):
    """Place of a kink in a list; -1 if it is not there."""
    for a in range(count):
        if kinks[a] == kink:
            return a
    return -1


@procedure(INT(Desk, Wall, Wall))
def write_record(desk_at, wall_at, next_at):
    """Who crossed, ended and began to slide, in this order, and the region reached."""
    desk, wall, new = at(desk_at), at(wall_at), at(next_at)
    names, status = integers_at(desk.names), integers_at(desk.status)
    sigma, before = numbers_at(desk.next_sigma), numbers_at(desk.sigma)
    slid, slides = integers_at(wall.kinks), integers_at(new.kinks)
    lam, att = numbers_at(desk.event_pulls), numbers_at(desk.event_pulls + 8 * desk.capacity)
    top = 0.0
    for a in range(new.count):
        top = max(top, abs(att[a]))
    for kind in (CROSS, EXIT, SLIDES):
        for a in range(desk.name_count):
            kink, was = names[a], _place(slid, wall.count, names[a]) >= 0
            if kind == CROSS and status[a] != SLIDE and not was and before[kink] != sigma[kink]:
                _record(desk, kind, kink, sigma[kink])
            elif kind == EXIT and status[a] != SLIDE and was:
                _record(desk, kind, kink, sigma[kink])
            elif kind == SLIDES and status[a] == SLIDE and not was:
                place = _place(slides, new.count, kink)
                _record(desk, kind, kink, 0.0 if abs(att[place]) <= 1e-14 * top else lam[place] / att[place])
    region = name_region(desk.units, desk.next_sigma, new.count, new.kinks)
    integers_at(desk.regions)[desk.instant_count] = region
    return 0


@njit(**OPTIONS)
def _swap(wall, new):
    """Let two walls change places."""
    wall.count, new.count = new.count, wall.count
    wall.kinks, new.kinks = new.kinks, wall.kinks
    wall.held, new.held = new.held, wall.held
    wall.stacked, new.stacked = new.stacked, wall.stacked
    wall.order, new.order = new.order, wall.order
    wall.owners, new.owners = new.owners, wall.owners
    wall.basis, new.basis = new.basis, wall.basis
    wall.triangle, new.triangle = new.triangle, wall.triangle


@procedure(INT(Desk, Wall, Wall, FLOAT))
def commit(desk_at, wall_at, next_at, x):
    """Take the outcome of an event at the fraction x of a step, or of none (-1); 1 if there were too many at once."""
    desk, wall, new = at(desk_at), at(wall_at), at(next_at)
    if x > 0.0:
        move(desk_at, desk.t + x * desk.h, desk.spot)
        copy(desk.units, desk.sigma, desk.sigma_before)
        copy(wall.count, wall.kinks, desk.kinks_before)
        desk.count_before, desk.event_last = wall.count, 1
    desk.since = desk.accepted
    write_record(desk_at, wall_at, next_at)
    copy(desk.size, desk.spot, desk.theta)
    copy(desk.units, desk.next_sigma, desk.sigma)
    copy(desk.units, desk.event_units, desk.z)
    copy(2 * desk.capacity, desk.event_pulls, desk.pulls)
    copy(desk.size, desk.event_velocity, desk.all_stages + 8 * desk.own * desk.rows * desk.size)
    desk.value, desk.signs_known = desk.event_value, 0
    desk.fresh_count, desk.dark_count = desk.event_count, desk.event_dark_count
    copy(desk.event_count, desk.event_speed, desk.fresh_speed)
    copy(desk.event_count, desk.event_rest, desk.fresh_rest)
    copy(desk.event_count, desk.event_fresh, desk.fresh)
    copy(desk.event_dark_count, desk.event_dark, desk.dark)
    _swap(wall, new)
    instants = numbers_at(desk.instants)
    last = desk.old_instants + desk.instant_count
    instants[last] = desk.t
    desk.instant_count += 1
    span = max(LITTLE_TIME * (desk.unshortened if desk.shortened else desk.h), 1e-13 * abs(desk.t))
    return last >= EVENTS_AT_ONCE and desk.t - instants[last - EVENTS_AT_ONCE] <= span


@procedure(INT(Desk, Wall, Wall, Wall, Wall))
def chain(desk_at, wall_at, next_at, joint_at, free_at):
    """Steps and events until something else has to be done; why it ends."""
    desk, wall = at(desk_at), at(wall_at)
    while not _stops(desk) and not looks(desk_at):
        spent = desk.gradients
        if watch_sides(desk_at, wall_at):
            copy(desk.size, desk.theta, desk.spot)
            desk.culprit_count = 0
            if not arrive(desk_at, wall_at, next_at, joint_at, free_at):
                desk.gradients = spent
                return ALONE
            if commit(desk_at, wall_at, next_at, -1.0):
                return STALLED
            continue
        if desk.t + desk.h > desk.t_end or not take_step(desk_at, wall_at, desk.own):
            return ALONE
        spent += desk.rows - 1
        desk.gradients = spent
        finite = abs(desk.error + desk.found) < math.inf
        if not finite or desk.error >= 1.0:
            if not _reject(desk, finite):
                return TRIED
            continue
        first_violation(desk_at, wall_at, desk.own)
        violation, found = desk.x, desk.found
        if violation < AT_ONCE and desk.shortened < 3:
            desk.unshortened = desk.unshortened if desk.shortened else desk.h
            desk.shortened, desk.rejected, desk.h = desk.shortened + 1, desk.rejected + 1, 0.25 * desk.h
            continue
        leaves = first_departure(desk_at, wall_at, min(violation, 1.0)) if wall.count else 0
        if leaves == 0 and violation > 1.0:
            desk.shortened = 0
            accept(desk_at)
            continue
        if leaves >= 0:
            theta_along(desk_at, desk.x, desk.spot)
            if leaves:
                leaves = leave(desk_at, wall_at, next_at)
            else:
                leaves = arrive(desk_at, wall_at, next_at, joint_at, free_at)
        else:
            leaves = 0
        if not leaves:
            desk.gradients, desk.found = spent, found
            return TRIED
        stalled = commit(desk_at, wall_at, next_at, desk.x)
        desk.h = desk.unshortened if desk.shortened and violation <= 1.0 else desk.h
        desk.shortened = 0
        if stalled:
            return STALLED
    return PAUSED


@entry()
def follow(desk, walls):
    """The chain, from arrays of records: the run, and four walls (present, next, joint, and an empty one)."""
    return chain(
        pointer_to(desk), pointer_to(walls[0:1]), pointer_to(walls[1:2]), pointer_to(walls[2:3]), pointer_to(walls[3:4])
    )


@entry()
def try_step(desk, walls):
    """One step, handed back whatever happens in it; 0 if normals are dependent."""
    return take_step(pointer_to(desk), pointer_to(walls), desk[0].own)


@entry()
def evaluate(desk, walls, theta, sigma, units, velocity, pulls):
    """Velocity at theta; 0 if normals are dependent."""
    return sliding_velocity(pointer_to(desk), pointer_to(walls), theta, sigma, units, velocity, pulls)


@entry()
def build(desk, walls):
    """Bases of the present wall; 0 if normals are dependent."""
    return span(pointer_to(desk), pointer_to(walls[0:1]), pointer_to(walls[3:4]))
