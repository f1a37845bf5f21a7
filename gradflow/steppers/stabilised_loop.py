"""The loop of the stabilised stepper: one source, compiled for compiled fields and interpreted for others."""

import math
from typing import NamedTuple

import numpy as np

from gradflow.status import Status
from gradflow.steppers.stabilised_dense import DENSE_HELPERS, DENSE_TWINS, add, evaluate, interpolate

_GO_ON = -1
_PAUSED = int(Status.PAUSED)
_REACHED_END = int(Status.REACHED_END)
_LOSS_BELOW = int(Status.LOSS_BELOW)
_GRADIENT_BUDGET = int(Status.GRADIENT_BUDGET)
_STEP_TOO_SMALL = int(Status.STEP_TOO_SMALL)
_DIVERGED = int(Status.DIVERGED)
_STIFF = int(Status.STIFF)

_ORDER = 4
_STIFF_STEPS = 15
_CALM_STEPS = 6
_LONGEST = 1e300
_MARGIN = 1.1
"""Interval of stability taken, over step size times estimated radius: a power iteration estimates from below."""
_SETTLED = 0.03
"""Relative change at which the power iteration stops."""
_MOST_PROBES = 30
_RADIUS_STEPS = 8
"""Accepted steps after which the radius is measured again."""
_APART = 1e-6
"""Arm of the difference quotient for the radius, relative to the state."""
RESUMED_NUMBERS = ("t", "h", "error_before", "value", "rho", "t_before")
RESUMED_COUNTERS = ("accepted", "rejected", "gradients", "stiff", "calm", "slack", "probing", "age", "row")
RECORD = np.dtype(
    [(name, "f8") for name in (*RESUMED_NUMBERS, "t_older", "length", "h_tried", "held_for")]
    + [(name, "i8") for name in (*RESUMED_COUNTERS, "has_step", "has_bend")]
)


class Control(NamedTuple):
    """Tolerances; when to call the problem stiff; when to call it calm."""

    rtol: float
    atol: np.ndarray
    stiff_limit: float
    stiff_gradients: float
    calm_limit: float
    calm_steps: int


class Memory(NamedTuple):
    """Vectors of one run.

    ``velocities``: at the state, before the last step, before the one before. ``chain``: the last two of the first
    s - 4 stages, less the state. ``K``: velocities at the last four. ``bend``: change of the velocity over a small
    part of the last step. ``held``: state, its velocity, that of one step before, and direction before a cut step.
    """

    y: np.ndarray
    y_before: np.ndarray
    y_new: np.ndarray
    scratch: np.ndarray
    base: np.ndarray
    direction: np.ndarray
    bend: np.ndarray
    velocities: np.ndarray
    chain: np.ndarray
    K: np.ndarray
    held: np.ndarray


def combine(out, base, scale, K, weights, count):
    """Write base + scale * sum of weights[l] K[l] over l < count to out."""
    np.dot(weights[:count], K[:count], out=out)
    out *= scale
    out += base


def combine_loops(out, base, scale, K, weights, count):
    """The same for compiled code."""
    size = out.size
    for i in range(size):
        out[i] = base[i]
    for l in range(count):
        weight = scale * weights[l]
        for i in range(size):
            out[i] += weight * K[l, i]


def recur(argument, older, newer, y, slope, kappa, scale):
    """Write the next stage, less y, over the older of two: kappa newer + (1 - kappa) older + scale slope."""
    older *= 1.0 - kappa
    older += kappa * newer
    older += scale * slope
    np.add(y, older, out=argument)


def recur_loops(argument, older, newer, y, slope, kappa, scale):
    """The same for compiled code."""
    for i in range(y.size):
        stage = kappa * newer[i] + (1.0 - kappa) * older[i] + scale * slope[i]
        older[i] = stage
        argument[i] = y[i] + stage


def scaled_square(scratch, chain, length, K, weights, y, y_new, rtol, atol):
    """Square of the norm of weights[0] chain + length sum weights[i] K[i], each entry over its tolerance."""
    np.dot(weights[1:], K, out=scratch)
    scratch *= length
    scratch += weights[0] * chain
    scratch /= atol + rtol * np.maximum(np.abs(y), np.abs(y_new))
    return np.dot(scratch, scratch)


def scaled_square_loops(scratch, chain, length, K, weights, y, y_new, rtol, atol):
    """The same for compiled code."""
    total = 0.0
    for i in range(y.size):
        slope = weights[1] * K[0, i] + weights[2] * K[1, i] + weights[3] * K[2, i] + weights[4] * K[3, i]
        error = weights[0] * chain[i] + length * slope
        total += (error / (atol[i] + rtol * max(abs(y[i]), abs(y_new[i])))) ** 2
    return total


def assign(out, a):
    """Copy a to out."""
    out[:] = a


def assign_loops(out, a):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a[i]


def scale(out, factor):
    """Multiply by a number."""
    out *= factor


def scale_loops(out, factor):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] *= factor


def norm(a):
    """Euclidean norm."""
    return math.sqrt(np.dot(a, a))


def norm_loops(a):
    """The same for compiled code."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * a[i]
    return math.sqrt(total)


def probe(rhs, memory, now):
    """One step of the power iteration for the spectral radius, by a difference quotient at the state."""
    direction, slope = memory.direction, memory.velocities[0]
    size = norm(direction)
    if size == 0.0:
        assign(direction, slope)
        size = norm(slope)
    if size == 0.0:
        now["probing"] = 0
        return
    reach = norm(memory.y)
    apart = _APART * reach if reach > 0.0 else _APART
    scale(direction, apart / size)
    add(memory.scratch, memory.y, 1.0, direction)
    evaluate(rhs, now["t"], memory.scratch, direction)
    add(direction, direction, -1.0, slope)
    rho = norm(direction) / apart
    now["gradients"] += 1
    now["probing"] += 1
    if abs(rho - now["rho"]) <= _SETTLED * rho or now["probing"] > _MOST_PROBES:
        now["probing"] = 0
        now["age"] = 0
    if rho < math.inf:
        now["rho"] = rho
    else:
        assign(direction, slope)
        now["probing"] = 0


def plan(method, now, t_end):
    """Length of the next step, never longer than the largest method allows, its method (row), and whether it is cut."""
    steep = _MARGIN * now["rho"]
    h, last = now["h"], method.extent.size - 1
    if h * steep > method.extent[last]:
        h = method.extent[last] / steep
    cut = now["t"] + h > t_end
    if cut:
        h = t_end - now["t"]
    row = 0
    while row < last and method.extent[row] < h * steep:
        row += 1
    return h, row, cut


def run_stages(rhs, method, memory, row, t, length):
    """All stages of a step, and the new state; return the stage g_(s-4) less the state."""
    m, K, first, count = memory, memory.K, method.first[row], method.stages[row] - 4
    assign(m.chain[0], m.velocities[0])
    assign(m.chain[1], m.velocities[0])
    scale(m.chain[0], 0.0)
    scale(m.chain[1], length * method.mu[first])
    add(m.scratch, m.y, 1.0, m.chain[1])
    for j in range(1, count):
        k = first + j
        evaluate(rhs, t + method.times[k] * length, m.scratch, K[0])
        older, newer = m.chain[(j + 1) % 2], m.chain[j % 2]
        recur(m.scratch, older, newer, m.y, K[0], method.kappa[k], length * method.mu[k])
    assign(m.base, m.scratch)
    for i in range(4):
        if i > 0:
            combine(m.scratch, m.base, length, K, method.matrix[row, i], i)
        evaluate(rhs, t + method.nodes[row, i] * length, m.scratch, K[i])
    combine(m.y_new, m.base, length, K, method.weights[row], 4)
    return m.chain[count % 2]


def attempt(rhs, method, control, memory, record, t_end):
    """Try one step; accept it, or reject it with a shorter one proposed."""
    now, m = record[0], memory
    t = now["t"]
    length, row, cut = plan(method, now, t_end)
    t_new = t_end if cut else t + length
    if not t_new > t:
        return _STEP_TOO_SMALL
    if cut and now["held_for"] != t_end:
        hold(memory, record, t_end)
    chain = run_stages(rhs, method, memory, row, t, length)
    now["gradients"] += method.stages[row] - 1
    weights = method.estimate[row]
    square = scaled_square(m.scratch, chain, length, m.K, weights, m.y, m.y_new, control.rtol, control.atol)
    error = math.sqrt(square / m.y.size)
    if not error < math.inf:
        return reject(now, 0.1 * length, _DIVERGED)
    if error >= 1.0:
        return reject(now, length * max(0.2, 0.9 * error ** (-1.0 / _ORDER)), _STEP_TOO_SMALL)
    value = evaluate(rhs, t_new, m.y_new, m.base)
    now["gradients"] += 1
    if not (abs(value) < math.inf and norm(m.base) < math.inf):
        return reject(now, 0.1 * length, _DIVERGED)
    accept(memory, now, t_new, length, row, value, error, cut)
    watch_stiffness(control, now, cut)
    return _GO_ON


def hold(memory, record, t_end):
    """Keep the state before a step that is cut."""
    record[0]["held_for"] = t_end
    record[1] = record[0]
    assign(memory.held[0], memory.y)
    assign(memory.held[1], memory.velocities[0])
    assign(memory.held[2], memory.velocities[1])
    assign(memory.held[3], memory.direction)


def reject(now, shorter, collapse):
    """Propose a shorter step from the same state; the radius may have grown since it was measured."""
    now["rejected"] += 1
    now["h"] = shorter
    if now["age"] > 0:
        now["probing"] = 1
    if not shorter > 1e-14 * max(abs(now["t"]), now["h_tried"]):
        return collapse
    return _GO_ON


def accept(memory, now, t_new, length, row, value, error, cut):
    """Move to the new state; a step cut short says nothing about the next step size."""
    m = memory
    assign(m.y_before, m.y)
    assign(m.y, m.y_new)
    assign(m.velocities[2], m.velocities[1])
    assign(m.velocities[1], m.velocities[0])
    assign(m.velocities[0], m.base)
    now["t_older"] = now["t_before"]
    now["t_before"] = now["t"]
    now["t"] = t_new
    now["length"] = length
    now["row"] = row
    now["value"] = value
    now["has_step"] = 1
    now["has_bend"] = 0
    now["accepted"] += 1
    now["age"] += 1
    if now["age"] >= _RADIUS_STEPS:
        now["probing"] = 1
    if not cut:
        error = max(error, 1e-10)
        factor = 0.9 * error ** (-0.7 / _ORDER) * now["error_before"] ** (0.4 / _ORDER)
        now["h"] = min(length * min(5.0, max(0.2, factor)), _LONGEST)
        now["error_before"] = max(error, 1e-4)
    now["h_tried"] = now["h"]


def watch_stiffness(control, now, cut):
    """Count the steps that are many times longer than the fastest decay; six calm ones in a row clear the count.

    Steps so short that a method of fixed stability interval could take them are counted too, as long as they follow
    one another.
    """
    if cut:
        return
    now["slack"] = now["slack"] + 1 if now["length"] * now["rho"] < control.calm_limit else 0
    if now["length"] * now["rho"] > control.stiff_limit:
        now["stiff"] += 1
        now["calm"] = 0
    else:
        now["calm"] += 1
        if now["calm"] >= _CALM_STEPS:
            now["stiff"] = 0


def stop(method, control, limits, now, last_step):
    """Reason to stop before the next step, if any; one gradient is kept for the interpolant."""
    if now["value"] < limits.loss_below:
        return _LOSS_BELOW
    if now["t"] >= limits.t_end:
        return _REACHED_END
    if now["stiff"] >= _STIFF_STEPS and now["h"] * now["rho"] > control.stiff_limit:
        if method.stages[now["row"]] * (limits.t_end - now["t"]) > control.stiff_gradients * now["h"]:
            now["stiff"] = 0
            return _STIFF
    if now["accepted"] >= last_step or now["slack"] >= control.calm_steps:
        return _PAUSED
    cost = 1 if now["probing"] else method.stages[plan(method, now, limits.t_end)[1]]
    if now["gradients"] + cost + 1 > limits.max_gradients:
        return _GRADIENT_BUDGET
    return _GO_ON


def advance(rhs, method, control, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that accepted steps reach."""
    now = record[0]
    last_step = now["accepted"] + limits.max_steps
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"]:
            if save_at[k] == now["t"]:
                assign(saved[k], memory.y)
            elif save_at[k] == now["t_before"]:
                assign(saved[k], memory.y_before)
            else:
                interpolate(rhs, memory, now, save_at[k], saved[k])
            k += 1
        status = stop(method, control, limits, now, last_step)
        if status != _GO_ON:
            return status
        if now["probing"]:
            probe(rhs, memory, now)
        else:
            status = attempt(rhs, method, control, memory, record, limits.t_end)
            if status != _GO_ON:
                return status


HELPERS = (
    probe,
    plan,
    run_stages,
    attempt,
    hold,
    reject,
    accept,
    watch_stiffness,
    stop,
    *DENSE_HELPERS,
)
TWINS = (
    (combine, combine_loops),
    (recur, recur_loops),
    (scaled_square, scaled_square_loops),
    (assign, assign_loops),
    (scale, scale_loops),
    *DENSE_TWINS,
    (norm, norm_loops),
)
VIEWS = (run_stages,)
