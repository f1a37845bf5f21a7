"""Trajectories from lanes: what a run in a lane leaves open is finished by the stepper of single runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradflow.clocks.asked import asks_for_a_clock
from gradflow.config import to_config
from gradflow.dynamics.flow import GradientFlow, typical
from gradflow.events import LossBelow
from gradflow.lanes.ensemble import lane_kernel, run_ensemble
from gradflow.lanes.memory import KEPT, NOW, START
from gradflow.loop import Outcome, drive
from gradflow.saving import grid_of, resolved, union
from gradflow.status import Status
from gradflow.steppers.adaptive import RESUMED
from gradflow.steppers.auto import stiff_gradients
from gradflow.steppers.choose import Named, make_stepper
from gradflow.threads import get_threads
from gradflow.trajectory import Trajectory

PAIRS = {"auto": "dop853", "dop853": "dop853", "rk45": "rk45"}
OPEN = (Status.PAUSED, Status.LOSS_BELOW, Status.STIFF)
"""Statuses of a lane that are not the end of its run, unless it is interrupted."""


def obstacle(problem, theta0, dynamics, arguments) -> str | None:
    """Why a batch cannot go in lanes, if it cannot."""
    solver, events, atol = arguments["solver"], arguments["events"], arguments["atol"]
    if not isinstance(dynamics, GradientFlow) or dynamics.rates is not None:
        return f"the dynamics {dynamics!r} is not the plain gradient flow"
    if problem.kernel.name != "torch" and lane_kernel(problem.kernel) is None:
        return f"there is no kernel of lanes for {problem.network} under the loss {problem.loss}"
    if not isinstance(solver, Named) or solver.name not in PAIRS:
        return f"the solver {solver} does not step in lanes; those that do: {', '.join(PAIRS)}"
    if len(events) > 1 or not all(type(event) is LossBelow for event in events):
        return "stops and events other than one gf.LossBelow look at every step"
    if any(asks_for_a_clock(problem, dynamics, row, arguments) for row in theta0):
        return "a run asks for a clock"
    save_at = arguments["save_at"]
    if not np.isfinite(arguments["t_end"]) or (isinstance(save_at, str) and save_at == "steps"):
        return "every step is to be saved: give t_end, and save_at as a number or a grid"
    if np.ndim(atol if atol is not None else 0.0) > 0:
        return "atol has one value per parameter"
    if np.isfinite(arguments["max_seconds"]):
        return "max_seconds is a limit for each run"
    if arguments["conserve"]:
        return "conserve = True puts the path of each run back by itself"
    if arguments["kinks"] not in ("none", "ignore"):
        return f"kinks = {arguments['kinks']!r} looks at every step"
    return None


def _taken_to_their_ends(problem, theta0, begin, end, options) -> Any:
    """Results of all runs: as a batch of tensors where torch computes the gradient, else in vector lanes."""
    kernel: Any = lane_kernel(problem.kernel)
    if kernel is not None:
        return run_ensemble(kernel, theta0, begin, end, threads=get_threads(), **options)
    from gradflow.kernels.torch_autograd import TorchObjective
    from gradflow.lanes.batched import run_batched

    objective = TorchObjective(problem.network, problem.loss, problem.x, problem.y, problem.device)
    return run_batched(objective, problem.decay, theta0, begin, end, **options)


@dataclass
class LaneEnd:
    """End of a run, as a stepper tells it."""

    t: float
    t_before: float
    counts: dict


class Lanes:
    """All runs of a batch in lanes, and the trajectories that come out of them."""

    def __init__(self, problem, theta0, dynamics, arguments, interrupt, show):
        begin, end, rtol = arguments["t_start"], arguments["t_end"], arguments["rtol"]
        self.problem, self.theta0, self.dynamics, self.interrupt = problem, np.array(theta0), dynamics, interrupt
        self.solver = arguments["solver"].name
        self.grid: Any = grid_of(arguments["save_at"], begin, end, dynamics)
        self.records = resolved(arguments["record"], self.grid, begin, end, dynamics)
        self.times = union(self.grid, self.records)
        given = arguments["atol"]
        self.atol = np.array([1e-2 * rtol * typical(row) if given is None else given for row in theta0])
        self.arguments = arguments

        def look(ended: int) -> Status | None:
            show(ended)
            return Status.INTERRUPTED if interrupt.raised else None

        began = time.monotonic()
        options = {
            "rtol": rtol,
            "atol": self.atol,
            "pair": PAIRS[self.solver],
            "save_at": self.times,
            "max_gradients": arguments["max_gradients"],
            "loss_below": max((event.level for event in arguments["events"]), default=-np.inf),
            "stiff_gradients": stiff_gradients(problem.kernel.flops) if self.solver == "auto" else np.inf,
            "look": look,
        }
        self.results = _taken_to_their_ends(problem, self.theta0, begin, end, options)
        records: Any = self.results.records
        unbegun = self.results.status == Status.PAUSED
        records["t"][unbegun, NOW], self.results.end[unbegun] = begin, self.theta0[unbegun]
        self.interrupted = interrupt.raised
        self.config: dict[str, Any] = {}
        self.seconds = (time.monotonic() - began) / max(1, records[:, NOW]["gradients"].sum())
        self.numbers = {which: records[:, which][[*RESUMED]].tolist() for which in (START, KEPT)}

    def unfinished(self) -> np.ndarray:
        """Runs that cannot wait: those that their lane left open; all, where records are to be taken."""
        if self.records:
            return np.arange(len(self.theta0))
        return np.flatnonzero(np.isin(self.results.status, () if self.interrupted else OPEN))

    def trajectory(self, run: int) -> Trajectory:
        """Trajectory of a run; finished here where the lane left it open."""
        from gradflow.simulate import run_one

        status = Status(self.results.status[run])
        arguments = self.arguments | {"atol": float(self.atol[run])}
        if status not in OPEN or self.interrupted or self.interrupt.raised:
            return self._trajectory(arguments, *self._closed(run, status))
        if self.results.records[run, KEPT]["accepted"] == 0:
            return run_one(self.problem, self.theta0[run], self.dynamics, self.arguments, self.interrupt)
        return self._finished(run, arguments)

    def _closed(self, run: int, status: Status):
        """Outcome and end of a run that its lane took to the end."""
        now, saves, end = self.results.records[run, NOW], self.results.saves[run], self.results.end[run]
        times, states = self.times[:saves], self.results.saved[run, :saves]
        if saves == 0 or times[-1] != now["t"]:
            times, states = np.append(times, now["t"]), np.concatenate([states, end[None]])
        counts = {name: int(now[name]) for name in ("gradients", "accepted", "rejected")}
        known = {Status.PAUSED: (), Status.NOT_FINITE_START: (KEPT,)}.get(status, (START, KEPT))
        snapshots = [self._snapshot(run, which) for which in known]
        status = Status.INTERRUPTED if status in OPEN else status
        outcome = Outcome(status, times, states, [], snapshots, self.seconds * counts["gradients"])
        return outcome, LaneEnd(float(now["t"]), float(now["t_before"]), counts | {"hessian_products": 0})

    def _snapshot(self, run: int, which: int) -> dict:
        """What a stepper of single runs needs to go on."""
        results = self.results
        state = self.theta0[run] if which == START else results.kept_state[run]
        velocity = results.start_velocity[run] if which == START else results.kept_velocity[run]
        numbers = dict(zip(RESUMED, self.numbers[which][run], strict=True))
        solver = {"solver": "Explicit"} if self.solver == "auto" else {}
        return numbers | solver | {"state": state, "velocity": velocity}

    def _finished(self, run: int, arguments: dict) -> Trajectory:
        """A run taken on from where its lane left it, by the stepper of single runs."""
        from gradflow.running import plan_of, point_maker

        snapshot = self._snapshot(run, KEPT)
        stepper = make_stepper(self.problem, self.dynamics, snapshot["t"], snapshot["state"], arguments)
        stepper.restore(snapshot)
        known = int(np.searchsorted(self.times, snapshot["t"], side="right"))
        plan = plan_of(self.problem, self.dynamics, arguments, self.times[known:])
        outcome = drive(stepper, plan, point_maker(self.problem, self.dynamics, stepper), self.interrupt)
        outcome.t = np.concatenate([self.times[:known], outcome.t])
        outcome.states = np.concatenate([self.results.saved[run, :known], outcome.states])
        outcome.snapshots = [self._snapshot(run, START), *outcome.snapshots]
        return self._trajectory(arguments, outcome, stepper)

    def _trajectory(self, arguments, outcome, end) -> Trajectory:
        from gradflow.running import make_trajectory

        arguments = arguments | {"record": self.records}
        known = dict(self.config)
        made = make_trajectory(self.problem, self.dynamics, arguments, outcome, end, self.grid, known)
        made.config["atol"] = to_config(self.arguments["atol"])
        self.config = dict(made.config)
        return made
