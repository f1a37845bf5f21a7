"""The adaptive explicit pairs on eight runs at a time: each lane has its own time, step, counts and status.

Step control is that of :mod:`gradflow.steppers.adaptive`, the same functions on the same records. A lane whose run has
ended takes the next one of the queue. Where a run has to be looked at more closely (the loss fell below a level, or
the problem is stiff), its lane keeps the state before, from which the stepper of single runs goes on.
"""

import math
from typing import Any

import numba

from gradflow.kernels.calls import call, compiled
from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import EXACT, address_of
from gradflow.lanes.memory import IDLE, KEPT, NOW, START
from gradflow.lanes.vectors import (
    LANES,
    combine,
    combine_each,
    dot,
    move,
    put,
    scale_errors,
    spread_out,
    take,
    take_number,
)
from gradflow.status import Status
from gradflow.steppers import adaptive

GO_ON = -1
DIVERGED, LOSS_BELOW = int(Status.DIVERGED), int(Status.LOSS_BELOW)
NOT_FINITE_START, STEP_TOO_SMALL = int(Status.NOT_FINITE_START), int(Status.STEP_TOO_SMALL)
STIFF = int(Status.STIFF)

njit: Any = numba.njit
_part = njit(**EXACT)
_stop, _reject, _watch_stiffness = _part(adaptive.stop), _part(adaptive.reject), _part(adaptive.watch_stiffness)


@_part
def _keep(results, group, lane, run):
    """Remember the present state of a run as the one to go on from."""
    size = results.end.shape[1]
    results.records[run, KEPT] = results.records[run, NOW]
    take(size, lane, address_of(group.y), address_of(results.kept_state[run]))
    take(size, lane, address_of(group.K), address_of(results.kept_velocity[run]))
    for i in range(size):
        results.kept_velocity[run, i] = -results.kept_velocity[run, i]


@_part
def _finish(results, group, lane, status):
    """End the run of a lane."""
    run = group.runs[lane]
    results.status[run] = status
    take(results.end.shape[1], lane, address_of(group.y), address_of(results.end[run]))
    if math.isnan(results.records[run, NOW]["held_for"]):
        _keep(results, group, lane, run)
    group.runs[lane] = IDLE


@_part
def _norm(size, lane, a, b, y, atol, rtol):
    """Root mean square of a - b, entry by entry over the tolerance at y, for one lane; b may be None."""
    total = 0.0
    for i in range(lane, LANES * size, LANES):
        difference = a[i] if b is None else a[i] - b[i]
        total += (difference / (atol + rtol * abs(y[i]))) ** 2
    return math.sqrt(total / size)


@_part
def _begin(task, method, results, group):
    """Take runs from the queue into idle lanes: their first gradient and Hairer's first step; gradients spent."""
    runs, size = results.end.shape
    mask, y, K, rtol = group.mask, group.y, group.K, task.control.rtol
    some = False
    for lane in range(LANES):
        mask[lane] = 0.0
        if group.runs[lane] == IDLE and results.taken[0] < runs:
            run = take_number(address_of(results.taken))
            if run < runs:
                put(size, lane, address_of(task.starts[run]), address_of(y))
                group.runs[lane], group.atol[lane] = run, task.atol[run]
                mask[lane], some = 1.0, True
    if not some:
        return 0
    call(task.gradient, y, group.terms, task.numbers, task.layout, group.work)
    move(size, address_of(mask), address_of(group.terms), address_of(K))
    for lane in range(LANES):
        group.lengths[lane] = 0.0
        if mask[lane] != 0.0:
            run = group.runs[lane]
            now, atol = results.records[run, NOW], task.atol[run]
            now["t"] = now["t_before"] = task.t_start
            now["error_before"], now["held_for"] = 1e-4, math.nan
            now["value"], now["gradients"] = group.work[lane], 1
            length, speed = _norm(size, lane, y, None, y, atol, rtol), _norm(size, lane, K[0], None, y, atol, rtol)
            if not (abs(now["value"]) < math.inf and length < math.inf and speed < math.inf):
                mask[lane] = 0.0
                _finish(results, group, lane, NOT_FINITE_START)
                continue
            now["h"] = 1e-6 if length < 1e-5 or speed < 1e-5 else 0.01 * length / speed
            group.rho[lane], group.lengths[lane] = speed, -now["h"]
    for i in range(size):
        for lane in range(LANES):
            place = LANES * i + lane
            group.argument[place] = y[place] + group.lengths[lane] * K[0, place]
    call(task.gradient, group.argument, K[1], task.numbers, task.layout, group.work)
    for lane in range(LANES):
        if mask[lane] != 0.0:
            _propose_first(task, method, results, group, lane)
    return 2


@_part
def _propose_first(task, method, results, group, lane):
    """Size of the first step of a lane from the gradients at the start and after a small Euler step."""
    run, size = group.runs[lane], results.end.shape[1]
    now, K = results.records[run, NOW], group.K
    h, speed = now["h"], group.rho[lane]
    bend = _norm(size, lane, K[1], K[0], group.y, task.atol[run], task.control.rtol) / h
    if bend < math.inf:
        steep = max(speed, bend)
        guess = (0.01 / steep) ** (1.0 / method.pair.order) if steep > 1e-15 else max(1e-6, 1e-3 * h)
        now["h"] = min(100.0 * h, guess)
    now["h_tried"], now["gradients"] = now["h"], 2
    results.records[run, START] = now
    take(size, lane, address_of(K), address_of(results.start_velocity[run]))
    for i in range(size):
        results.start_velocity[run, i] = -results.start_velocity[run, i]
    while results.saves[run] < task.save_at.size and task.save_at[results.saves[run]] <= now["t"]:
        take(size, lane, address_of(group.y), address_of(results.saved[run, results.saves[run]]))
        results.saves[run] += 1


@_part
def _plan(task, method, results, group):
    """End runs that are through; the size of the next step of the others. Whether any lane is busy or became idle."""
    busy, ended = False, False
    for lane in range(LANES):
        group.lengths[lane] = 0.0
        run = group.runs[lane]
        if run == IDLE:
            continue
        now, t_end = results.records[run, NOW], task.limits.t_end
        stiff = now["stiff"]
        status = _stop(method.pair, task.control, task.limits, now, task.limits.max_steps)
        if status == STIFF:
            now["stiff"] = stiff
        t, h = now["t"], now["h"]
        if status == GO_ON and not t + h > t:
            status = STEP_TOO_SMALL
        if status != GO_ON:
            _finish(results, group, lane, status)
            ended = True
            continue
        busy = True
        cut = t + h > t_end
        if cut and now["held_for"] != t_end:
            _keep(results, group, lane, run)
            now["held_for"] = t_end
        group.lengths[lane] = t_end - t if cut else h
    return busy, ended


@_part
def _run_stages(task, method, group, first, last, argument):
    """Gradients at stages first to last - 1."""
    sums, size = method.stages, group.y.size // LANES
    for j in range(first, last):
        weights, places = address_of(sums.weights[j]), address_of(sums.places[j])
        scale, base = address_of(group.factors), address_of(group.y)
        combine(size, sums.counts[j], weights, places, address_of(group.K), size, scale, base, address_of(argument))
        call(task.gradient, argument, group.K[j], task.numbers, task.layout, group.work)


@_part
def _squares(size, terms, out):
    """Sums of squares, lane by lane."""
    dot(size, address_of(terms), address_of(terms), address_of(out))


@_part
def _measure_errors(task, method, results, group):
    """Errors of the lanes' steps in units of their tolerances."""
    sums, size, terms = method.errors, group.y.size // LANES, group.terms
    for estimate in range(sums.counts.size):
        weights, places = address_of(sums.weights[estimate]), address_of(sums.places[estimate])
        stages, y, y_new = address_of(group.K), address_of(group.y), address_of(group.y_new)
        atol, rtol, out = address_of(group.atol), address_of(task.rtol), address_of(terms)
        scale_errors(size, sums.counts[estimate], weights, places, stages, size, atol, rtol, y, y_new, out)
        _squares(size, terms, group.weights[0] if estimate else group.errors)
    for lane in range(LANES):
        square, length = group.errors[lane], group.lengths[lane]
        if sums.counts.size == 1 or square == 0.0:
            group.errors[lane] = length * math.sqrt(square / size)
        else:
            group.errors[lane] = length * square / math.sqrt((square + 0.01 * group.weights[0, lane]) * size)


@_part
def _measure_stiffness(method, group):
    """Estimates of the norm of the Jacobian from the last two stages, which share their time."""
    size, terms, last = group.y.size // LANES, group.terms, method.pair.stages
    for i in range(terms.size):
        terms[i] = group.K[last, i] - group.K[last - 1, i]
    _squares(size, terms, group.rho)
    for i in range(terms.size):
        terms[i] = group.y_new[i] - group.argument[i]
    _squares(size, terms, group.weights[0])
    for lane in range(LANES):
        apart = group.weights[0, lane]
        group.rho[lane] = 0.0 if apart == 0.0 else math.sqrt(group.rho[lane] / apart)


@_part
def _judge(task, method, results, group):
    """Accept or reject the steps of all lanes; the mask says which were accepted."""
    order, last = method.pair.order, method.pair.stages
    for lane in range(LANES):
        group.mask[lane] = 0.0
        run = group.runs[lane]
        if run == IDLE:
            continue
        now, length = results.records[run, NOW], group.lengths[lane]
        error, value = group.errors[lane], group.work[lane]
        fine = error < 1.0 and abs(value) < math.inf
        status = GO_ON
        if fine and value < task.limits.loss_below:
            status = LOSS_BELOW
        elif fine:
            _accept(order, now, task, length, value, error, group.rho[lane])
            group.mask[lane] = 1.0
        elif abs(error) < math.inf and abs(value) < math.inf:
            status = _reject(now, length * max(0.2, 0.9 * error ** (-1.0 / order)), STEP_TOO_SMALL)
        else:
            status = _reject(now, 0.1 * length, DIVERGED)
        if status != LOSS_BELOW:
            now["gradients"] += last
        if status != GO_ON:
            _finish(results, group, lane, status)


@_part
def _accept(order, now, task, length, value, error, rho):
    """Numbers of an accepted step; a step cut short says nothing about the next step size."""
    t_end = task.limits.t_end
    cut = now["t"] + now["h"] > t_end
    now["t_before"] = now["t"]
    now["t"] = t_end if cut else now["t"] + now["h"]
    now["length"], now["value"] = length, value
    now["accepted"] += 1
    if not cut:
        error = max(error, 1e-10)
        factor = 0.9 * error ** (-0.7 / order) * now["error_before"] ** (0.4 / order)
        now["h"] = min(length * min(5.0, max(0.2, factor)), 1e300)
        now["error_before"] = max(error, 1e-4)
    now["h_tried"] = now["h"]
    _watch_stiffness(task.control, now, rho, cut)


@_part
def _weigh(method, group, lane, x):
    """Weights of the stages in the interpolant of a lane."""
    G, used = method.pair.G, method.interpolant
    for l in range(used.size):
        group.weights[l, lane] = 0.0
    basis = x
    for i in range(G.shape[0]):
        for l in range(used.size):
            group.weights[l, lane] += basis * G[i, used[l]]
        basis *= x if i % 2 == 1 else 1.0 - x


@_part
def _save_inside(task, method, results, group):
    """Save each lane's next state inside its accepted step; whether there was any."""
    size, some = group.y.size // LANES, False
    for lane in range(LANES):
        run = group.runs[lane]
        group.rows[lane] = address_of(group.argument)
        if group.mask[lane] != 0.0 and results.saves[run] < task.save_at.size:
            now, time = results.records[run, NOW], task.save_at[results.saves[run]]
            if time < now["t"]:
                _weigh(method, group, lane, (time - now["t_before"]) / now["length"])
                group.rows[lane], some = address_of(results.saved[run, results.saves[run]]), True
                results.saves[run] += 1
    if not some:
        return False
    weights, places, stages = address_of(group.weights), address_of(method.interpolant), address_of(group.K)
    scale, base, out = address_of(group.factors), address_of(group.y), address_of(group.terms)
    combine_each(size, method.interpolant.size, weights, places, stages, size, scale, base, out)
    spread_out(size, out, address_of(group.rows))
    return True


@_part
def _save(task, method, results, group):
    """Save what the accepted steps reach; gradients spent."""
    size, stages, rows = group.y.size // LANES, method.pair.stages, method.pair.A.shape[0]
    inside = False
    for lane in range(LANES):
        run = group.runs[lane]
        if group.mask[lane] != 0.0 and results.saves[run] < task.save_at.size:
            now = results.records[run, NOW]
            if task.save_at[results.saves[run]] < now["t"]:
                now["gradients"] += rows - 1 - stages
                inside = True
    if inside:
        _run_stages(task, method, group, stages + 1, rows, group.argument)
        while _save_inside(task, method, results, group):
            pass
    for lane in range(LANES):
        run = group.runs[lane]
        if group.mask[lane] != 0.0 and results.saves[run] < task.save_at.size:
            if task.save_at[results.saves[run]] == results.records[run, NOW]["t"]:
                row = results.saved[run, results.saves[run]]
                take(size, lane, address_of(group.y_new), address_of(row))
                results.saves[run] += 1
    return rows - 1 - stages if inside else 0


def _advance(task, method, results, group, gradients):
    """Step until the queue and the lanes are empty, or about so many gradients of a group; whether all is done."""
    size, last, spent = group.y.size // LANES, method.pair.stages, 0
    while spent < gradients:
        spent += _begin(task, method, results, group)
        busy, ended = _plan(task, method, results, group)
        if ended or not busy:
            if not busy and results.taken[0] >= results.status.size:
                return True
            continue
        for lane in range(LANES):
            group.factors[lane] = -group.lengths[lane]
        _run_stages(task, method, group, 1, last, group.argument)
        _run_stages(task, method, group, last, last + 1, group.y_new)
        _measure_errors(task, method, results, group)
        _measure_stiffness(method, group)
        _judge(task, method, results, group)
        spent += last + _save(task, method, results, group)
        move(size, address_of(group.mask), address_of(group.y_new), address_of(group.y))
        move(size, address_of(group.mask), address_of(group.K[last]), address_of(group.K[0]))
    return False


advance = compiled(_advance, fastmath=frozenset(EXACT["fastmath"]))


@entry(exact=True)
def abandon(results, group, status):
    """End the runs that are under way."""
    for lane in range(LANES):
        if group.runs[lane] != IDLE:
            _finish(results, group, lane, status)
