"""Corners on a path: neurons at the origin, and groups of dependent kinks; which way it goes on from there."""

from dataclasses import dataclass, replace

import numpy as np

from gradflow.kinks.arrive import NONE, Outcome, change, dependent, restored
from gradflow.kinks.branch import Branch, chosen_way
from gradflow.kinks.corner import shares, way
from gradflow.kinks.dependent import Group, group_at, groups, normals_at
from gradflow.kinks.look import Fresh, Step, bracketed_root
from gradflow.kinks.origin import LEVEL, Origin, kinks_of, origin_at, ways_out

STAYS = 2
"""Status of the kinks of a neuron that stays at the origin; else of sliding kinks."""

TILT = 0.1
"""Slope at which it is asked whether descent stays in a corner from which the loss begins to fall."""

LEAST = 0.01
"""Share of descents below which a way is not counted."""


@dataclass(frozen=True)
class Escape:
    """Fraction of a step at which a group of kinks that was held at 0 is held no longer."""

    x: float
    group: Group


def holds(network, place) -> list[Group]:
    """Groups of kinks that stay at 0, or leave it, together: those of neurons at the origin, and dependent ones."""
    if place.holds is None:
        place.holds = groups(network, place)
        if place.surface is not None and network.flat:
            own = ((j, place.sliding[network.neurons[place.sliding] == j]) for j in place.surface.pinned)
            place.holds = [Group(slid, np.setdiff1d(kinks_of(network, j), slid)) for j, slid in own]
        if place.surface is not None:
            slid = [group.sliding for group in place.holds]
            place.surface.at_origin = network.among(place.sliding, np.concatenate([NONE, *slid]))
    return place.holds


def _origin(run, place, theta, group) -> Origin:
    """The loss near the corner of a group."""
    run.counts["gradients"] += 1
    if run.network.flat:
        return origin_at(run.network, theta, place.sigma, int(run.network.neurons[group.sliding[0]]))
    return group_at(run.network, theta, place.sigma, place.sliding, group)


def escape(run, step: Step, limit: float) -> Escape | None:
    """First group that is held no longer, up to a fraction of a step.

    The loss falls along a ray; or, where a group is to stay as long as it can, 0 leaves the subdifferential.
    """
    first = None
    for group in holds(run.network, run.place):
        told = _told_to_stay(run, group)

        def hold(x, group=group, told=told):
            origin = _origin(run, run.place, step.at(x), group)
            return 1e-9 - origin.rest() if told else float(origin.slopes().min()) + 2.0 * LEVEL

        bound = limit if first is None else first.x
        end = hold(bound)
        if end < 0.0:
            begin = hold(0.0)
            x = bracketed_root(hold, 0.0, begin, bound, end, small=0.5 * LEVEL) if begin > 0.0 else 0.0
            first = Escape(x, group)
    return first


def _told_to_stay(run, group) -> bool:
    """Whether a group stays at 0 though the loss falls from there."""
    return bool(run.place.held[run.network.among(run.place.sliding, group.sliding)].any())


def leave_corner(run, time, theta, group) -> Outcome:
    """Event at which the loss begins to fall from the corner of a group along a ray.

    Where kinks lie above others, descent may stay all the same, since its chatter leads back: both ways are solutions,
    and descents in a corner with a slope of `TILT` tell which one is likely.
    """
    network = run.network
    theta = restored(network, run.place.sliding, theta, run.place.sigma)
    origin = _origin(run, run.place, theta, group)
    ray = origin.rays[np.argmin(origin.slopes())]
    status, place = origin.along(ray), run.place
    if origin.feed.any() and not _told_to_stay(run, group):
        tilted = replace(origin, pull=origin.pull + TILT * np.linalg.norm(origin.pull) * ray).corner()
        part = shares(tilted, [way(tilted, status)], np.zeros(status.size))
        place = replace(place, theta=theta, here=run.evaluate(theta), fresh=Fresh())
        branch = branch_of(time, place, origin.kinks, [status, np.full(status.size, STAYS)], part)
        if run.at_branch == "stop" and len(branch.ways) > 1:
            return Outcome(place, [], 0, branch=branch)
        if len(branch.ways) > 1:
            note(run, branch)
        status = chosen_way(run.at_branch, branch)
        if (status == STAYS).all():
            return take(network, place, origin.kinks, status)
    return _changed(network, place, theta, origin.kinks, status, np.ones(status.size, bool))


def at_corners(run, time, outcome: Outcome, decided: Group | None = None) -> Outcome:
    """The outcome of an event, after the decisions whether groups that are at 0 are held there.

    A neuron that has been held at the origin so far still is, as its loss is continuous; other groups feel the jumps
    of the velocity. `decided` is a group on which a decision has been taken.
    """
    seen = [] if decided is None else [set(decided.kinks.tolist())]
    while outcome.place is not None and outcome.branch is None:
        network, place = run.network, outcome.place
        new = [group for group in holds(network, place) if set(group.kinks.tolist()) not in seen]
        if network.flat and run.place.surface is not None:
            new = [group for group in new if network.neurons[group.sliding[0]] not in run.place.surface.pinned]
        if not new:
            break
        seen.append(set(new[0].kinks.tolist()))
        outcome = _decide(run, time, outcome, new[0])
    return outcome


def _decide(run, time, outcome, group) -> Outcome:
    """Whether a group dies, stays at 0 or leaves it by one of its ways; several ways are a branch point."""
    network, place = run.network, outcome.place
    origin = _origin(run, place, place.theta, group)
    found, idle = ways_out(origin), origin.idle()
    stay = np.full(origin.kinks.size, STAYS) if idle is None else idle
    if not found:
        return outcome if idle is None else _and_then(outcome, take(network, place, origin.kinks, stay))
    if network.flat:
        run.origins.append((time, int(network.neurons[group.sliding[0]])))
        arrival = origin.rows @ run.place.here.velocity[network.first_entries[run.origins[-1][1]]]
    else:
        arrival = normals_at(network, place, origin.kinks) @ run.place.here.velocity
    part = shares(origin.corner(), found, arrival)
    branch = branch_of(time, place, origin.kinks, [*(one.status for one in found), stay], part)
    if len(branch.ways) > 1 and run.at_branch == "stop":
        return replace(outcome, branch=branch)
    if len(branch.ways) > 1:
        note(run, branch)
    return _and_then(outcome, take(network, place, origin.kinks, chosen_way(run.at_branch, branch)))


def _and_then(first, second) -> Outcome:
    """Two outcomes at one instant."""
    return replace(second, rows=[*first.rows, *second.rows], gradients=first.gradients + second.gradients)


def take(network, place, kinks, status) -> Outcome:
    """Go on from a corner by a way: a status for each of its kinks; if all slide, they stay as long as they can."""
    if (status == STAYS).all():
        held = place.held | network.among(place.sliding, kinks)
        return Outcome(replace(place, held=held), [], 0)
    return _changed(network, place, place.theta, kinks, status, np.full(kinks.size, not (status == 1).any()))


def _changed(network, place, theta, kinks, status, calm) -> Outcome:
    """The place after a way is taken: of dependent kinks that go on sliding some are enough."""
    status, stopped = status.copy(), NONE
    slides = np.flatnonzero(status == STAYS)
    if not network.flat and slides.size > 1:
        sigma = place.sigma.copy()
        network.set_masks(sigma, kinks, np.where(status == STAYS, 0, status))
        others = place.sliding[~network.among(place.sliding, kinks)]
        kept, stopped = dependent(network, theta, sigma, others, kinks[slides])
        shaded = network.among(kinks, kept)
        status[shaded], calm = place.sigma[kinks[shaded]], calm | shaded
    return change(network, place, theta, kinks, status, calm, None, stopped)


def branch_of(time, place, kinks, found, part) -> Branch:
    """The branch point of a corner: the ways that at least one of a hundred descents takes, by their shares.

    The last one is to stay. If some descents do, all others are solutions that are stable from the first step on.
    """
    part = np.where(part >= LEAST, part, 0.0)
    if not part.any():
        part[0] = 1.0
    order = np.argsort(-part, kind="stable")
    order = order[(part[order] > 0.0) | ((part[-1] > 0.0) & (order < part.size - 1))]
    status, part = np.array([found[i] for i in order]), part[order] / part.sum()
    sigma = part @ np.where(status == STAYS, 0.5, status)
    return Branch(time, place.theta.copy(), place.sigma.copy(), place.sliding.copy(), kinks.copy(), sigma, status, part)


def note(run, branch) -> None:
    """Record a branch point, with the kinks at which its paths differ."""
    differ = (branch.ways != branch.ways[0]).any(axis=0)
    run.record.add(branch.time, "branch", branch.kinks[differ], branch.sigma[differ])
    run.branch_points.append(branch)
