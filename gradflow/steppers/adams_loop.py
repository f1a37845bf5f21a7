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
_AIM, _GROWTH, _FIRST_GROWTH, _LONGEST = 0.2, 2.0, 10.0, 1e300
_FORGET, _FORGET_JUMP = 0.9, 0.6
_STAY, _SAME, _ROUNDING = 1.05, 1.25, 1e-13
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
        block = slice(start, start + _BLOCK)
        o, b = out[block], base[block]
        for i in range(o.size):
            o[i] = b[i]
        for l in range(weights.size):
            weight, row = weights[l], rows[slots[l], block]
            for i in range(o.size):
                o[i] += weight * row[i]


def correct(out, y, p, gain, weights, rows, slots, rtol, atol, norms):
    """Write p + gain d[1] to out, d the three weighted sums of rows, and norms.

    These are the root mean squares of d[0], d[1], d[2], entries over their tolerances, and the lengths of y and d[1].
    """
    scale = atol + rtol * np.maximum(np.abs(y), np.abs(p))
    for j in range(3):
        d = np.dot(weights[j], rows[slots])
        norms[j] = math.sqrt(np.dot(d / scale, d / scale) / y.size)
        if j == 1:
            out[:] = p + gain * d
            norms[4] = math.sqrt(np.dot(d, d))
    norms[3] = math.sqrt(np.dot(y, y))


def correct_loop(out, y, p, gain, weights, rows, slots, rtol, atol, norms):
    """The same for compiled code, by blocks that stay in the cache."""
    three = np.empty((3, _BLOCK))
    norms[:] = 0.0
    for start in range(0, y.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        here, size = (out[block], y[block], p[block], atol[block]), y[block].size
        low, middle, high = three[0, :size], three[1, :size], three[2, :size]
        for i in range(size):
            low[i] = middle[i] = high[i] = 0.0
        for l in range(slots.size):
            a, b, c, row = weights[0, l], weights[1, l], weights[2, l], rows[slots[l], block]
            for i in range(size):
                low[i] += a * row[i]
                middle[i] += b * row[i]
                high[i] += c * row[i]
        blend(here, gain, low, middle, high, rtol, norms)
    norms[:3] /= y.size
    norms[:] = np.sqrt(norms)


def blend(here, gain, low, middle, high, rtol, norms):
    """One block: write p + gain middle to out, and add to the squared norms."""
    (out, y, p, atol), (a, b, c, d, e) = here, (0.0, 0.0, 0.0, 0.0, 0.0)
    for i in range(out.size):
        scale = 1.0 / (atol[i] + rtol * max(abs(y[i]), abs(p[i])))
        out[i] = p[i] + gain * middle[i]
        a += (low[i] * scale) ** 2
        b += (middle[i] * scale) ** 2
        c += (high[i] * scale) ** 2
        d += y[i] ** 2
        e += middle[i] ** 2
    norms[0] += a
    norms[1] += b
    norms[2] += c
    norms[3] += d
    norms[4] += e


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


def difference_weights(nodes):
    """Row i: weights of the values at the first i + 1 nodes in their divided difference."""
    weights = np.zeros((nodes.size, nodes.size))
    weights[0, 0] = 1.0
    for i in range(1, nodes.size):
        product = 1.0
        for l in range(i):
            gap = nodes[i] - nodes[l]
            weights[i, l] = -weights[i - 1, l] / gap
            product *= gap
        weights[i, i] = 1.0 / product
    return weights


def combined(factors, rows):
    """Sum of factors[i] rows[i], over the columns that these rows fill."""
    total = np.zeros(factors.size)
    for i in range(factors.size):
        for l in range(i + 1):
            total[l] += factors[i] * rows[i, l]
    return total


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


def predict(memory, now, nodes):
    """Write the integral of the polynomial through the last velocities to predicted."""
    m, k = memory, now["order"]
    past = nodes[1 : k + 1]
    weights = combined(newton_integrals(past, k, 1.0), difference_weights(past))
    add_rows(m.predicted, m.points[m.newest[0]], now["h"] * weights, m.rows, m.slots)


def correct_step(method, memory, now, nodes):
    """Write the corrected end of the step; return the error in units of the tolerance."""
    m, k, count = memory, now["order"], nodes.size - 1
    table, integrals = difference_weights(nodes), newton_integrals(nodes, k + 1, 1.0)
    gain, factor = now["h"] * combined(integrals, table)[0], now["h"] * abs(integrals[k])
    for l in range(k):
        gain *= 1.0 - nodes[l + 1]
    if now["damped"]:
        factor = (1.0 - method.damping[k]) * gain
        gain *= method.damping[k]
    weights = np.zeros((3, count + 1))
    for j in range(3):
        if 1 <= k - 1 + j <= count:
            weights[j] = table[k - 1 + j]
    out, y, slots = m.points[m.newest[2]], m.points[m.newest[0]], step_slots(m, -2, 0, count)
    correct(out, y, m.predicted, gain, weights, m.rows, slots, method.rtol, method.atol, m.norms)
    now["trial_moved"] = abs(gain) * m.norms[4]
    return factor * m.norms[1]


def attempt(rhs, method, memory, record, limits):
    """Try one step: predict, evaluate, correct, evaluate; accept it, or propose a shorter one."""
    m, now = memory, record[0]
    k, h, t = now["order"], now["h"], now["newest"]
    if not t + h > t:
        return _STEP_TOO_SMALL
    nodes = step_nodes(m, 0, min(k + 1, now["known"]), t, h)
    predict(m, now, nodes)
    value = evaluate(rhs, now, t + h, m.predicted, m.rows[m.slots[-2]])
    error = correct_step(method, m, now, nodes)
    if not (error < math.inf and abs(value) < math.inf):
        return reject(now, 0.1 * h, 1, _DIVERGED)
    if error >= 1.0:
        shorter = h * max(0.2, min(0.7, (_AIM / error) ** (1.0 / (k + 1))))
        return reject(now, shorter, k if now["failures"] == 0 else 1, _STEP_TOO_SMALL)
    if t + h < limits.t_end or limits.loss_below > -math.inf:
        value = evaluate(rhs, now, t + h, m.points[m.newest[2]], m.rows[m.slots[-1]])
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
    m.newest[0], m.newest[1], m.newest[2] = m.newest[2], m.newest[0], m.newest[1]
    now["moved"] = now["trial_moved"]
    now["low"], now["middle"], now["high"], now["size"] = m.norms[0], m.norms[1], m.norms[2], m.norms[3]
    now["known"] = min(now["known"] + 1, depth)
    now["newest"], now["length"], now["used"], now["failures"] = t, h, k, 0


def complete(rhs, method, memory, now):
    """Velocity at the newest point, if it was left out because a run ended there, and what follows from it."""
    m = memory
    if now["due"] == _VELOCITY:
        now["newest_value"] = evaluate(rhs, now, now["newest"], m.points[m.newest[0]], m.rows[m.slots[0]])
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
        seen = distance(m.rows[m.slots[0]], m.rows[m.slots[-3]]) / now["moved"]
    now["rho"] = max(seen, now["rho"] * (_FORGET if seen > 0.1 * now["rho"] else _FORGET_JUMP))
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
    integrals = newton_integrals(nodes, k + 1, x) - bend * newton_integrals(nodes, k + 1, 1.0)
    out[:] = (1.0 - bend) * m.points[m.newest[1]] + bend * m.points[m.newest[0]]
    add_rows(out, out, h * combined(integrals, difference_weights(nodes)), m.rows, step_slots(m, -3, 1, k))


def show(memory, now, t_end):
    """Move what the caller sees to the newest point, or to t_end if that comes first."""
    m = memory
    now["inside_before"] = now["inside"]
    if now["inside"]:
        m.state_before[:] = m.state
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


def advance(rhs, method, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that are reached."""
    now = record[0]
    last_step = now["accepted"] + limits.max_steps
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"]:
            if save_at[k] == now["t"]:
                saved[k] = memory.state if now["inside"] else memory.points[memory.newest[0]]
            elif save_at[k] == now["t_before"]:
                saved[k] = memory.state_before if now["inside_before"] else memory.points[memory.newest[1]]
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
    blend, evaluate, newton_integrals, difference_weights, combined, step_nodes, step_slots, predict, correct_step,
    attempt, reject, accept, complete, choose, watch_stiffness, interpolate, show, is_low, stop,
)  # fmt: skip
TWINS = ((add_rows, add_rows_loop), (correct, correct_loop), (distance, distance_loop))
