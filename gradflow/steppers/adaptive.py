"""The loop of the adaptive explicit pairs: one source, compiled for compiled fields and interpreted for others."""

import math
from typing import NamedTuple

import numpy as np

from gradflow.kernels.calls import call
from gradflow.kernels.procedures import address_of, view
from gradflow.kernels.sums import add_rows, sum_rows
from gradflow.status import Status
from gradflow.steppers.tableaux import Sums

_GO_ON = -1
_PAUSED = int(Status.PAUSED)
_REACHED_END = int(Status.REACHED_END)
_LOSS_BELOW = int(Status.LOSS_BELOW)
_GRADIENT_BUDGET = int(Status.GRADIENT_BUDGET)
_STEP_TOO_SMALL = int(Status.STEP_TOO_SMALL)
_DIVERGED = int(Status.DIVERGED)
_STIFF = int(Status.STIFF)

_CALM_STEPS = 6
_LONGEST = 1e300

_NUMBERS = ("t", "h", "error_before", "value", "rho", "t_before", "length", "h_tried", "held_for")
_COUNTERS = ("accepted", "rejected", "gradients", "stiff", "calm", "has_stages", "has_extra")
RECORD = np.dtype([(name, "f8") for name in _NUMBERS] + [(name, "i8") for name in _COUNTERS])
RESUMED = ("t", "h", "error_before", "value", "rho", "accepted", "rejected", "gradients", "stiff", "calm")


class Control(NamedTuple):
    """Tolerances, and when to call the problem stiff."""

    rtol: float
    atol: np.ndarray
    stiff_limit: float
    stiff_gradients: float
    stiff_steps: int = 15


class Memory(NamedTuple):
    """Vectors of one run: state, state before the last step, trial state, two for scratch, those held for a snapshot.

    After an accepted step the stages ``K`` still belong to that step, and the velocity at ``y`` is its last stage.
    """

    y: np.ndarray
    y_before: np.ndarray
    y_new: np.ndarray
    scratch: np.ndarray
    coarse: np.ndarray
    y_held: np.ndarray
    velocity_held: np.ndarray
    K: np.ndarray
    shares: np.ndarray


def combine(out, base, scale, K, sums, j):
    """Write base + scale * (row j of the sums over stages K) to out."""
    count = sums.counts[j]
    np.dot(sums.weights[j, :count], K[sums.places[j, :count]], out=out)
    out *= scale
    out += base


def combine_loops(out, base, scale, K, sums, j):
    """The same for compiled code."""
    weights, places = address_of(sums.weights), address_of(sums.places)
    row, step = 8 * sums.weights.shape[1] * j, K.strides[0] // 8
    count, weight, place, stages = sums.counts[j], weights + row, places + row, address_of(K)
    add_rows(out.size, count, weight, place, stages, step, address_of(base), address_of(out), scale)


def scaled_squares(fine, coarse, K, sums, y, y_new, rtol, atol):
    """Squares of the norms of the first and the last sum over stages, each entry over its tolerance."""
    tolerance = atol + rtol * np.maximum(np.abs(y), np.abs(y_new))
    for out, j in ((fine, 0), (coarse, sums.counts.size - 1)):
        count = sums.counts[j]
        np.dot(sums.weights[j, :count], K[sums.places[j, :count]], out=out)
        out /= tolerance
    return np.dot(fine, fine), np.dot(coarse, coarse)


def scaled_squares_loops(fine, coarse, K, sums, y, y_new, rtol, atol):
    """The same for compiled code."""
    weights, places, stages = address_of(sums.weights), address_of(sums.places), address_of(K)
    size, last, step = y.size, sums.counts.size - 1, K.strides[0] // 8
    row = 8 * sums.weights.shape[1] * last
    sum_rows(size, sums.counts[0], weights, places, stages, step, 0, address_of(fine), 1.0)
    sum_rows(size, sums.counts[last], weights + row, places + row, stages, step, 0, address_of(coarse), 1.0)
    first = second = 0.0
    for i in range(size):
        inverse = 1.0 / (atol[i] + rtol * max(abs(y[i]), abs(y_new[i])))
        first += (fine[i] * inverse) ** 2
        second += (coarse[i] * inverse) ** 2
    return first, second


def stage(K, j, size):
    """Stage j."""
    return K[j]


def stage_view(K, j, size):
    """The same for compiled code, which does not count references to it."""
    return view(address_of(K) + K.strides[0] * j, size)


def assign(out, a):
    """Copy a to out."""
    out[:] = a


def assign_loops(out, a):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a[i]


def distance(a, b):
    """Euclidean distance."""
    difference = a - b
    return math.sqrt(np.dot(difference, difference))


def distance_loops(a, b):
    """The same for compiled code."""
    total = 0.0
    for i in range(a.size):
        total += (a[i] - b[i]) ** 2
    return math.sqrt(total)


def run_stages(rhs, pair, memory, first, last, t, y, length, argument):
    """Evaluate stages first to last - 1 of a step from (t, y); return the objective at the last argument."""
    C, K, sums = pair.C, memory.K, pair.sums
    velocity, chain, numbers, layout, work, coefficients = rhs
    value = 0.0
    for j in range(first, last):
        combine(argument, y, length, K, sums, j)
        out = stage(K, j, y.size)
        value = call(velocity, t + C[j] * length, argument, out, chain, numbers, layout, work, coefficients)
    return value


def error_norm(pair, control, memory, length):
    """Error of a step in units of the tolerance; two estimates are joined as Hairer does."""
    m = memory
    square, other = scaled_squares(m.scratch, m.coarse, m.K, pair.errors, m.y, m.y_new, control.rtol, control.atol)
    size = m.y.size
    if pair.E.shape[0] == 1 or square == 0.0:
        return length * math.sqrt(square / size)
    return length * square / math.sqrt((square + 0.01 * other) * size)


def attempt(rhs, pair, control, memory, record, t_end):
    """Try one step; accept it, or reject it with a shorter one proposed."""
    now, K, last = record[0], memory.K, pair.stages
    if now["has_stages"]:
        assign(stage(K, 0, memory.y.size), stage(K, last, memory.y.size))
        now["has_stages"] = 0
    t, h = now["t"], now["h"]
    if not t + h > t:
        return _STEP_TOO_SMALL
    cut = t + h > t_end
    if cut and now["held_for"] != t_end:
        now["held_for"] = t_end
        record[1] = record[0]
        assign(memory.y_held, memory.y)
        assign(memory.velocity_held, stage(K, 0, memory.y.size))
    length = t_end - t if cut else h
    run_stages(rhs, pair, memory, 1, last, t, memory.y, length, memory.scratch)
    value = run_stages(rhs, pair, memory, last, last + 1, t, memory.y, length, memory.y_new)
    now["gradients"] += last
    rho = stiffness(memory, last)
    error = error_norm(pair, control, memory, length)
    if not (abs(error) < math.inf and abs(value) < math.inf):
        return reject(now, 0.1 * length, _DIVERGED)
    if error >= 1.0:
        return reject(now, length * max(0.2, 0.9 * error ** (-1.0 / pair.order)), _STEP_TOO_SMALL)
    accept(pair, memory, now, t_end if cut else t + h, length, value, error, cut)
    watch_stiffness(control, now, rho, cut)
    return _GO_ON


def stiffness(memory, last):
    """|f(a) - f(b)| / |a - b| for the last two stages, which share their time: an estimate of |Jacobian|."""
    K, size = memory.K, memory.y.size
    apart = distance(memory.y_new, memory.scratch)
    if apart == 0.0:
        return 0.0
    return distance(stage(K, last, size), stage(K, last - 1, size)) / apart


def reject(now, shorter, collapse):
    """Propose a shorter step from the same state."""
    now["rejected"] += 1
    now["h"] = shorter
    if not shorter > 1e-14 * max(abs(now["t"]), now["h_tried"]):
        return collapse
    return _GO_ON


def accept(pair, memory, now, t_new, length, value, error, cut):
    """Move to the new state; a step cut short says nothing about the next step size."""
    assign(memory.y_before, memory.y)
    assign(memory.y, memory.y_new)
    now["t_before"] = now["t"]
    now["t"] = t_new
    now["length"] = length
    now["value"] = value
    now["has_stages"] = 1
    now["has_extra"] = 0
    now["accepted"] += 1
    if not cut:
        error = max(error, 1e-10)
        factor = 0.9 * error ** (-0.7 / pair.order) * now["error_before"] ** (0.4 / pair.order)
        now["h"] = min(length * min(5.0, max(0.2, factor)), _LONGEST)
        now["error_before"] = max(error, 1e-4)
    now["h_tried"] = now["h"]


def watch_stiffness(control, now, rho, cut):
    """Count the steps whose size is set by stability; six calm ones in a row clear the count."""
    if rho > 0.0:
        now["rho"] = rho
    if cut:
        return
    if now["length"] * now["rho"] > control.stiff_limit:
        now["stiff"] += 1
        now["calm"] = 0
    else:
        now["calm"] += 1
        if now["calm"] >= _CALM_STEPS:
            now["stiff"] = 0


def stop(pair, control, limits, now, last_step):
    """Reason to stop before the next step, if any."""
    if now["value"] < limits.loss_below:
        return _LOSS_BELOW
    if now["t"] >= limits.t_end:
        return _REACHED_END
    if now["stiff"] >= control.stiff_steps:
        if pair.stages * (limits.t_end - now["t"]) > control.stiff_gradients * now["h"]:
            now["stiff"] = 0
            return _STIFF
    if now["accepted"] >= last_step:
        return _PAUSED
    if now["gradients"] + pair.A.shape[0] - 1 > limits.max_gradients:
        return _GRADIENT_BUDGET
    return _GO_ON


def interpolate(rhs, pair, memory, now, time, out):
    """State at a time inside the last accepted step; stages that only the interpolant needs come once per step."""
    length = now["length"]
    rows = pair.A.shape[0]
    if not now["has_extra"]:
        run_stages(rhs, pair, memory, pair.stages + 1, rows, now["t_before"], memory.y_before, length, memory.scratch)
        now["gradients"] += rows - 1 - pair.stages
        now["has_extra"] = 1
    x = (time - now["t_before"]) / length
    used, weights = pair.interpolant, memory.shares
    assign(weights[0], used.weights[0])
    basis = x
    for i in range(pair.G.shape[0]):
        for l in range(weights.shape[1]):
            weights[0, l] += basis * pair.G[i, used.places[0, l]]
        basis *= x if i % 2 == 1 else 1.0 - x
    combine(out, memory.y_before, length, memory.K, Sums(used.counts, weights, used.places), 0)


def advance(rhs, pair, control, limits, memory, record, save_at, saved, first):
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
                interpolate(rhs, pair, memory, now, save_at[k], saved[k])
            k += 1
        status = stop(pair, control, limits, now, last_step)
        if status == _GO_ON:
            status = attempt(rhs, pair, control, memory, record, limits.t_end)
        if status != _GO_ON:
            return status


HELPERS = (run_stages, error_norm, attempt, stiffness, reject, accept, watch_stiffness, stop, interpolate)
TWINS = (
    (combine, combine_loops),
    (scaled_squares, scaled_squares_loops),
    (stage, stage_view),
    (assign, assign_loops),
    (distance, distance_loops),
)
VIEWS = (stage_view,)
