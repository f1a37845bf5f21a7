"""One piece of a kinked path: a step, ended at the first event inside it."""

import functools
from dataclasses import replace

import numpy as np

from gradflow.kinks.arrive import arrive, leave
from gradflow.kinks.branch import Branch, chosen_sides
from gradflow.kinks.look import ALONE, AT_ONCE, EVENTS_AT_ONCE, LITTLE_TIME, PAUSED, STALLED, Fresh
from gradflow.kinks.watch import first_departure
from gradflow.status import Status
from gradflow.steppers.kinked_corners import at_corners, escape, holds, leave_corner, note
from gradflow.steppers.kinked_state import pack
from gradflow.steppers.kinked_step import follow, try_step


def attempt(run, limits) -> Status | None:
    """Step as long as nothing happens, then end a step at the first event inside. Returns a reason to stop, or None."""
    t_end = limits[0]
    reason, trial = (ALONE, None) if holds(run.network, run.place) else follow(run, limits)
    if reason == PAUSED:
        return None
    if reason == STALLED:
        return Status.STALLED_AT_KINK
    place, network = run.place, run.network
    scales = network.scales(place.theta, place.here.z)
    signs = run.lookout.signs(place)
    cut = False
    if trial is None:
        if run.lookout.violations(place.here.z, scales, signs).size:
            return finish(run, 0.0, None, arrive(network, place, place.theta, place.here.z))
        cut = run.t + run.h > t_end
        if cut and run.cut_at != t_end:
            run.uncut, run.cut_at = pack(run), t_end
        trial = try_step(run, t_end - run.t if cut else run.h)
    if not trial.finite or trial.error >= 1.0:
        return _reject(run, trial)
    x, culprits = run.lookout.first(trial.step, place, scales, signs)
    if x < AT_ONCE and run.shortened < 3:
        return _shorten(run, trial.step.length)
    if run.shortened and x <= 1.0:
        run.h = run.unshortened
    run.shortened = 0
    departure = None
    if place.sliding.size:
        path = functools.partial(on_path, run, trial.step)
        departure = first_departure(place, trial.hints, trial.end, path, min(x, 1.0))
    out = escape(run, trial.step, min(x, 1.0 if departure is None else departure.x))
    if out is not None:
        return leave_at(run, out, trial.step)
    if departure is not None:
        return depart(run, departure, trial.step)
    if x <= 1.0:
        outcome = arrive(network, place, trial.step.at(x), place.here.z, culprits)
        return finish(run, x, trial.step, outcome)
    if not cut:
        _propose(run, trial)
    new = replace(place, theta=trial.theta, here=trial.end, fresh=Fresh())
    move(run, trial.step, new, t_end if cut else run.t + trial.step.length)
    return None


def on_path(run, step, x):
    """Sliding velocity at the fraction x of a step."""
    return run.evaluate(step.at(x))


def _reject(run, trial):
    """Propose a shorter step from the same state."""
    run.counts["rejected"] += 1
    factor = max(0.2, 0.9 * trial.error ** (-1.0 / run.pair.order)) if trial.finite else 0.1
    run.h = factor * trial.step.length
    if not run.h > 1e-14 * max(abs(run.t), 1e-300):
        return Status.STEP_TOO_SMALL if trial.finite else Status.DIVERGED
    return None


def _shorten(run, length):
    """Repeat a step at a quarter of its length."""
    if not run.shortened:
        run.unshortened = run.h
    run.shortened += 1
    run.counts["rejected"] += 1
    run.h = 0.25 * length


def _propose(run, trial):
    """Size of the next step after a whole one; after a piece the size stays, which keeps the dense output accurate."""
    error = max(trial.error, 1e-10)
    factor = 0.9 * error ** (-0.7 / run.pair.order) * run.error_before ** (0.4 / run.pair.order)
    run.h = trial.step.length * min(5.0, max(0.2, factor))
    run.error_before = max(error, 1e-4)


def depart(run, departure, step):
    """End a piece at a mask that leaves [0, 1], or at a branch point."""
    theta, time = step.at(departure.x), run.t + departure.x * step.length
    kinks, sides = departure.kinks, departure.sides
    if departure.branching.any():
        kinks, sigma = kinks[departure.branching], departure.sigma[departure.branching]
        place = run.place
        run.record.add(time, "branch", kinks, sigma)
        run.branch_points.append(Branch(time, theta.copy(), place.sigma.copy(), place.sliding.copy(), kinks, sigma))
        if run.at_branch in ("stay", "stop"):
            return _stay(run, time, step, kinks, theta)
        sides = chosen_sides(run.at_branch, sigma)
    return finish(run, departure.x, step, leave(run.network, run.place, theta, kinks, sides))


def leave_at(run, out, step):
    """End a piece where a group of kinks is held at 0 no longer."""
    time = run.t + out.x * step.length
    return finish(run, out.x, step, leave_corner(run, time, step.at(out.x), out.group), out.group)


def _stay(run, time, step, kinks, theta):
    """Go on along the ridge, or wait there for a choice."""
    place = run.place
    turned = place.held ^ np.isin(place.sliding, kinks)
    move(run, step, replace(place, theta=theta, held=turned, here=run.evaluate(theta), fresh=Fresh()), time)
    if run.at_branch == "stop":
        run.waiting = run.branch_points[-1]
    return None


def finish(run, x, step, outcome, decided=None):
    """Take the outcome of an event at the fraction x of a step; `decided`: a group of kinks on which it was."""
    time = run.t if step is None else run.t + x * step.length
    outcome = at_corners(run, time, outcome, decided)
    if outcome.place is not None:
        _note_origins(run, outcome.place, time)
    if outcome.place is not None and step is not None and x > 0.0:
        move(run, step, outcome.place, time)
    adopt(run, outcome)
    if run.dispute:
        return Status.STALLED_AT_KINK
    if outcome.branch is not None:
        note(run, outcome.branch)
        run.waiting = outcome.branch
    times = run.record.times
    times.append(time)
    if len(times) <= EVENTS_AT_ONCE:
        return None
    passed = time - times[-EVENTS_AT_ONCE - 1]
    return Status.STALLED_AT_KINK if passed <= max(LITTLE_TIME * run.h, 1e-13 * abs(time)) else None


def adopt(run, outcome) -> None:
    """Go to the place after an event, and record what changed there."""
    run.counts["gradients"] += outcome.gradients
    if outcome.place is None:
        run.dispute = f"ambiguous kink at t = {run.t:.10g}: {', '.join(map(run.name, outcome.disputed[:5]))}"
        return
    run.place, run.since = outcome.place, run.counts["accepted"]
    for row in outcome.rows:
        run.record.add(run.t, *row)
    run.record.visit(run.place.sigma, run.place.sliding)


def _note_origins(run, place, time):
    """Remember neurons that leave the origin while some of their kinks repel: several directions may be open."""
    held = [] if run.place.surface is None else run.place.surface.pinned
    freed = [neuron for neuron in held if place.surface is None or neuron not in place.surface.pinned]
    if not freed:
        return
    network = run.network
    delta = network.run(place.theta, place.sigma).delta
    run.counts["gradients"] += 1
    for neuron in freed:
        kinks = np.flatnonzero(network.live & (network.layers == 0) & (network.neurons == neuron))
        if (network.attraction(delta, kinks) < 0.0).any():
            run.origins.append((time, neuron))


def move(run, step, place, t):
    """Go to the end of a step, or of a piece of one."""
    run.place_before, run.theta_before, run.t_before = run.place, run.place.theta, run.t
    run.place, run.t, run.step = place, t, step
    run.counts["accepted"] += 1
