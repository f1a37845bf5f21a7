"""The loop of the stiff stepper: one source, compiled for compiled fields and interpreted for others.

The history of a run is held as backward differences ``D[j]`` of the state, on an even grid that ends at the newest
point.
"""

import math

import numpy as np

from gradflow.kernels.calls import uncounted
from gradflow.status import Status
from gradflow.steppers.stiff_linear import (
    FAILED,
    NOT_FINITE,
    SOLVED,
    blend,
    combine,
    conjugate_gradients,
    conjugate_residuals,
    defect,
    evaluate,
    inner,
    prepare,
    weighted_norm,
)

_GO_ON = -1
_PAUSED, _REACHED_END, _LOSS_BELOW = int(Status.PAUSED), int(Status.REACHED_END), int(Status.LOSS_BELOW)
_STEP_TOO_SMALL, _DIVERGED, _BUDGET = int(Status.STEP_TOO_SMALL), int(Status.DIVERGED), int(Status.GRADIENT_BUDGET)
_SAFETY, _NEWTON_STEPS, _TRUSTED_STEPS, _EXACT_STEPS = 0.8, 5, 20, 64


def newton(rhs, method, limits, memory, now, t, c, tolerance):
    """Solve correction + offset = c velocity(point), point = prediction + correction, by Newton's method."""
    m = memory
    m.correction[:] = 0.0
    now["fresh"] = 0
    before = 0.0
    for iteration in range(_NEWTON_STEPS):
        value = evaluate(rhs, limits, now, t, m.point, m.slope)
        left, square = defect(m.residual, c, m.slope, m.offset, m.correction, m.weights)
        if not abs(value + left) < math.inf:
            return NOT_FINITE
        if iteration == 1:
            now["remainder"], now["trusted"] = left / (c * before * before), 0
        if iteration > 0 and left <= 0.3 * tolerance:
            return SOLVED
        now["spacing"] = max(1e-7 * math.sqrt(inner(m.point, m.point)), method.least_spacing)
        outcome = prepare(rhs, method, limits, m, now, t, c) if now["dense"] else SOLVED
        if outcome == SOLVED and method.symmetric:
            outcome = conjugate_gradients(rhs, method, limits, m, now, t, c, 0.3 * tolerance, left, square)
        elif outcome == SOLVED:
            outcome = conjugate_residuals(rhs, method, limits, m, now, t, c, 0.3 * tolerance)
        if outcome == FAILED or outcome == NOT_FINITE:
            return outcome
        size = weighted_norm(m.change, m.weights)
        if not size < math.inf or (iteration > 0 and size > 2.0 * before):
            return FAILED
        blend(m.point, 1.0, m.point, 1.0, m.change)
        blend(m.correction, 1.0, m.correction, 1.0, m.change)
        if method.plain:
            fall = inner(m.slope, m.change) + (inner(m.offset, m.change) + inner(m.correction, m.change)) / c
            now["guess"], now["last_value"] = value - 0.5 * fall, value
        if outcome == SOLVED and is_settled(now, iteration, c, size, before, tolerance):
            return SOLVED
        before = size
    return FAILED


def is_settled(now, iteration, c, size, before, tolerance):
    """Whether Newton may stop; what one iteration leaves is quadratic in its change, by a factor measured at times."""
    if size == 0.0:
        return True
    if iteration > 0:
        rate = size / before
        return rate < 1.0 and rate / (1.0 - rate) * size < tolerance
    now["trusted"] += 1
    expected = now["remainder"] * c * size * size
    return 0.0 <= expected < 0.3 * tolerance and now["trusted"] <= _TRUSTED_STEPS


def change_of_grid(order, factor):
    """Matrix whose row j turns values on a grid whose spacing is factor times as long into differences."""
    matrix = np.zeros((order + 1, order + 1))
    matrix[:, 0] = 1.0
    for j in range(1, order + 1):
        for i in range(1, order + 1):
            matrix[j, i] = matrix[j, i - 1] * (i - 1 - factor * j) / i
    return matrix


def trial_history(memory, now, order):
    """Differences for the trial step: the accepted ones, or their polynomial on the new grid."""
    accepted = memory.history[now["buffer"]]
    if now["factor"] == 1.0:
        return accepted
    trial = memory.history[1 - now["buffer"]]
    old, new, row = change_of_grid(order, 1.0), change_of_grid(order, now["factor"]), np.zeros(order + 1)
    for j in range(order + 1):
        combine(row, old[j], new)
        combine(trial[j], row, accepted)
    return trial


def step(rhs, method, limits, memory, record):
    """One accepted step of the formula, tried with ever shorter lengths from the same history."""
    m, now = memory, record[0]
    while True:
        record[1] = record[0]
        order, h = now["next_order"], now["h"] * now["factor"]
        t, constant = now["newest"] + h, method.error[order]
        D = trial_history(m, now, order)
        combine(m.point, np.ones(order + 1), D)
        combine(m.offset, method.gamma[: order + 1] / method.alpha[order], D)
        m.weights[:] = 1.0 / (method.atol + method.rtol * np.abs(m.point))
        outcome = newton(rhs, method, limits, m, now, t, h / method.alpha[order], 0.1 / constant)
        if now["spent"]:
            undo(record)
            return _BUDGET
        use_products = outcome == FAILED and method.has_product and not now["exact"]
        if use_products or (outcome != SOLVED and now["dense"] and now["has_matrix"] and not now["fresh"]):
            now["has_matrix"] = 0
            now["exact"] = _EXACT_STEPS if use_products else now["exact"]
            continue
        error = constant * weighted_norm(m.correction, m.weights)
        if outcome == SOLVED and error <= 1.0:
            accept(method, m, now, D, t, h, error)
            return _GO_ON
        if outcome == SOLVED:
            now["factor"] *= max(0.2, _SAFETY * error ** (-1.0 / (order + 1)))
        else:
            now["factor"] *= 0.1 if outcome == NOT_FINITE else 0.5
        now["rejected"] += 1
        now["failures"] += 1
        if now["failures"] > 3:
            now["next_order"] = 1
        if now["failures"] > 60 or not now["newest"] + 0.01 * now["h"] * now["factor"] > now["newest"]:
            return _DIVERGED if outcome == NOT_FINITE else _STEP_TOO_SMALL


def undo(record):
    """Put the numbers back to where the interrupted trial began; its evaluations stay counted, its inverse serves."""
    now = record[0]
    gradients, products, inverted = now["gradients"], now["hessian_products"], now["inverted"]
    record[0] = record[1]
    now["gradients"], now["hessian_products"] = gradients, products
    if inverted != now["inverted"] and now["has_matrix"]:
        now["inverted"], now["since_inverse"] = inverted, 0


def accept(method, memory, now, D, t, h, error):
    """Move the history to the new point, and choose order and length of the next step."""
    order = now["next_order"]
    blend(D[order + 2], 1.0, memory.correction, -1.0, D[order + 1])
    D[order + 1] = memory.correction
    for j in range(order, -1, -1):
        blend(D[j], 1.0, D[j], 1.0, D[j + 1])
    if now["factor"] != 1.0:
        now["buffer"] = 1 - now["buffer"]
        now["equal"] = 0
    now["equal"], now["failures"] = now["equal"] + 1, 0
    now["newest"], now["h"], now["factor"], now["order"] = t, h, 1.0, order
    now["exact"] = max(now["exact"] - 1, 0)
    now["since_jacobian"] = max(now["since_jacobian"] - 1, 0)
    now["since_inverse"] = max(now["since_inverse"] - 1, 0)
    if now["since_jacobian"] > method.jacobian_after:
        now["dense"], now["has_matrix"] = 1, 0
    choose(method, memory, now, D, error)


def choose(method, memory, now, D, error):
    """Order and length of the next step: the longest that the error allows, once the grid has been even for a while."""
    order = now["order"]
    best = growth(error, order)
    if now["equal"] <= order:
        if best < 0.9:
            now["factor"] = max(0.2, best)
        return
    for other, row in ((order - 1, order), (order + 1, order + 2)):
        if 1 <= other <= method.most_order:
            factor = growth(method.error[other] * weighted_norm(D[row], memory.weights), other)
            if factor > best:
                best, now["next_order"] = factor, other
    if now["next_order"] != order or not 1.0 <= best < 1.1:
        now["factor"] = max(0.2, min(best, 10.0, 1e300 / now["h"]))


def growth(error, order):
    """Factor by which a step of an order may grow."""
    return _SAFETY * max(error, 1e-14) ** (-1.0 / (order + 1))


def interpolate(memory, now, time, out):
    """State at a time inside the last step: the polynomial that the step's error estimate belongs to."""
    x = (time - now["newest"]) / now["h"]
    count = now["order"] + 2
    coefficients = np.ones(count)
    for j in range(1, count):
        coefficients[j] = coefficients[j - 1] * (x + j - 1.0) / j
    combine(out, coefficients, memory.history[now["buffer"]])


def show(memory, now, t_end):
    """Move what the caller sees to the newest point, or to t_end if that comes first."""
    memory.state_before[:] = memory.state
    now["t_before"] = now["t"]
    now["has_value"] = 0
    now["accepted"] += 1
    now["t"] = min(now["newest"], t_end)
    if now["t"] == now["newest"]:
        memory.state[:] = memory.history[now["buffer"], 0]
    else:
        interpolate(memory, now, now["t"], memory.state)


def is_low(rhs, method, limits, memory, now):
    """Whether the objective at the state is below the limit; evaluated only if it may be below at the newest point."""
    if limits.loss_below == -math.inf:
        return False
    if not now["has_value"]:
        clear = max(limits.loss_below + abs(limits.loss_below), 0.01 * now["last_value"])
        if method.plain and now["guess"] > clear:
            return False
        now["value"] = evaluate(rhs, limits, now, now["t"], memory.state, memory.velocity)
        now["has_value"] = 1 - now["spent"]
    return now["value"] < limits.loss_below


def advance(rhs, method, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that are reached."""
    rhs, method, memory, saved = uncounted((rhs, method, memory, saved))
    now = record[0]
    now["spent"] = 0
    last_step = now["accepted"] + limits.max_steps
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"]:
            if save_at[k] == now["t_before"]:
                saved[k] = memory.state_before
            else:
                interpolate(memory, now, save_at[k], saved[k])
            k += 1
        if is_low(rhs, method, limits, memory, now):
            return _LOSS_BELOW
        if now["spent"]:
            return _BUDGET
        if now["t"] >= limits.t_end:
            return _REACHED_END
        if now["accepted"] >= last_step:
            return _PAUSED
        if now["newest"] <= now["t"]:
            status = step(rhs, method, limits, memory, record)
            if status != _GO_ON:
                return status
        show(memory, now, limits.t_end)


HELPERS = (
    newton, is_settled, change_of_grid, trial_history, step, undo, accept, choose, growth, show, interpolate, is_low,
)  # fmt: skip
