"""Compiled Runge-Kutta steps of the plain flow with frozen masks and sliding kinks, one or as many as are undisputed.

The arithmetic is that of :mod:`gradflow.kinks.slide` and :mod:`gradflow.steppers.kinked_step`; where the normals of
sliding kinks are dependent the compiled form declines, and the caller takes that path.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from gradflow.kernels.matrices import multiply, multiply_nt
from gradflow.kernels.procedures import OPTIONS, address_of, keep
from gradflow.kinks.inside import first_layer_doubts, upper_layers_doubts
from gradflow.kinks.passes import (
    DEPTH,
    HEAD,
    INPUTS,
    LAYER,
    OUTPUTS,
    SAMPLES,
    UNIT,
    WEIGHT,
    X,
    Y,
    pass_forward,
    pass_gradient,
    pass_normals,
    remove_rows,
    solve_cholesky,
)


class Net(NamedTuple):
    """A masked network: layout and data, and per unit its layer, jump of the slope, and the units tied to it."""

    layout: np.ndarray
    numbers: np.ndarray
    layers: np.ndarray
    low: np.ndarray
    gap: np.ndarray
    tied_at: np.ndarray
    tied: np.ndarray
    factor: np.ndarray


class Sliding(NamedTuple):
    """Sliding kinks: an orthonormal basis per neuron and its dual where they are flat; `stacked` ones share samples."""

    kinks: np.ndarray
    neurons: np.ndarray
    owners: np.ndarray
    basis: np.ndarray
    dual: np.ndarray
    curved: bool
    stacked: bool


class Method(NamedTuple):
    """Runge-Kutta pair with its tolerances; dependence of normals, and of adjoints, that counts as rounding."""

    A: np.ndarray
    C: np.ndarray
    E: np.ndarray
    powers: np.ndarray
    stages: int
    order: float
    rtol: float
    atol: np.ndarray
    rank: float
    rounding: float


class Watch(NamedTuple):
    """What may not happen in a step: sides of the kinks, depth of a violation, -1 where sliding is held with d < 0."""

    signs: np.ndarray
    wrong: float
    held: np.ndarray
    first: int
    begin: int
    from_powers: np.ndarray
    nodes: np.ndarray
    from_values: np.ndarray


class Limits(NamedTuple):
    """Where a stretch ends: at the last time, after a step to `pause` or later, at a loss, gradients, accepted steps.

    With accepted < 0 one step is tried, and handed back whatever happens in it.
    """

    t_end: float
    pause: float
    loss_below: float
    gradients: int
    accepted: int


@njit(**OPTIONS)
def _ratio(multiplier, attraction, largest):
    """Mask sigma = lambda / d, 0 where both vanish."""
    return 0.0 if abs(attraction) <= 1e-14 * largest else multiplier / attraction


@njit(**OPTIONS)
def _attractions(net, kinks, delta, rounding, layer, out):
    """d of each kink (of one layer, or of all for -1); returns the largest size."""
    top, largest = 0.0, 0.0
    for i in range(delta.size):
        top = max(top, abs(delta[i]))
    for a in range(kinks.size):
        kink = kinks[a]
        if layer >= 0 and net.layers[kink] != layer:
            continue
        total = 0.0
        for t in range(net.tied_at[kink], net.tied_at[kink + 1]):
            total += abs(net.factor[t]) * delta[net.tied[t]]
        total *= net.gap[kink]
        out[a] = 0.0 if abs(total) <= rounding * top else total
        largest = max(largest, abs(out[a]))
    return largest


@njit(**OPTIONS)
def _stacked_attractions(net, sliding, theta, units, multipliers, rounding, out):
    """d of each kink under the masks of the sliding kinks in the layers above; changes slopes and adjoints."""
    kinks, slope, delta = sliding.kinks, units[1], units[3]
    first, last = net.layers[kinks[0]], net.layers[kinks[0]]
    for kink in kinks:
        first, last = min(first, net.layers[kink]), max(last, net.layers[kink])
    n = net.layout[SAMPLES]
    for layer in range(last, first - 1, -1):
        largest = _attractions(net, kinks, delta, rounding, layer, out)
        if layer == first:
            break
        for a in range(kinks.size):
            kink = kinks[a]
            if net.layers[kink] != layer:
                continue
            mask = _ratio(multipliers[a], out[a], largest)
            for t in range(net.tied_at[kink], net.tied_at[kink + 1]):
                own = mask if net.factor[t] > 0.0 else 1.0 - mask
                slope[net.tied[t]] = net.low[kink] + net.gap[kink] * own
        row = net.layout[HEAD + LAYER * layer : HEAD + LAYER * (layer + 1)]
        below = net.layout[HEAD + LAYER * (layer - 1) + UNIT]
        errors = delta[row[UNIT] : row[UNIT] + n * row[OUTPUTS]] * slope[row[UNIT] : row[UNIT] + n * row[OUTPUTS]]
        weight, target = theta[row[WEIGHT] :], delta[below:]
        multiply(n, row[INPUTS], row[OUTPUTS], address_of(errors), address_of(weight), address_of(target), 0, 0, 0)
        keep(errors)


@njit(**OPTIONS)
def _project_flat(net, sliding, u, multipliers):
    """Multipliers of flat kinks; u loses its normal part."""
    inputs, width = net.layout[HEAD + INPUTS], net.layout[HEAD + OUTPUTS]
    length = sliding.basis.shape[1]
    for a in range(sliding.kinks.size):
        neuron, total = sliding.neurons[a], 0.0
        for p in range(inputs):
            total += sliding.dual[a, p] * u[neuron * inputs + p]
        if length > inputs:
            total += sliding.dual[a, inputs] * u[width * inputs + neuron]
        multipliers[a] = total
    remove_rows(
        address_of(u), address_of(sliding.basis), address_of(sliding.owners), sliding.owners.size, inputs, length,
        width * inputs,
    )  # fmt: skip


@njit(**OPTIONS)
def _normals(net, sliding, theta, units, normals):
    """Normals of the sliding kinks."""
    pass_normals(
        address_of(net.layout), address_of(net.numbers), address_of(theta), address_of(units[1]),
        address_of(units[2]), sliding.kinks.size, address_of(sliding.kinks), address_of(normals),
    )  # fmt: skip


@njit(**OPTIONS)
def _solve(normals, right, rank, multipliers):
    """Solution of N N' x = right; False if the normals are dependent."""
    m, size = normals.shape
    gram = np.empty((m, m))
    multiply_nt(m, m, size, address_of(normals), address_of(normals), address_of(gram), 0, 0, 0)
    solved = solve_cholesky(m, address_of(gram), address_of(right), rank, address_of(multipliers))
    keep(gram)
    return solved == 1


@njit(**OPTIONS)
def _remove_normals(normals, multipliers, vector):
    """vector -= N' lambda."""
    for a in range(multipliers.size):
        for p in range(vector.size):
            vector[p] -= multipliers[a] * normals[a, p]


@njit(**OPTIONS)
def _velocity(net, sliding, method, theta, sigma, units, normals, velocity, multipliers, attraction):
    """Objective, and whether the normals are independent; fills the velocity, multipliers and attractions."""
    value = pass_gradient(
        address_of(net.layout), address_of(net.numbers), address_of(theta), address_of(sigma), address_of(units),
        address_of(velocity),
    )  # fmt: skip
    for p in range(velocity.size):
        velocity[p] = -velocity[p]
    if sliding.kinks.size == 0:
        return value, True
    if sliding.curved:
        m, speed = normals.shape[0], np.empty(normals.shape[0])
        _normals(net, sliding, theta, units, normals)
        multiply_nt(m, 1, theta.size, address_of(normals), address_of(velocity), address_of(speed), 0, 0, 0)
        if not _solve(normals, speed, method.rank, multipliers):
            return value, False
        _remove_normals(normals, multipliers, velocity)
    else:
        _project_flat(net, sliding, velocity, multipliers)
    if sliding.stacked:
        _stacked_attractions(net, sliding, theta, units, multipliers, method.rounding, attraction)
    else:
        _attractions(net, sliding.kinks, units[3], method.rounding, -1, attraction)
    return value, True


@njit(cache=True, **OPTIONS)
def evaluate(net, sliding, method, theta, sigma, units, velocity, multipliers, attraction):
    """Objective, and whether the normals are independent; fills the velocity, multipliers and attractions."""
    normals = np.empty((sliding.kinks.size if sliding.curved else 0, theta.size))
    return _velocity(net, sliding, method, theta, sigma, units, normals, velocity, multipliers, attraction)


@njit(**OPTIONS)
def _restored(net, sliding, method, theta, sigma, units, normals, bend):
    """Theta moved by one Newton step of least norm towards the surface of the sliding kinks; `bend` is the move."""
    m = sliding.kinks.size
    last = HEAD + LAYER * (net.layout[DEPTH] - 1) + OUTPUTS
    outputs, z, multipliers = np.empty(net.layout[SAMPLES] * net.layout[last]), np.empty(m), np.empty(m)
    pass_forward(
        address_of(net.layout), address_of(net.numbers), address_of(theta), address_of(sigma), address_of(units),
        address_of(outputs),
    )  # fmt: skip
    keep(outputs)
    for a in range(m):
        z[a] = units[0, sliding.kinks[a]]
    _normals(net, sliding, theta, units, normals)
    if not _solve(normals, z, method.rank, multipliers):
        return False
    bend[:] = 0.0
    _remove_normals(normals, multipliers, bend)
    for p in range(theta.size):
        theta[p] += bend[p]
    return True


@njit(**OPTIONS)
def _error(method, stages, y, y_new, length):
    """Root mean square of the estimated error over the tolerance; two estimates are joined as Hairer does."""
    first, second = 0.0, 0.0
    for p in range(y.size):
        scale = max(method.atol[p] + method.rtol * max(abs(y[p]), abs(y_new[p])), 1e-300)
        for e in range(method.E.shape[0]):
            total = 0.0
            for j in range(method.E.shape[1]):
                total += method.E[e, j] * stages[j, p]
            if e == 0:
                first += (total / scale) ** 2
            else:
                second += (total / scale) ** 2
    if method.E.shape[0] == 1 or first == 0.0:
        return length * math.sqrt(first / y.size)
    return length * first / math.sqrt((first + 0.01 * second) * y.size)


@njit(**OPTIONS)
def _step(net, sliding, method, y, sigma, length, stages, y_new, bend, units, multipliers, attractions):
    """One step from y; the first row of `stages` is the velocity there.

    Fills the other stages, the new state, what the return to the surface has moved it by, units, and multipliers and
    attractions of each stage. Returns the objective at the new state, the error in units of the tolerance, and whether
    all normals were independent.
    """
    rows = method.A.shape[0]
    normals = np.empty((sliding.kinks.size if sliding.curved else 0, y.size))
    argument, spare, value = np.empty(y.size), np.empty_like(units), math.nan
    for j in range(1, rows):
        for p in range(y.size):
            total = 0.0
            for i in range(j):
                total += method.A[j, i] * stages[i, p]
            argument[p] = y[p] + length * total
        own = spare
        if j == method.stages:
            own = units
            if sliding.curved and sliding.kinks.size:
                finite = True
                for p in range(y.size):
                    finite = finite and abs(argument[p]) < math.inf
                if finite and not _restored(net, sliding, method, argument, sigma, units, normals, bend):
                    return value, 0.0, False
            y_new[:] = argument
        found, independent = _velocity(
            net, sliding, method, argument, sigma, own, normals, stages[j], multipliers[j], attractions[j]
        )
        if not independent:
            return value, 0.0, False
        if j == method.stages:
            value = found
    return value, _error(method, stages, y, y_new, length), True


@njit(**OPTIONS)
def _slack(net, watch, theta, z, slack):
    """Depth on the wrong side that counts, for each unit; True if some unit is there already."""
    layout, below, wrong = net.layout, 0.0, 0
    for i in range(layout[Y] - layout[X]):
        below = max(below, abs(net.numbers[layout[X] + i]))
    for l in range(layout[DEPTH] - 1):
        row = layout[HEAD + LAYER * l : HEAD + LAYER * (l + 1)]
        weight, largest = 0.0, 0.0
        for p in range(row[WEIGHT], row[WEIGHT] + row[INPUTS] * row[OUTPUTS]):
            weight = max(weight, abs(theta[p]))
        start, stop = row[UNIT], row[UNIT] + layout[SAMPLES] * row[OUTPUTS]
        for i in range(start, stop):
            largest = max(largest, abs(z[i]))
        below = max(largest, 1e-2 * weight * below)
        for i in range(start, stop):
            slack[i] = watch.wrong * below
            wrong += watch.signs[i] * z[i] < -slack[i]
    return wrong > 0


@njit(**OPTIONS)
def _masks_leave(method, watch, multipliers, attractions):
    """Whether a sliding mask lies outside [0, 1] at a stage or at the end of the step."""
    for j in range(1, method.stages + 1):
        if j < method.stages and not method.C[j] < 1.0:
            continue
        for a in range(watch.held.size):
            low = watch.held[a] * multipliers[j, a]
            if low < 0.0 or watch.held[a] * attractions[j, a] - low < 0.0:
                return True
    return False


@njit(**OPTIONS)
def _may_leave(net, watch, method, y, length, stages, bend, curved, sigma, z, slack):
    """Whether a pre-activation may leave its side inside the step."""
    degree, rows = method.powers.shape
    coefficients = np.zeros((degree, y.size))
    for p in range(degree):
        for j in range(rows):
            for i in range(y.size):
                coefficients[p, i] += length * method.powers[p, j] * stages[j, i]
    if curved:
        for i in range(y.size):
            coefficients[1, i] += 3.0 * bend[i]
            coefficients[2, i] -= 2.0 * bend[i]
    layout, numbers, polynomial = address_of(net.layout), address_of(net.numbers), address_of(coefficients)
    values, signs, slacks = address_of(z), address_of(watch.signs), address_of(slack)
    doubts = 0
    if watch.first > 0:
        doubts = first_layer_doubts(
            layout, numbers, polynomial, degree, values, signs, slacks, watch.first, address_of(watch.from_powers)
        )
    if doubts == 0 and watch.begin < z.size:
        doubts = upper_layers_doubts(
            layout, numbers, address_of(y), polynomial, degree, address_of(sigma), values, signs, slacks, watch.begin,
            address_of(watch.nodes), watch.nodes.size, address_of(watch.from_values),
        )  # fmt: skip
    keep(coefficients)
    return doubts > 0


@njit(cache=True, **OPTIONS)
def stretch(
    net, sliding, method, watch, limits, sigma, now, counts, y, y_before, z, pulls, stages, bends, ends, units, lam, att
):
    """Steps for as long as nothing has to be decided; 1 if the last one tried is handed back, else 0.

    `now` holds time, step, error before, objective, then time and length of the last accepted step, objective and error
    of the one tried; `counts` gradients and accepted steps. The blocks of `stages`, `bends`, `ends` alternate: the step
    tried has the one of the number of accepted steps modulo 2, and the velocity as its first stage. y, z, `pulls`
    (multipliers and attractions) are those of the last accepted state.
    """
    rows, slack = method.A.shape[0], np.empty(z.size)
    t, h, error_before, value = now[0], now[1], now[2], now[3]
    taken, tried = 0, 0
    curved = sliding.curved and sliding.kinks.size > 0
    while True:
        single = limits.accepted < 0
        stopped = value < limits.loss_below or t >= limits.pause or t + h > limits.t_end
        stopped = stopped or counts[1] >= limits.accepted or counts[0] + rows - 1 > limits.gradients
        if not single and (stopped or _slack(net, watch, y, z, slack)):
            break
        own = taken % 2
        bends[own] = 0.0
        found, error, independent = _step(
            net, sliding, method, y, sigma, h, stages[own], ends[own], bends[own], units, lam, att
        )
        if not independent:
            break
        counts[0] += rows - 1
        now[6], now[7] = found, error
        smooth = not single and abs(error + found) < math.inf and error < 1.0
        if (
            not smooth
            or _masks_leave(method, watch, lam, att)
            or _may_leave(net, watch, method, y, h, stages[own], bends[own], curved, sigma, z, slack)
        ):
            tried = 1
            break
        y_before[:] = y
        y[:], z[:], value = ends[own], units[0], found
        pulls[0], pulls[1] = lam[method.stages], att[method.stages]
        stages[1 - own, 0] = stages[own, method.stages]
        now[4], now[5] = t, h
        t, taken, counts[1] = t + h, taken + 1, counts[1] + 1
        error = max(error, 1e-10)
        factor = 0.9 * error ** (-0.7 / method.order) * error_before ** (0.4 / method.order)
        h, error_before = h * min(5.0, max(0.2, factor)), max(error, 1e-4)
    now[0], now[1], now[2], now[3] = t, h, error_before, value
    return tried
