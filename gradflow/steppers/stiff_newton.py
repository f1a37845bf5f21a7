"""The loop of the stiff stepper: one source, compiled for compiled fields and interpreted for others.

The history of a run is held as backward differences ``D[j]`` of the state, on an even grid that ends at the newest
point. Compiled functions called here live here, because a cached function does not notice changes in other files.
"""

import math

import numpy as np

from gradflow.kernels.calls import call
from gradflow.status import Status

_GO_ON = -1
_PAUSED, _REACHED_END, _LOSS_BELOW = int(Status.PAUSED), int(Status.REACHED_END), int(Status.LOSS_BELOW)
_STEP_TOO_SMALL, _DIVERGED, _BUDGET = int(Status.STEP_TOO_SMALL), int(Status.DIVERGED), int(Status.GRADIENT_BUDGET)
_FAILED, _NOT_FINITE, _UNFINISHED, _SOLVED = 0, 1, 2, 3

_SAFETY, _NEWTON_STEPS, _KRYLOV_STEPS, _TRUSTED_STEPS, _EXACT_STEPS = 0.8, 5, 500, 20, 64


def blend(out, a, x, b, y):
    """Write a x + b y to out, which may be x or y."""
    out[:] = a * x + b * y


def blend_loop(out, a, x, b, y):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a * x[i] + b * y[i]


def combine(out, weights, rows):
    """Write the sum of weights times rows to out, which is none of them."""
    out[:] = 0.0
    for j in range(weights.size):
        blend(out, 1.0, out, weights[j], rows[j])


def inner(x, y):
    """Sum of products."""
    return np.dot(x, y)


def inner_loop(x, y):
    """The same for compiled code."""
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


def weighted_norm(x, weights):
    """Root mean square of x times weights."""
    scaled = x * weights
    return math.sqrt(np.dot(scaled, scaled) / x.size)


def weighted_norm_loop(x, weights):
    """The same for compiled code."""
    total = 0.0
    for i in range(x.size):
        total += (x[i] * weights[i]) ** 2
    return math.sqrt(total / x.size)


def may_evaluate(limits, now):
    """Whether the budget allows one more gradient or product; note it if not."""
    if now["gradients"] + now["hessian_products"] < limits.max_gradients:
        return True
    now["spent"] = 1
    return False


def evaluate(rhs, limits, now, t, state, out):
    """Velocity at a point; return the objective, NaN if the budget is spent."""
    if not may_evaluate(limits, now):
        return math.nan
    now["gradients"] += 1
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def multiply(rhs, method, limits, memory, now, t, c):
    """Write (I - c J) direction to image, J by a difference quotient or exact; return whether it is finite."""
    m = memory
    now["since_jacobian"] += 1
    now["since_factors"] += 1
    if not now["exact"]:
        epsilon = now["spacing"] / math.sqrt(inner(m.direction, m.direction))
        blend(m.trial, 1.0, m.point, epsilon, m.direction)
        value = evaluate(rhs, limits, now, t, m.trial, m.image)
        blend(m.image, -c / epsilon, m.image, c / epsilon, m.slope)
        blend(m.image, 1.0, m.image, 1.0, m.direction)
        return abs(value) < math.inf
    if not may_evaluate(limits, now):
        return False
    now["hessian_products"] += 1
    value = call(method.product, m.point, m.direction, m.image, rhs.numbers, rhs.layout, rhs.work)
    blend(m.image, 1.0, m.direction, c, m.image)
    return abs(value) < math.inf


def conjugate_gradients(rhs, method, limits, memory, now, t, c, tolerance):
    """Solve (I - c J) change = residual for symmetric J; fail where the curvature is not positive."""
    m = memory
    m.change[:] = 0.0
    m.direction[:] = 0.0
    before = 1.0
    for k in range(_KRYLOV_STEPS):
        if weighted_norm(m.residual, m.weights) <= (tolerance if k > 0 else 0.03 * tolerance):
            return _SOLVED
        m.image[:] = m.residual
        precondition(m, now, m.image)
        square = inner(m.residual, m.image)
        if not square > 0.0:
            return _FAILED
        blend(m.direction, 1.0, m.image, square / before, m.direction)
        if not multiply(rhs, method, limits, m, now, t, c):
            return _NOT_FINITE
        curvature = inner(m.direction, m.image)
        if not curvature > 0.0:
            return _FAILED
        before = square
        blend(m.change, 1.0, m.change, square / curvature, m.direction)
        blend(m.residual, 1.0, m.residual, -square / curvature, m.image)
    return _UNFINISHED


def conjugate_residuals(rhs, method, limits, memory, now, t, c, tolerance):
    """Solve (I - c J) change = residual for any J: each step makes the weighted residual least over all directions."""
    m, P, Q = memory, memory.directions, memory.images
    m.change[:] = 0.0
    m.residual[:] = m.residual * m.weights
    root = math.sqrt(m.residual.size)
    for k in range(P.shape[0]):
        if math.sqrt(inner(m.residual, m.residual)) <= (tolerance if k > 0 else 0.03 * tolerance) * root:
            return _SOLVED
        m.direction[:] = m.residual / m.weights
        precondition(m, now, m.direction)
        if not multiply(rhs, method, limits, m, now, t, c):
            return _NOT_FINITE
        m.image[:] = m.image * m.weights
        for i in range(k):
            shadow = inner(m.image, Q[i])
            blend(m.image, 1.0, m.image, -shadow, Q[i])
            blend(m.direction, 1.0, m.direction, -shadow, P[i])
        length = math.sqrt(inner(m.image, m.image))
        if not length > 0.0:
            return _FAILED
        blend(Q[k], 1.0 / length, m.image, 0.0, m.image)
        blend(P[k], 1.0 / length, m.direction, 0.0, m.direction)
        height = inner(m.residual, Q[k])
        blend(m.residual, 1.0, m.residual, -height, Q[k])
        blend(m.change, 1.0, m.change, height, P[k])
    return _UNFINISHED


def differentiate(rhs, method, limits, memory, now, t, c):
    """Jacobian at the point, column by column; return whether it is finite."""
    m, J = memory, memory.jacobian
    m.direction[:] = 0.0
    for j in range(m.point.size):
        m.direction[j] = 1.0
        if not multiply(rhs, method, limits, m, now, t, c):
            return False
        blend(m.image, 1.0 / c, m.direction, -1.0 / c, m.image)
        m.direction[j] = 0.0
        for i in range(m.point.size):
            J[i, j] = m.image[i]
            if method.symmetric and i < j:
                J[i, j] = J[j, i] = 0.5 * (J[i, j] + J[j, i])
    now["has_matrix"] = now["fresh"] = 1
    now["factored"], now["since_jacobian"] = 0.0, 0
    return True


def factorise(memory, c):
    """Triangular factors of I - c J without row exchanges; False where a pivot is not positive."""
    F = memory.factors
    size = F.shape[0]
    for i in range(size):
        blend(F[i], -c, memory.jacobian[i], 0.0, memory.jacobian[i])
        F[i, i] += 1.0
    for k in range(size):
        if not F[k, k] > 0.0:
            return False
        for i in range(k + 1, size):
            F[i, k] /= F[k, k]
            blend(F[i, k + 1 :], 1.0, F[i, k + 1 :], -F[i, k], F[k, k + 1 :])
    return True


def precondition(memory, now, x):
    """Solve in place with the factors at hand, if there are any."""
    if not now["dense"]:
        return
    F = memory.factors
    for i in range(1, x.size):
        x[i] -= inner(F[i, :i], x[:i])
    for i in range(x.size - 1, -1, -1):
        x[i] = (x[i] - inner(F[i, i + 1 :], x[i + 1 :])) / F[i, i]


def prepare(rhs, method, limits, memory, now, t, c):
    """Dense matrix for the preconditioner: an old one serves until the products it costs would have paid a new one."""
    if not now["has_matrix"] and not differentiate(rhs, method, limits, memory, now, t, c):
        return _NOT_FINITE
    factored = now["factored"]
    near = 0.6 * factored < c < factored / 0.6
    if factored == 0.0 or not (near or now["since_factors"] < method.factors_after):
        now["factored"] = 0.0
        if not factorise(memory, c):
            return _FAILED
        now["factored"], now["since_factors"] = c, 0
    return _SOLVED


def newton(rhs, method, limits, memory, now, t, c, tolerance):
    """Solve correction + offset = c velocity(point), point = prediction + correction, by Newton's method."""
    m = memory
    m.correction[:] = 0.0
    now["fresh"] = 0
    before = 0.0
    for iteration in range(_NEWTON_STEPS):
        value = evaluate(rhs, limits, now, t, m.point, m.slope)
        blend(m.residual, c, m.slope, -1.0, m.offset)
        blend(m.residual, 1.0, m.residual, -1.0, m.correction)
        left = weighted_norm(m.residual, m.weights)
        if not abs(value + left) < math.inf:
            return _NOT_FINITE
        if iteration == 1:
            now["remainder"], now["trusted"] = left / (c * before * before), 0
        if iteration > 0 and left <= 0.3 * tolerance:
            return _SOLVED
        now["spacing"] = max(1e-7 * math.sqrt(inner(m.point, m.point)), method.least_spacing)
        outcome = prepare(rhs, method, limits, m, now, t, c) if now["dense"] else _SOLVED
        if outcome == _SOLVED and method.symmetric:
            outcome = conjugate_gradients(rhs, method, limits, m, now, t, c, 0.3 * tolerance)
        elif outcome == _SOLVED:
            outcome = conjugate_residuals(rhs, method, limits, m, now, t, c, 0.3 * tolerance)
        if outcome == _FAILED or outcome == _NOT_FINITE:
            return outcome
        size = weighted_norm(m.change, m.weights)
        if not size < math.inf or (iteration > 0 and size > 2.0 * before):
            return _FAILED
        blend(m.point, 1.0, m.point, 1.0, m.change)
        blend(m.correction, 1.0, m.correction, 1.0, m.change)
        if method.plain:
            fall = inner(m.slope, m.change) + (inner(m.offset, m.change) + inner(m.correction, m.change)) / c
            now["guess"], now["last_value"] = value - 0.5 * fall, value
        if outcome == _SOLVED and is_settled(now, iteration, c, size, before, tolerance):
            return _SOLVED
        before = size
    return _FAILED


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
        use_products = outcome == _FAILED and method.has_product and not now["exact"]
        if use_products or (outcome != _SOLVED and now["dense"] and now["has_matrix"] and not now["fresh"]):
            now["has_matrix"] = 0
            now["exact"] = _EXACT_STEPS if use_products else now["exact"]
            continue
        error = constant * weighted_norm(m.correction, m.weights)
        if outcome == _SOLVED and error <= 1.0:
            accept(method, m, now, D, t, h, error)
            return _GO_ON
        if outcome == _SOLVED:
            now["factor"] *= max(0.2, _SAFETY * error ** (-1.0 / (order + 1)))
        else:
            now["factor"] *= 0.1 if outcome == _NOT_FINITE else 0.5
        now["rejected"] += 1
        now["failures"] += 1
        if now["failures"] > 3:
            now["next_order"] = 1
        if now["failures"] > 60 or not now["newest"] + 0.01 * now["h"] * now["factor"] > now["newest"]:
            return _DIVERGED if outcome == _NOT_FINITE else _STEP_TOO_SMALL


def undo(record):
    """Put the numbers back to where the interrupted trial began; its evaluations stay counted, its factors serve."""
    now = record[0]
    gradients, products, factored = now["gradients"], now["hessian_products"], now["factored"]
    record[0] = record[1]
    now["gradients"], now["hessian_products"] = gradients, products
    if factored != now["factored"] and now["has_matrix"]:
        now["factored"], now["since_factors"] = factored, 0


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
    now["since_factors"] = max(now["since_factors"] - 1, 0)
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
    combine, may_evaluate, evaluate, multiply, conjugate_gradients, conjugate_residuals, differentiate, factorise,
    precondition, prepare, newton, is_settled, change_of_grid, trial_history, step, undo, accept, choose, growth, show,
    interpolate, is_low,
)  # fmt: skip
TWINS = ((blend, blend_loop), (inner, inner_loop), (weighted_norm, weighted_norm_loop))
