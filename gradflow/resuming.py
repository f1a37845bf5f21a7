"""Runs taken up again: further, at other times, at tighter tolerances."""

from __future__ import annotations

import numpy as np

from gradflow.arguments import finite, positive
from gradflow.calling import checked_end, most_gradients, sequence_of
from gradflow.loop import Interrupt, drive
from gradflow.running import make_trajectory, plan_of, stepper_at
from gradflow.saving import grid_of
from gradflow.simulate import run_from_state
from gradflow.status import Status
from gradflow.threads import single_blas_thread
from gradflow.trajectory import Run, Trajectory


def extend(trajectory: Trajectory, t_end: float, **changes) -> Trajectory:
    """See :meth:`Trajectory.extend`."""
    allowed = {"stop", "save_at", "max_gradients", "max_seconds", "progress"}
    if changes.keys() - allowed:
        raise TypeError(f"extend: unknown arguments {sorted(changes.keys() - allowed)}; known are {sorted(allowed)}")
    if "max_seconds" in changes:
        changes["max_seconds"] = positive(changes["max_seconds"], "max_seconds")
    if trajectory.clocked is not None:
        from gradflow.clocks.again import extended

        stops = {"events": sequence_of(changes.pop("stop", ()), "stop")}
        return extended(trajectory, checked_end(t_end, trajectory.clocked.t_start), stops | changes)
    run = _run_of(trajectory)
    if not finite(t_end, "t_end") > trajectory.t_end:
        raise ValueError(f"t_end = {t_end}: must be later than the end so far, {trajectory.t_end:g}")
    arguments = run.arguments | {"t_end": float(t_end), "events": sequence_of(changes.pop("stop", ()), "stop")}
    if not isinstance(arguments["save_at"], int | str):
        arguments["save_at"] = 200
    most = most_gradients(arguments, changes.pop("max_gradients", None))
    arguments |= {"max_gradients": most + trajectory.counts.get("gradients", 0), "max_seconds": np.inf} | changes
    old_end = trajectory.t_end
    grid = grid_of(arguments["save_at"], old_end, float(t_end), trajectory.dynamics, arguments["t_start"])
    times = None if grid is None else grid[grid > old_end]
    snapshot = max((s for s in run.snapshots if s["t"] <= old_end), key=lambda s: s["t"])
    with single_blas_thread(), Interrupt() as interrupt:
        stepper, make_point = _resumed(trajectory, snapshot, arguments)
        plan = plan_of(trajectory.problem, trajectory.dynamics, arguments, times)
        outcome = drive(stepper, plan, make_point, interrupt, snapshot)
    new = outcome.t > old_end
    outcome.t = np.concatenate([trajectory.t, outcome.t[new]])
    outcome.states = np.concatenate([trajectory.states, outcome.states[new]])
    outcome.crossings = [*trajectory.events, *(c for c in outcome.crossings if c.t > old_end)]
    outcome.snapshots = [*(s for s in run.snapshots if s["t"] < snapshot["t"]), *outcome.snapshots]
    outcome.seconds += trajectory.counts.get("seconds", 0.0)
    return make_trajectory(trajectory.problem, trajectory.dynamics, arguments, outcome, stepper, None)


def revisit(trajectory: Trajectory, times: np.ndarray) -> np.ndarray:
    """States (m, S) at increasing times within a run, repeating it from the nearest snapshots."""
    run = _run_of(trajectory)
    if trajectory.dynamics.discrete:
        begin, step = run.arguments["t_start"], trajectory.dynamics.step
        times = begin + np.floor((times - begin) / step + 1e-9) * step
    saved = np.empty((times.size, trajectory.states.shape[1]))
    starts = [
        max((s for s in run.snapshots if s["t"] <= t), key=lambda s: s["t"], default=run.snapshots[0]) for t in times
    ]
    done = 0
    with single_blas_thread():
        while done < times.size:
            last = done
            while last + 1 < times.size and starts[last + 1] is starts[done]:
                last += 1
            stepper, _ = _resumed(trajectory, starts[done], run.arguments)
            part = saved[done : last + 1]
            while stepper.t < times[last]:
                status = stepper.advance(
                    run.arguments["t_end"], save_at=times[done : last + 1], saved=part, max_steps=16
                )
                if status not in (Status.PAUSED, Status.STIFF):
                    break
            if last == done and stepper.t == times[done]:
                part[0] = stepper.state
            elif stepper.counts["accepted"] == starts[done].get("accepted", 0):
                part[:] = stepper.state
            done = last + 1
    return saved


def at_its_end(trajectory: Trajectory):
    """A stepper that has repeated the last steps of a run, up to its end."""
    run = _run_of(trajectory)
    snapshot = max((s for s in run.snapshots if s["t"] <= trajectory.t_end), key=lambda s: s["t"])
    stepper, _ = _resumed(trajectory, snapshot, run.arguments)
    while stepper.t < trajectory.t_end:
        if stepper.advance(run.arguments["t_end"], max_steps=1) != Status.PAUSED:
            break
    return stepper


def tightened(trajectory: Trajectory, factor: float) -> np.ndarray:
    """Theta (T, P) of a second run with both tolerances times `factor`, at the saved times of the first."""
    if trajectory.dynamics.discrete:
        return np.array(trajectory.theta)
    if trajectory.clocked is not None:
        from gradflow.clocks.again import tightened_theta

        return tightened_theta(trajectory, factor)
    run = _run_of(trajectory)
    rtol, atol = max(run.arguments["rtol"] * factor, 1e-13), run.arguments["atol"]
    arguments = run.arguments | {
        "t_end": trajectory.t_end,
        "events": [],
        "record": {},
        "save_at": trajectory.t,
        "rtol": rtol,
        "atol": atol * factor,
        "solver": run.arguments["solver"].tightened(factor),
        "max_gradients": 10 * run.arguments["max_gradients"],
        "progress": False,
    }
    with single_blas_thread(), Interrupt() as interrupt:
        second = _run_anew(trajectory, arguments, interrupt)
    if second.t.size != trajectory.t.size:
        raise RuntimeError(f"the run at rtol/10 ended early: {second.status}; raise max_gradients")
    return second.theta


def _run_anew(trajectory, arguments, interrupt) -> Trajectory:
    """A run from the same start; where kinks are followed, on the sides of the kinks that the first run begins on."""
    problem, dynamics, start = trajectory.problem, trajectory.dynamics, trajectory.run.snapshots[0]
    if arguments["kinks"] != "follow" or start["t"] != trajectory.t[0]:
        return run_from_state(problem, trajectory.states[0], dynamics, arguments, interrupt)
    stepper, make_point = _resumed(trajectory, start, arguments)
    outcome = drive(stepper, plan_of(problem, dynamics, arguments, trajectory.t), make_point, interrupt, start)
    return make_trajectory(problem, dynamics, arguments, outcome, stepper, trajectory.t)


def _run_of(trajectory) -> Run:
    if trajectory.run is None or not trajectory.run.snapshots:
        raise ValueError("this trajectory holds no state of its solver: it cannot be taken further; run it anew")
    return trajectory.run


def _resumed(trajectory, snapshot, arguments):
    stepper, make_point = stepper_at(
        trajectory.problem, trajectory.dynamics, snapshot["t"], snapshot["state"], arguments
    )
    stepper.restore(snapshot)
    return stepper, make_point
