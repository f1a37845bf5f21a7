"""The loop of the Adams stepper: one source, compiled for compiled fields and interpreted for others.

A run keeps the velocities at the last points, and their times; each step makes its formulas anew from the times.
"""

import math

from gradflow.kernels.calls import call
from gradflow.status import Status
from gradflow.steppers import adams_passes as passes
from gradflow.steppers.adams_formulas import inside_weights, step_weights
from gradflow.steppers.adams_passes import add_rows, assign, correct, distance, mix, stage, start_speed

_GO_ON = -1
_PAUSED, _REACHED_END, _LOSS_BELOW = int(Status.PAUSED), int(Status.REACHED_END), int(Status.LOSS_BELOW)
_STEP_TOO_SMALL, _DIVERGED, _BUDGET = int(Status.STEP_TOO_SMALL), int(Status.DIVERGED), int(Status.GRADIENT_BUDGET)
_STIFF, _NOT_FINITE_START = int(Status.STIFF), int(Status.NOT_FINITE_START)

_AIM, _GROWTH, _FIRST_GROWTH, _LONGEST = 0.2, 2.0, 10.0, 1e300
_FORGET, _FORGET_JUMP = 0.9, 0.6
_STAY, _SAME, _ROUNDING = 1.05, 1.25, 1e-13
_STIFF_STEPS, _CALM_STEPS = 15, 6
_CHOICE, _VELOCITY = 1, 2


def evaluate(rhs, now, t, state, out):
    """Velocity at a point; return the objective."""
    now["gradients"] += 1
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def scale_points(memory, first, count, start, h):
    """Write `count` times of the history to points, on a scale where the step goes from 0 to 1."""
    for l in range(count):
        memory.points[l] = (memory.times[memory.slots[first + l]] - start) / h


def predict(memory, now):
    """Write the integral of the polynomial through the last velocities to predicted, and all weights of the step."""
    m, k, h = memory, now["order"], now["h"]
    scale_points(m, 0, min(k + 1, now["known"]), now["newest"], h)
    step_weights(k, now["known"], h, m.points, m.spare, m.weights)
    add_rows(m.predicted, state_at(m, 0), k, m.weights, m.rows, m.slots)


def correct_step(method, memory, now):
    """Write the corrected end of the step; return the error in units of the tolerance."""
    m, k = memory, now["order"]
    gain, factor = m.weights[4, 0], abs(m.weights[5, 0])
    if now["damped"]:
        factor = (1.0 - method.damping[k]) * gain
        gain *= method.damping[k]
    m.places[0] = m.slots[-2]
    for l in range(k + 1):
        m.places[l + 1] = m.slots[l]
    out, y, count = state_at(m, 2), state_at(m, 0), min(k + 2, now["known"] + 1)
    correct(out, y, m.predicted, gain, count, m.weights, m.rows, m.places, method.rtol, method.atol, m.norms)
    now["trial_moved"] = abs(gain) * m.norms[4]
    return factor * m.norms[1]


def state_at(memory, which):
    """State at the newest point (0), the one before (1), the corrected end of the trial step (2)."""
    return stage(memory.states, memory.newest[which], memory.state.size)


def velocity_at(memory, place):
    """Velocity in a slot."""
    return stage(memory.rows, memory.slots[place], memory.state.size)


def attempt(rhs, method, memory, record, limits):
    """Try one step: predict, evaluate, correct, evaluate; accept it, or propose a shorter one."""
    m, now = memory, record[0]
    k, h, t = now["order"], now["h"], now["newest"]
    if not t + h > t:
        return _STEP_TOO_SMALL
    predict(m, now)
    value = evaluate(rhs, now, t + h, m.predicted, velocity_at(m, -2))
    error = correct_step(method, m, now)
    if not (error < math.inf and abs(value) < math.inf):
        return reject(now, 0.1 * h, 1, _DIVERGED)
    if error >= 1.0:
        shorter = h * max(0.2, min(0.7, (_AIM / error) ** (1.0 / (k + 1))))
        return reject(now, shorter, k if now["failures"] == 0 else 1, _STEP_TOO_SMALL)
    if t + h < limits.t_end or limits.loss_below > -math.inf:
        value = evaluate(rhs, now, t + h, state_at(m, 2), velocity_at(m, -1))
        change = distance(velocity_at(m, -1), velocity_at(m, -2))
        if not (abs(value) < math.inf and change < math.inf):
            return reject(now, 0.1 * h, 1, _DIVERGED)
        now["newest_value"], now["due"] = value, _CHOICE
    else:
        now["due"] = _VELOCITY
    accept(m, now, k, t + h, h)
    if now["due"] == _CHOICE:
        choose(method, m, now)
    return _GO_ON


def reject(now, shorter, order, collapse):
    """Propose a shorter step from the same point."""
    now["rejected"] += 1
    now["failures"] += 1
    now["h"], now["order"] = shorter, order
    if order == 1:
        now["damped"] = 0
    if not shorter > 1e-14 * max(abs(now["newest"]), now["h_tried"]):
        return collapse
    return _GO_ON


def accept(memory, now, k, t, h):
    """Move to the new point; its velocity enters the history."""
    m, slots = memory, memory.slots
    depth = slots.size - 3
    spare = slots[depth - 1]
    for l in range(depth - 1, 0, -1):
        slots[l] = slots[l - 1]
    slots[0], slots[-1] = slots[-1], spare
    slots[-3], slots[-2] = slots[-2], slots[-3]
    m.times[slots[0]] = t
    m.newest[0], m.newest[1], m.newest[2] = m.newest[2], m.newest[0], m.newest[1]
    now["moved"] = now["trial_moved"]
    now["low"], now["middle"], now["high"], now["size"] = m.norms[0], m.norms[1], m.norms[2], m.norms[3]
    now["known"] = min(now["known"] + 1, depth)
    now["newest"], now["length"], now["used"], now["failures"] = t, h, k, 0


def complete(rhs, method, memory, now):
    """Velocity at the newest point, if it was left out because a run ended there, and what follows from it."""
    m = memory
    if now["due"] == _VELOCITY:
        now["newest_value"] = evaluate(rhs, now, now["newest"], state_at(m, 0), velocity_at(m, 0))
        now["due"] = _CHOICE
        if not abs(now["newest_value"]) < math.inf:
            return _DIVERGED
    if now["due"] == _CHOICE:
        choose(method, m, now)
    return _GO_ON


def choose(method, memory, now):
    """Order, damping and length of the next step: the longest that error and stability allow."""
    m, k, h = memory, now["used"], now["length"]
    seen = 0.0
    if now["moved"] > _ROUNDING * now["size"]:
        seen = distance(velocity_at(m, 0), velocity_at(m, -3)) / now["moved"]
    now["rho"] = max(seen, now["rho"] * (_FORGET if seen > 0.1 * now["rho"] else _FORGET_JUMP))
    most = h * (_FIRST_GROWTH if now["accepted"] < 2 else _GROWTH)
    best, bound = 0.0, False
    order, damped = now["order"], now["damped"]
    for j in range(max(k - 1, 1), min(k + 1, method.most_order, now["known"] - 1) + 1):
        norm = now["low"] if j < k else now["middle"] if j == k else now["high"]
        for kind in range(2 if method.damping[j] > 0.0 else 1):
            stable = method.stable[kind, j] / now["rho"] if now["rho"] > 0.0 else math.inf
            favour = _STAY if j == k and kind == now["damped"] else 1.0
            if min(stable, most) * favour < best:
                continue
            by_error = h * (_AIM / max(h * norm * method.error[kind, j], 1e-10)) ** (1.0 / (j + 1))
            length = min(by_error, stable, most)
            worth = length * favour
            if worth > best or (worth == best and length == most):
                best, bound, now["next"] = worth, stable <= length, length
                order, damped = j, kind
    now["order"], now["damped"], now["due"] = order, damped, 0
    ratio = now["next"] / h
    if not 1.0 <= ratio < _SAME:
        now["h"] = min(max(ratio, 0.3) * h, _LONGEST)
    now["h_tried"] = now["h"]
    watch_stiffness(now, bound)


def watch_stiffness(now, bound):
    """Count the steps whose length is set by stability; six calm ones in a row clear the count."""
    now["stiff"] += bound
    now["calm"] = 0 if bound else now["calm"] + 1
    if now["calm"] >= _CALM_STEPS:
        now["stiff"] = 0


def interpolate(memory, now, time, out):
    """State at a time inside the last step: the integral of its polynomial, bent to end in the corrected state."""
    m, k, h = memory, now["used"], now["length"]
    start = m.times[m.slots[1]]
    scale_points(m, 1, k, start, h)
    for l in range(k, 0, -1):
        m.points[l], m.places[l] = m.points[l - 1], m.slots[l]
    m.points[0], m.places[0] = 1.0, m.slots[-3]
    x = (time - start) / h
    bend = x * x * (3.0 - 2.0 * x)
    inside_weights(k + 1, x, h, bend, m.points, m.spare, m.weights)
    mix(m.predicted, state_at(m, 1), state_at(m, 0), bend)
    add_rows(out, m.predicted, k + 1, m.weights, m.rows, m.places)


def show(memory, now, t_end):
    """Move what the caller sees to the newest point, or to t_end if that comes first."""
    m = memory
    now["inside_before"] = now["inside"]
    if now["inside"]:
        assign(m.state_before, m.state)
    now["t_before"] = now["t"]
    now["accepted"] += 1
    now["t"] = min(now["newest"], t_end)
    now["inside"] = now["t"] < now["newest"]
    now["has_value"] = not now["inside"] and now["due"] != _VELOCITY
    now["value"] = now["newest_value"]
    if now["inside"]:
        interpolate(m, now, now["t"], m.state)


def is_low(rhs, limits, memory, now):
    """Whether the objective at the state is below the limit."""
    if limits.loss_below == -math.inf:
        return False
    if not now["has_value"]:
        now["value"] = evaluate(rhs, now, now["t"], memory.state, memory.velocity)
        now["has_value"] = 1
    return now["value"] < limits.loss_below


def stop(rhs, method, limits, memory, now, last_step):
    """Reason to stop before the next step, if any."""
    if is_low(rhs, limits, memory, now):
        return _LOSS_BELOW
    if now["t"] >= limits.t_end:
        return _REACHED_END
    if now["stiff"] >= _STIFF_STEPS and not now["inside"]:
        if 2.0 * (limits.t_end - now["t"]) > method.stiff_gradients * now["h"]:
            now["stiff"] = 0
            return _STIFF
    if now["accepted"] >= last_step:
        return _PAUSED
    return _GO_ON


def begin(rhs, method, memory, now):
    """Velocity at the start, and a first step of half the tolerance; a start that is not finite ends the run."""
    m = memory
    if not now["has_value"]:
        now["value"] = now["newest_value"] = evaluate(rhs, now, now["t"], state_at(m, 0), velocity_at(m, 0))
        now["has_value"] = 1
    speed = start_speed(velocity_at(m, 0), state_at(m, 0), method.rtol, method.atol)
    if not (abs(now["value"]) < math.inf and speed >= 0.0):
        return _NOT_FINITE_START
    m.times[m.slots[0]] = now["newest"]
    now["order"] = now["known"] = 1
    if now["h"] == 0.0:
        now["h"] = now["h_tried"] = min(0.5 / speed, 1e100) if speed > 0.0 else 1.0
    return _GO_ON


def advance(rhs, method, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that are reached."""
    now = record[0]
    if now["known"] == 0 and (now["t"] < limits.t_end or limits.loss_below > -math.inf):
        status = begin(rhs, method, memory, now)
        if status != _GO_ON:
            return status
    last_step = now["accepted"] + limits.max_steps
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"]:
            if save_at[k] == now["t"]:
                assign(saved[k], memory.state if now["inside"] else state_at(memory, 0))
            elif save_at[k] == now["t_before"]:
                assign(saved[k], memory.state_before if now["inside_before"] else state_at(memory, 1))
            else:
                interpolate(memory, now, save_at[k], saved[k])
            k += 1
        status = stop(rhs, method, limits, memory, now, last_step)
        if status != _GO_ON:
            return status
        accepted = now["newest"] > now["t"]
        while not accepted:
            if now["gradients"] + 3 > limits.max_gradients:
                return _BUDGET
            status = complete(rhs, method, memory, now)
            if status == _GO_ON:
                status = attempt(rhs, method, memory, record, limits)
            if status != _GO_ON:
                return status
            accepted = now["failures"] == 0
        show(memory, now, limits.t_end)


HELPERS = (
    evaluate, scale_points, predict, correct_step, state_at, velocity_at, attempt,
    begin, reject, accept, complete, choose, watch_stiffness, interpolate, show, is_low, stop,
)  # fmt: skip
TWINS = passes.TWINS
VIEWS = (passes.stage_view, state_at, velocity_at)
