"""A clocked run once more: its states at other places, further on, or to a tighter tolerance.

A run is repeated from its start. Saving does not change the steps, so that the repetition is the same run.
"""

from __future__ import annotations

import numpy as np

from gradflow.clocks.run import clocked
from gradflow.clocks.targets import At, at
from gradflow.loop import Interrupt
from gradflow.status import Status
from gradflow.threads import single_blas_thread


def states_at(trajectory, **place) -> np.ndarray:
    """States (m, S), or (S,) for one place, in one of the variables of a run."""
    wanted = at(**place)
    ways = [getattr(trajectory, wanted.variable)[[0, -1]], np.array(wanted.values)[[0, -1]]]
    (first, last), (low, high) = (-way if "loss" in wanted.variable else way for way in ways)
    if low < first or high > last:
        begin, end = ways[0]
        raise ValueError(f"{wanted}: must lie within the run, {begin:.6g} to {end:.6g} in {wanted.variable}")
    again = same(trajectory, save_at=wanted)
    column = getattr(again, wanted.variable)
    nearest = [int(np.argmin(np.abs(np.where(np.isfinite(column), column, -1e300) - value))) for value in wanted.values]
    states = again.states[nearest]
    return states[0] if wanted.single else states


def same(trajectory, **changes):
    """The run made once more to its end, with other places to save."""
    arguments = trajectory.run.arguments
    ends = {} if arguments["events"] or arguments["t_end"] != np.inf else {"t_end": _own_end(trajectory)}
    return _repeated(trajectory, changes | ends)


def _own_end(trajectory) -> At:
    """The end of a run as a place, where the call that made it is not known any more."""
    record = trajectory.clocked
    if trajectory.status == Status.LOSS_BELOW:
        return At("s", (float(record.s[-1]),), True)
    return At("log10_t", (float(record.log10_t[-1]),), True)


def extended(trajectory, t_end, changes: dict):
    """The run taken to another end, with other stops."""
    arguments = trajectory.run.arguments
    longer = {"t_end": t_end, "max_seconds": np.inf} | changes
    if "max_gradients" in longer:
        longer["max_gradients"] += trajectory.counts["gradients"]
    return _repeated(trajectory, {key: longer.get(key, arguments[key]) for key in arguments})


def tightened_theta(trajectory, factor: float) -> np.ndarray:
    """Theta (T, P) of a run with tolerances times `factor`, at the same s, or the same times where s stands still."""
    arguments, record = trajectory.run.arguments, trajectory.clocked
    by_loss = (np.diff(record.s) > 1e-9 * np.maximum(record.s[1:], 1.0)).all()
    values = record.s if by_loss else record.log10_t
    save_at = At("s" if by_loss else "log10_t", tuple(values[1:-1].tolist()), False) if values.size > 2 else 2
    end = At("s" if by_loss else "log10_t", (float(values[-1]),), True)
    tighter = {
        "t_end": end,
        "events": [],
        "record": {},
        "save_at": save_at,
        "rtol": max(arguments["rtol"] * factor, 1e-13),
        "atol": None if arguments["atol"] is None else arguments["atol"] * factor,
        "max_gradients": 10 * arguments["max_gradients"],
    }
    second = _repeated(trajectory, tighter)
    if second.t.size != trajectory.t.size:
        raise RuntimeError(f"the run at rtol/10 ended early: {second.status}; raise max_gradients")
    return second.theta


def _repeated(trajectory, changes: dict):
    arguments = trajectory.run.arguments | changes
    with single_blas_thread(), Interrupt() as interrupt:
        return clocked(trajectory.problem, arguments["theta0"], trajectory.dynamics, arguments, interrupt)
