"""The loop of the Adams stepper: one source, compiled for compiled fields and interpreted for others.

A run keeps the velocities at the last points, and their times; each step makes its formulas anew from the times.
Compiled functions called here live here, because a cached function does not notice changes in other files.
"""

import math

import numpy as np

from gradflow.kernels.calls import call
from gradflow.status import Status

_GO_ON = -1
_PAUSED, _REACHED_END, _LOSS_BELOW = int(Status.PAUSED), int(Status.REACHED_END), int(Status.LOSS_BELOW)
_STEP_TOO_SMALL, _DIVERGED, _BUDGET = int(Status.STEP_TOO_SMALL), int(Status.DIVERGED), int(Status.GRADIENT_BUDGET)
_STIFF = int(Status.STIFF)

_BLOCK = 512
_AIM, _GROWTH, _FIRST_GROWTH, _FORGET, _LONGEST = 0.5, 2.0, 10.0, 0.9, 1e300
_STAY, _SAME, _ROUNDING = 1.05, 1.15, 1e-13
_STIFF_STEPS, _CALM_STEPS = 15, 6
_CHOICE, _VELOCITY = 1, 2


def add_rows(out, base, weights, rows, slots):
    """Write base + sum of weights[l] rows[slots[l]] to out."""
    out[:] = base
    for l in range(weights.size):
        out += weights[l] * rows[slots[l]]


def add_rows_loop(out, base, weights, rows, slots):
    """The same for compiled code, by blocks that stay in the cache."""
    for start in range(0, out.size, _BLOCK):
        end = min(start + _BLOCK, out.size)
        for i in range(start, end):
            out[i] = base[i]
        for l in range(weights.size):
            weight, row = weights[l], rows[slots[l]]
            for i in range(start, end):
                out[i] += weight * row[i]


def shift_rows(out, base, factor, row):
    """Write base + factor row to out."""
    out[:] = base + factor * row


def shift_rows_loop(out, base, factor, row):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = base[i] + factor * row[i]


def differences(out, weights, rows, slots):
    """Write three weighted sums of rows to out."""
    for j in range(3):
        out[j] = 0.0
        for l in range(weights.shape[1]):
            out[j] += weights[j, l] * rows[slots[l]]


def differences_loop(out, weights, rows, slots):
    """The same for compiled code."""
    low, middle, high = out[0], out[1], out[2]
    for start in range(0, low.size, _BLOCK):
        end = min(start + _BLOCK, low.size)
        for i in range(start, end):
            low[i] = middle[i] = high[i] = 0.0
        for l in range(weights.shape[1]):
            a, b, c, row = weights[0, l], weights[1, l], weights[2, l], rows[slots[l]]
            for i in range(start, end):
                low[i] += a * row[i]
                middle[i] += b * row[i]
                high[i] += c * row[i]


def tolerance_norms(norms, D, y, p, rtol, atol):
    """Write the root mean square of the rows of D, each entry over its tolerance, to norms; last, the length of y."""
    scale = atol + rtol * np.maximum(np.abs(y), np.abs(p))
    for j in range(3):
        ratio = D[j] / scale
        norms[j] = math.sqrt(np.dot(ratio, ratio) / y.size)
    norms[3] = math.sqrt(np.dot(y, y))


def tolerance_norms_loop(norms, D, y, p, rtol, atol):
    """The same for compiled code."""
    low, middle, high = D[0], D[1], D[2]
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(y.size):
        scale = 1.0 / (atol[i] + rtol * max(abs(y[i]), abs(p[i])))
        a += (low[i] * scale) ** 2
        b += (middle[i] * scale) ** 2
        c += (high[i] * scale) ** 2
        d += y[i] ** 2
    norms[0], norms[1], norms[2] = math.sqrt(a / y.size), math.sqrt(b / y.size), math.sqrt(c / y.size)
    norms[3] = math.sqrt(d)


def distance(a, b):
    """Euclidean distance."""
    difference = a - b
    return math.sqrt(np.dot(difference, difference))


def distance_loop(a, b):
    """The same for compiled code."""
    total = 0.0
    for i in range(a.size):
        total += (a[i] - b[i]) ** 2
    return math.sqrt(total)


def evaluate(rhs, now, t, state, out):
    """Velocity at a point; return the objective."""
    now["gradients"] += 1
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def newton_integrals(nodes, count, end):
    """Integrals from 0 to end of 1, (t - nodes[0]), (t - nodes[0]) (t - nodes[1]), ..., count of them."""
    integrals, polynomial = np.zeros(count), np.zeros(count + 1)
    polynomial[0] = 1.0
    for i in range(count):
        power = end
        for j in range(i + 1):
            integrals[i] += polynomial[j] * power / (j + 1)
            power *= end
        for j in range(i + 1, 0, -1):
            polynomial[j] = polynomial[j - 1] - nodes[i] * polynomial[j]
        polynomial[0] *= -nodes[i]
    return integrals


def difference_weights(nodes, rank):
    """Weights of the values at the first rank + 1 nodes in their divided difference."""
    weights = np.ones(rank + 1)
    for l in range(rank + 1):
        for j in range(rank + 1):
            if j != l:
                weights[l] /= nodes[l] - nodes[j]
    return weights


def integral_weights(nodes, count, end):
    """Weights of the values at the first count nodes in the integral of their polynomial from 0 to end."""
    integrals, weights = newton_integrals(nodes, count, end), np.zeros(count)
    for i in range(count):
        weights[: i + 1] += integrals[i] * difference_weights(nodes, i)
    return weights


def step_nodes(memory, first, count, start, h):
    """The end of a step of length h, then count points of the history, on a scale where the step goes from 0 to 1."""
    nodes = np.ones(count + 1)
    for l in range(count):
        nodes[l + 1] = (memory.times[memory.slots[first + l]] - start) / h
    return nodes


def step_slots(memory, trial, first, count):
    """Slots of the velocity at a predicted end, and of count velocities of the history."""
    slots = np.zeros(count + 1, np.int64)
    slots[0] = memory.slots[trial]
    slots[1:] = memory.slots[first : first + count]
    return slots


def predict(memory, k, t, h, nodes):
    """Explicit formula through the last k velocities."""
    add_rows(memory.predicted, memory.y, h * integral_weights(nodes[1:], k, 1.0), memory.rows, memory.slots)


def compare(method, memory, k, nodes):
    """Divided differences of ranks k - 1, k and k + 1 at the predicted end, and their norms."""
    count = nodes.size - 1
    weights = np.zeros((3, count + 1))
    for j in range(3):
        rank = k - 1 + j
        if 1 <= rank <= count:
            weights[j, : rank + 1] = difference_weights(nodes, rank)
    differences(memory.D, weights, memory.rows, step_slots(memory, -2, 0, count))
    tolerance_norms(memory.norms, memory.D, memory.y, memory.predicted, method.rtol, method.atol)


def correct(method, memory, now, k, h, nodes):
    """Corrected end of the step, through k + 1 velocities; return the error in units of the tolerance."""
    gain, factor = h * integral_weights(nodes, k + 1, 1.0)[0], h * abs(newton_integrals(nodes, k + 1, 1.0)[k])
    for l in range(k):
        gain *= 1.0 - nodes[l + 1]
    if now["damped"]:
        factor = (1.0 - method.damping[k]) * gain
        gain *= method.damping[k]
    shift_rows(memory.corrected, memory.predicted, gain, memory.D[1])
    return factor * memory.norms[1]


def attempt(rhs, method, memory, record, limits):
    """Try one step: predict, evaluate, correct, evaluate; accept it, or propose a shorter one."""
    m, now = memory, record[0]
    k, h, t = now["order"], now["h"], now["newest"]
    if not t + h > t:
        return _STEP_TOO_SMALL
    nodes = step_nodes(m, 0, min(k + 1, now["known"]), t, h)
    predict(m, k, t, h, nodes)
    value = evaluate(rhs, now, t + h, m.predicted, m.rows[m.slots[-2]])
    compare(method, m, k, nodes)
    error = correct(method, m, now, k, h, nodes)
    if not (error < math.inf and abs(value) < math.inf):
        return reject(now, 0.1 * h, 1, _DIVERGED)
    if error >= 1.0:
        shorter = h * max(0.2, min(0.7, (_AIM / error) ** (1.0 / (k + 1))))
        return reject(now, shorter, k if now["failures"] == 0 else 1, _STEP_TOO_SMALL)
    if t + h < limits.t_end or limits.loss_below > -math.inf:
        value = evaluate(rhs, now, t + h, m.corrected, m.rows[m.slots[-1]])
        change = distance(m.rows[m.slots[-1]], m.rows[m.slots[-2]])
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
    m.base[:] = m.y
    m.y[:] = m.corrected
    now["moved"] = distance(m.corrected, m.predicted)
    now["low"], now["middle"], now["high"], now["size"] = m.norms[0], m.norms[1], m.norms[2], m.norms[3]
    now["known"] = min(now["known"] + 1, depth)
    now["newest"], now["length"], now["used"], now["failures"] = t, h, k, 0


def complete(rhs, method, memory, now):
    """Velocity at the newest point, if it was left out because a run ended there, and what follows from it."""
    m = memory
    if now["due"] == _VELOCITY:
        now["newest_value"] = evaluate(rhs, now, now["newest"], m.y, m.rows[m.slots[0]])
        now["due"] = _CHOICE
        if not abs(now["newest_value"]) < math.inf:
            return _DIVERGED
    if now["due"] == _CHOICE:
        choose(method, m, now)
    return _GO_ON


def choose(method, memory, now):
    """Order, damping and length of the next step: the longest that error and stability allow."""
    m, k, h = memory, now["used"], now["length"]
    if now["moved"] > _ROUNDING * now["size"]:
        change = distance(m.rows[m.slots[0]], m.rows[m.slots[-3]])
        now["rho"] = max(_FORGET * now["rho"], change / now["moved"])
    most = h * (_FIRST_GROWTH if now["accepted"] < 2 else _GROWTH)
    best, bound = 0.0, False
    order, damped = now["order"], now["damped"]
    for j in range(max(k - 1, 1), min(k + 1, method.most_order, now["known"] - 1) + 1):
        norm = now["low"] if j < k else now["middle"] if j == k else now["high"]
        size = h * norm * math.gamma(j + 1.0)
        for kind in range(2 if method.damping[j] > 0.0 else 1):
            by_error = h * (_AIM / max(method.error[kind, j] * size, 1e-10)) ** (1.0 / (j + 1))
            stable = method.stable[kind, j] / now["rho"] if now["rho"] > 0.0 else math.inf
            length = min(by_error, stable, most)
            worth = length * (_STAY if j == k and kind == now["damped"] else 1.0)
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
    nodes = step_nodes(m, 1, k, start, h)
    x = (time - start) / h
    bend = x * x * (3.0 - 2.0 * x)
    weights = integral_weights(nodes, k + 1, x) - bend * integral_weights(nodes, k + 1, 1.0)
    shift_rows(out, m.base, bend, m.y - m.base)
    add_rows(out, out, h * weights, m.rows, step_slots(m, -3, 1, k))


def show(memory, now, t_end):
    """Move what the caller sees to the newest point, or to t_end if that comes first."""
    m = memory
    m.state_before[:] = m.state
    now["t_before"] = now["t"]
    now["accepted"] += 1
    now["t"] = min(now["newest"], t_end)
    if now["t"] < now["newest"]:
        interpolate(m, now, now["t"], m.state)
        now["has_value"] = 0
    else:
        m.state[:] = m.y
        now["has_value"] = now["due"] != _VELOCITY
        now["value"] = now["newest_value"]


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
    if now["stiff"] >= _STIFF_STEPS and 2.0 * (limits.t_end - now["t"]) > method.stiff_gradients * now["h"]:
        now["stiff"] = 0
        return _STIFF
    if now["accepted"] >= last_step:
        return _PAUSED
    return _GO_ON


def advance(rhs, method, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that are reached."""
    now = record[0]
    last_step = now["accepted"] + limits.max_steps
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"]:
            if save_at[k] == now["t"]:
                saved[k] = memory.state
            elif save_at[k] == now["t_before"]:
                saved[k] = memory.state_before
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
    evaluate, newton_integrals, difference_weights, integral_weights, step_nodes, step_slots, predict, compare,
    correct, attempt, reject, accept, complete, choose, watch_stiffness, interpolate, show, is_low, stop,
)  # fmt: skip
TWINS = (
    (add_rows, add_rows_loop), (differences, differences_loop), (tolerance_norms, tolerance_norms_loop),
    (distance, distance_loop), (shift_rows, shift_rows_loop),
)  # fmt: skip
