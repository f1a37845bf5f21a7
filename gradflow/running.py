"""From the arguments of a call to a stepper and its plan, and from what came out to a trajectory."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np

from gradflow.calling import notes_of
from gradflow.config import to_config, versions
from gradflow.dynamics.discrete import SGD
from gradflow.events import Point
from gradflow.loop import Plan
from gradflow.rest import Rest, level_of
from gradflow.slicing import steps_at_first
from gradflow.status import Status
from gradflow.steppers.choose import make_field, make_stepper
from gradflow.trajectory import Record, Run, Trajectory

MARK_SECONDS = 0.15
"""Seconds between two snapshots, at a nominal rate of operations."""
LATE_SECONDS, LATE_SHARE = 0.1, 0.1
"""Seconds, and part of max_seconds, that the records of a run may take after it was broken off."""


def stepper_at(problem, dynamics, t, state, arguments):
    """Stepper at a state, and the maker of points for its events."""
    stepper = make_stepper(problem, dynamics, t, state, arguments)
    if arguments.get("conserve"):
        from gradflow.dynamics.manifold import manifold
        from gradflow.steppers.conserving import Conserving

        stepper = Conserving(stepper, manifold(problem, dynamics))
    return stepper, point_maker(problem, dynamics, stepper)


def first_snapshot(problem, dynamics, t, state, arguments) -> dict:
    """Snapshot of the stepper at the start of a run."""
    return stepper_at(problem, dynamics, t, state, arguments)[0].snapshot()


def point_maker(problem, dynamics, stepper):
    """Function that makes the points which events look at.

    For SGD they see the objective on all samples; on a path that is followed through kinks, the velocity of the path.
    """
    stochastic = isinstance(dynamics, SGD)
    if stochastic:
        field = stepper.full_field
    elif hasattr(stepper, "along_last_step"):
        field = stepper.along_last_step
    else:
        field = getattr(stepper, "field", None) or make_field(problem, dynamics, problem.kernel)

    def make_point(t, state, value=None, velocity=None):
        if stochastic:
            value = velocity = None
        return Point(problem, dynamics, field, t, state, value, velocity)

    return make_point


def plan_of(problem, dynamics, arguments, times) -> Plan:
    """The loop's plan for a call."""
    kernel = problem.kernel
    cost = 1e-9 * kernel.flops + (2e-6 if kernel.compiled and dynamics.compiled else 2e-4)
    save_at, discrete, stochastic = arguments["save_at"], dynamics.discrete, isinstance(dynamics, SGD)
    rest = None
    if math.isinf(arguments["t_end"]) and not stochastic:
        tolerances = (0.0, 0.0) if discrete else (arguments["rtol"], arguments["atol"])
        rest = Rest(arguments["t_start"], *tolerances, level=level_of(arguments["events"]))
    return Plan(
        t_end=arguments["t_end"],
        times=times,
        most_points=save_at if isinstance(save_at, int) else 200,
        events=arguments["events"],
        max_gradients=arguments["max_gradients"],
        max_seconds=arguments["max_seconds"],
        mark_gradients=max(100, int(MARK_SECONDS / cost)),
        first_steps=steps_at_first(cost),
        progress=arguments["progress"],
        discrete=discrete,
        stochastic=stochastic,
        rest=rest,
    )


def make_trajectory(problem, dynamics, arguments, outcome, stepper, grid, config=None) -> Trajectory:
    """Trajectory of an outcome: points of the grid kept, records taken; `config`: the call, where it is known."""
    message = getattr(stepper, "message", "")
    notes = [*outcome.notes, *getattr(stepper, "notes", []), *notes_of(arguments), *([message] if message else [])]
    keep = slice(None)
    if any(own_grid is not None for _, own_grid in arguments["record"].values()):
        keep = np.append(np.isin(outcome.t[:-1], grid), True)
    records = _taken(problem, dynamics, arguments, outcome, keep, notes) if arguments["record"] else {}
    counts = dict(stepper.counts)
    counts["gradients"] += outcome.extra_gradients
    counts["seconds"] = outcome.seconds
    return Trajectory(
        problem,
        dynamics,
        outcome.t[keep],
        outcome.states[keep],
        _status(arguments, outcome, stepper),
        counts,
        events=outcome.crossings,
        records=records,
        notes=notes,
        run=Run(dynamics, arguments, outcome.snapshots),
        config=config or partial(call_as_config, problem, dynamics, arguments),
    )


def _taken(problem, dynamics, arguments, outcome, keep, notes) -> dict:
    """Records by name, at the points to keep or on grids of their own; notes say what is missing."""
    records, hurry, theta = {}, Hurry(outcome, arguments["max_seconds"]), dynamics.unpack(problem, outcome.states)
    for name, (function, own_grid) in arguments["record"].items():
        chosen = keep if own_grid is None else np.isin(outcome.t, own_grid)
        try:
            values = _measured(function, problem, theta[chosen], hurry)
            t = outcome.t[chosen]
            records[name] = Record(t[: len(values)], np.stack(values))
            if len(values) < t.size:
                said = f"record {name!r}: {len(values)} of {t.size} points were taken when the time was up"
                notes.append(f"{said}; run.measure(...) takes all of them")
        except Exception as error:  # a failing measure must not cost the run
            notes.append(f"record {name!r} failed: {type(error).__name__}: {error}")
    return records


class Hurry:
    """Whether the records of a run must end where they are: it was interrupted, or its seconds were used up."""

    def __init__(self, outcome, max_seconds: float, now=time.monotonic):
        self._outcome, self._now, self._end = outcome, now, np.inf
        if outcome.status == Status.WALL_CLOCK:
            self._end = now() + max(LATE_SECONDS, LATE_SHARE * max_seconds)

    def __call__(self) -> bool:
        """Look."""
        interrupt = self._outcome.interrupt
        if interrupt is not None and interrupt.raised:
            self._end = min(self._end, self._now() + LATE_SECONDS)
        return self._now() > self._end


def _measured(function, problem, rows, hurry) -> list[np.ndarray]:
    """Values of a measure at the first rows: at all of them, unless there is a hurry."""
    values: list[np.ndarray] = []
    for row in rows:
        if values and hurry():
            break
        values.append(np.asarray(function(problem, row), dtype=np.float64))
    return values


def call_as_config(problem, dynamics, arguments) -> dict:
    """The call as JSON, with versions and commit."""
    kept = ("t_end", "t_start", "save_at", "rtol", "max_gradients", "clock")
    return {
        "network": to_config(problem.network),
        "loss": to_config(problem.loss),
        "decay": problem.decay,
        "dynamics": to_config(dynamics),
        "solver": str(arguments["solver"]),
        **{key: to_config(arguments[key]) for key in kept},
        "atol": to_config(arguments.get("atol_given", arguments["atol"])),
        "stops": [repr(event) for event in arguments["events"]],
        "versions": versions(),
    }


def _status(arguments, outcome, stepper) -> Status:
    """Status of a run; out of budget by tiny steps on a network with kinks means stalled at a kink."""
    spent = outcome.status in (Status.GRADIENT_BUDGET, Status.STEP_TOO_SMALL)
    if spent and arguments["kinks"] == "ignore" and np.isfinite(arguments["t_end"]):
        remaining = (arguments["t_end"] - stepper.t) / max(stepper.t - stepper.t_before, 1e-300)
        if 10 * remaining > arguments["max_gradients"]:
            return Status.STALLED_AT_KINK
    return outcome.status
