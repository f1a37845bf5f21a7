"""The loop of a clocked run: one accepted step at a time, in phases, each with its clock and its stepper."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradflow.clocks.elapsed import Interval
from gradflow.clocks.kept import Kept
from gradflow.clocks.kinds import Normalised, log_difference
from gradflow.clocks.kink_log import KinkLog
from gradflow.clocks.locate import View, first_event, point_of
from gradflow.clocks.moment import Base, Moment, PolarBase, moved, polar_serves, polar_state
from gradflow.clocks.rule import Fixed
from gradflow.clocks.solver import make_stepper, stepping_clock
from gradflow.clocks.stall import FAST, LENGTHS, SHORTENS, VANISHES, WAITS, Watch, swiftness
from gradflow.clocks.targets import LN10
from gradflow.events import Raised
from gradflow.rest import Rest
from gradflow.status import Status

GROWTH = 3.0
RETIED, RETIED_EVERY = ("relative", "arc", "log_time"), 4
LOG_SMALL = float(np.log(1e-3))
FAR = 1e4
"""Fall of log L that is reckoned with where no end in the loss is given."""

LONGEST_LOG = 600.0
"""Log of the longest time in which a run is watched for rest."""

LONGEST_IN_POLAR = 0.75
"""Longest step while the direction stands still: its small components decay, and must keep their digits."""

COUNTS = ("gradients", "hessian_products", "accepted", "rejected")


@dataclass
class Plan:
    """What a clocked run is asked for: `series` of places to save, `ends` as (target, status)."""

    problem: Any
    dynamics: Any
    theta0: Any
    rule: Any
    solver: Any
    rtol: float
    atol: Any
    t_start: float
    events: list
    ends: list
    series: list
    keep_steps: int
    max_gradients: int
    max_seconds: float
    interrupt: Any
    at_branch: Any = None


@dataclass
class Phase:
    """A part of a run in one clock, with the moment it has come to."""

    clock: Any
    base: Base
    moment: Moment
    begin: float
    log_size: float
    coarse: bool = False
    worn: bool = False
    stepper: Any = None
    watch: Watch = field(default_factory=Watch)


@dataclass
class March:
    """A clocked run on its way."""

    plan: Plan
    crossings: list = field(default_factory=list)
    switches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    readings: list[float] = field(default_factory=list)
    steps: int = 0
    wound: int = 0

    def __post_init__(self):
        self.kept = Kept(max(self.plan.keep_steps, 4))
        self.log_size, self.interval, self.rest = 0.0, None, None
        if not any(target.kind == "log_elapsed" for target, _ in self.plan.ends):
            atol = 1e-2 * self.plan.rtol if self.plan.atol is None else self.plan.atol
            self.rest = Rest(0.0, self.plan.rtol, atol)
        self.kinks = KinkLog(self.plan.t_start)

    def run(self, start: Moment, base: Base, clock) -> Status:
        """Go from a start in a clock to an end."""
        with np.errstate(all="ignore"):
            return self._run(start, base, clock)

    def _run(self, start, base, clock) -> Status:
        began = time.monotonic()
        phase = self._begin(base, start, clock)
        self.log_size = phase.moment.log_size
        self._keep(phase, phase.moment)
        phase.moment = self.kept.rebased(phase.moment)
        status = self._already_there(phase)
        while status is None:
            phase = self._due(phase)
            status = self._attempt(phase)
            if status is None and self.plan.interrupt.raised:
                status = Status.INTERRUPTED
            elif status is None and time.monotonic() - began > self.plan.max_seconds:
                status = Status.WALL_CLOCK
        if status in (Status.GRADIENT_BUDGET, Status.WALL_CLOCK):
            self._tell_of_budget(phase)
        self._keep(phase, phase.moment)
        self._count(phase)
        self.counts["seconds"] = time.monotonic() - began
        return status

    @property
    def deep(self) -> bool:
        """Whether long plateaus may come after the first: a tiny start of a network of degree 3 or more."""
        degree = getattr(self.plan.problem.network, "degree", None)
        return degree is not None and degree >= 3 and self.log_size < LOG_SMALL

    def main_state(self, phase, moment) -> np.ndarray:
        """State of the dynamics at a moment, whatever the coordinates of the phase."""
        if isinstance(phase.base, PolarBase):
            return self.plan.dynamics.pack(self.plan.problem, phase.base.theta(moment.state))
        return moment.state

    def _already_there(self, phase) -> Status | None:
        """Reason not to set out."""
        moment = phase.moment
        if not (np.isfinite(moment.log_loss) or moment.log_loss == -np.inf) or not np.isfinite(moment.state).all():
            return Status.NOT_FINITE_START
        if moment.log_speed == -np.inf:
            self.notes.append("the gradient is exactly zero at the start: a stationary point never moves")
            return Status.STATIONARY
        point = point_of(self, phase, moment)
        self.readings = [event.measure(point) for event in self.plan.events]
        for target, status in self.plan.ends:
            if target.passed(moment):
                return status
        return None

    def _begin(self, base, moment, clock) -> Phase:
        """A phase in a clock from a moment on, in polar coordinates where that is the better way."""
        plan = self.plan
        base, moment = self._coordinates(base, moment, clock)
        aims = [target.value for target, _ in plan.ends if target.kind == "s"]
        aim = base.log_start - min(aims) if aims else moment.log_loss - FAR
        kinked = plan.at_branch is not None
        clock = stepping_clock(base, moment, clock, plan.solver, aim, kinked)
        moment = replace(moment, tau=clock.reading(moment))
        phase = Phase(clock, base, moment, moment.log_elapsed, moment.log_size)
        phase.stepper = make_stepper(phase, plan.solver, plan.rtol, self._atol(phase), None, self.deep, plan.at_branch)
        self.kinks.begin(phase.stepper, moment)
        if kinked and not clock.exact_time and base.log and base.symmetric:
            from gradflow.clocks.kinked import KinkedBase

            phase.base = KinkedBase(plan.problem, plan.dynamics, base.log_start, base.counts)
        elif kinked and clock.exact_time and hasattr(phase.stepper, "along_last_step"):
            from gradflow.clocks.kinked import FollowedBase

            phase.base = FollowedBase(base, phase.stepper)
        elif kinked and not clock.exact_time:
            self.notes.append(f"kinks are run over in {clock}: this flow follows them in 'time' and 'log_time' only")
        return phase

    def _coordinates(self, base, moment, clock):
        """The base and the moment in the coordinates that a clock takes."""
        plan = self.plan
        polar = polar_serves(plan.problem, plan.dynamics) and plan.at_branch is None
        if clock.name == "relative" and not isinstance(base, PolarBase) and polar:
            polar = PolarBase(plan.problem, plan.dynamics, base.log_start)
            state = polar_state(moment.state, 0.0)
            if not self.steps:
                state = polar_state(plan.theta0, clock.log10_scale * LN10)
            polar.counts = base.counts
            return polar, moved(polar.look(0.0, state), moment)
        if type(base) is not Base and (clock.name != "relative" or not isinstance(base, PolarBase)):
            plain = Base(plan.problem, plan.dynamics)
            plain.log_start, plain.counts = base.log_start, base.counts
            state = plan.dynamics.pack(plan.problem, base.theta(moment.state))
            return plain, moved(plain.look(0.0, state), moment)
        return base, moment

    def _retie(self, phase) -> None:
        """Go on with the tolerance tied to the size of the state now."""
        first = phase.stepper.t - phase.stepper.t_before
        self._count(phase)
        phase.log_size = phase.moment.log_size
        phase.stepper = make_stepper(
            phase, self.plan.solver, self.plan.rtol, self._atol(phase), first or None, self.deep, self.plan.at_branch
        )
        self.kinks.begin(phase.stepper, phase.moment)
        if hasattr(phase.base, "stepper"):
            phase.base.stepper = phase.stepper

    def _atol(self, phase):
        """Absolute tolerance as given, or tied to a size of the state.

        To its size now; in physical time to the size at the start, because what is still small then may grow later.
        """
        plan, state = self.plan, phase.moment.state
        if isinstance(phase.base, PolarBase):
            return 1e-2 * plan.rtol * (1.0 if phase.coarse else 1e-16)
        if plan.atol is not None:
            return plan.atol
        atol = 1e-2 * plan.rtol * plan.dynamics.scale(plan.problem, state)
        if phase.clock.exact_time and not phase.coarse:
            atol *= np.exp(np.clip(self.log_size - phase.moment.log_size, -600.0, 0.0))
        return float(atol[0]) if (atol == atol[0]).all() else atol

    def _due(self, phase) -> Phase:
        """The phase to go on in: another where the rule says so, or the same with a new tolerance."""
        change = self.plan.rule.change(self, phase)
        if change is not None:
            clock, why = change
            self.switches.append(f"{phase.clock} -> {clock} at {self._place(phase)}: {why}")
            self._count(phase)
            return self._begin(phase.base, phase.moment, clock)
        if phase.worn:
            self._wind_up(phase)
            return self._begin(phase.base, phase.moment, phase.clock)
        if self.plan.atol is None and not isinstance(phase.base, PolarBase) and phase.clock.name in RETIED:
            sizes = min(phase.moment.log_size, 0.0), min(phase.log_size, 0.0)
            if abs(sizes[0] - sizes[1]) > np.log(GROWTH) and self.steps % RETIED_EVERY == 0:
                self._retie(phase)
        return phase

    def _wind_up(self, phase) -> None:
        """Count what a stepper has spent whose clock is to start from 0 again, as a flow without an own time may."""
        if hasattr(phase.stepper, "message"):
            phase.stepper.message = ""
        self._count(phase)
        self.wound += 1
        told = f"{phase.clock} was wound up anew"
        self.notes = [note for note in self.notes if not note.startswith(told)]
        times = "once" if self.wound == 1 else f"{self.wound} times"
        self.notes.append(f"{told} {times}, where no step could be told from the time before it")

    def _place(self, phase) -> str:
        """Where a run is, in words."""
        moment = phase.moment
        return f"log10 t = {moment.log_elapsed / LN10:.6g}, log10 loss = {moment.log_loss / LN10:.6g}"

    def _tell_of_budget(self, phase) -> None:
        """Say what a budget went into, and what to try, where that is known."""
        if phase.clock.name in LENGTHS and isinstance(self.plan.rule, Fixed):
            self.notes.append(f"clock {phase.clock} at {self._place(phase)}: {SHORTENS}")
        elif phase.clock.exact_time and self.deep:
            self.notes.append(f"clock {phase.clock} at {self._place(phase)}: {WAITS}")

    def _count(self, phase) -> None:
        """Add what a stepper has spent."""
        for name in COUNTS:
            self.counts[name] += phase.stepper.counts.get(name, 0)
        said = [*getattr(phase.stepper, "notes", []), getattr(phase.stepper, "message", "")]
        self.notes += [note for note in said if note and note not in self.notes]
        for name, count in phase.base.counts.items():
            self.counts[name] += count
            phase.base.counts[name] = 0

    def _spent(self, phase) -> int:
        return self.counts["gradients"] + phase.base.counts["gradients"]

    def _tau_end(self, phase) -> float:
        """Where the stepper must not go past: just behind the end in a loss clock, at the end in a clock of time."""
        last, clock = np.inf, phase.clock
        if isinstance(phase.base, PolarBase):
            return phase.moment.tau + LONGEST_IN_POLAR
        for target, _ in self.plan.ends:
            if clock.by_descent and target.kind == "s" and not isinstance(clock, Normalised):
                ahead = clock.reading(replace(phase.moment, s=target.value)) - clock.reading(phase.moment)
                last = min(last, phase.moment.tau + 1.001 * max(ahead, 0.0) + 1e-9)
            elif clock.exact_time and target.kind == "log_elapsed":
                last = min(last, clock.tau_at(target.value, phase.begin))
        return last

    def _attempt(self, phase) -> Status | None:
        """A step; an error out of an event, or of a velocity in Python, ends the run and is noted."""
        try:
            return self._step(phase)
        except Raised as raised:
            self.notes.append(str(raised))
        except Exception as error:
            if self.plan.dynamics.compiled and self.plan.problem.kernel.compiled:
                raise
            self.notes.append(str(Raised(f"the velocity, from {self._place(phase)} on,", error)))
        return Status.FUNCTION_FAILED

    def _step(self, phase) -> Status | None:
        """One accepted step; the reason to end the run, if any."""
        plan, stepper = self.plan, phase.stepper
        accepted = stepper.counts["accepted"]
        budget = plan.max_gradients - self._spent(phase)
        if budget <= stepper.counts["gradients"]:
            return Status.GRADIENT_BUDGET
        status = stepper.advance(self._tau_end(phase), max_steps=1, max_gradients=budget)
        if stepper.counts["accepted"] == accepted:
            return self._no_step(phase, status)
        left, right = phase.base.ends(phase.clock, phase.moment, stepper)
        interval = Interval(phase.clock, phase.base, left, right, stepper.dense, phase.begin, 0.1 * plan.rtol)
        right = interval.right = interval.timed(right)
        self.interval = interval
        end = self._within(phase, View(phase.base, interval, stepper.dense))
        self.steps += 1
        self.kinks.step(stepper, left, right, right.tau if end is None else end[0].tau)
        if end is not None:
            phase.moment, status = end
            return status
        phase.moment = self.kept.rebased(right, interval)
        if right.log_loss == -np.inf:
            return self._rest(phase)
        if status not in (Status.PAUSED, Status.REACHED_END, Status.STIFF):
            return status
        return self._stalled(phase)

    def _rest(self, phase) -> Status:
        """The loss is exactly 0, and nothing moves any more: the rest of the time passes at once."""
        self.notes.append("the loss is exactly 0 at the end: its logarithm goes no further")
        times = [(target.value, status) for target, status in self.plan.ends if target.kind == "log_elapsed"]
        if not times:
            return Status.STATIONARY
        end, status = min(times)
        for series in self.plan.series:
            while series.next is not None and series.next.kind == "log_elapsed" and series.next.value < end:
                moment = at_rest(phase.moment, series.next.value)
                self._keep(phase, moment)
                phase.moment = self.kept.rebased(moment)
                series.advance()
        phase.moment = at_rest(phase.moment, end)
        return status

    def _no_step(self, phase, status) -> Status | None:
        """What it means that no step was accepted."""
        if status in (Status.PAUSED, Status.STIFF):
            return None
        if status in (Status.STEP_TOO_SMALL, Status.DIVERGED, Status.SOLVER_FAILED):
            if phase.clock.exact_time and phase.moment.tau > 0.0:
                phase.worn = True
                return None
            fine = isinstance(phase.base, PolarBase) or phase.clock.exact_time and self.log_size < phase.moment.log_size
            if fine and not phase.coarse:
                phase.coarse = True
                self._retie(phase)
                return None
            if phase.clock.by_descent and swiftness(phase.moment) > np.log(FAST):
                return self._leave(phase, VANISHES)
            self.notes.append(
                f"clock {phase.clock}: no step from {self._place(phase)}; in this clock the field is singular here:"
                " try clock='time' or 'log_time'"
            )
        return status

    def _within(self, phase, view) -> Any:
        """Saves, crossings and ends within the last step: (moment, status) of the end, or None."""
        passed = [pair for pair in self.plan.ends if pair[0].passed(view.right)]
        ends: list[Any] = [(view.find(target), status) for target, status in passed]
        terminal, crossings = first_event(self, phase, view)
        ends += [terminal] if terminal else []
        end = min(ends, key=lambda pair: pair[0].tau, default=None)
        last = view.right if end is None else end[0]
        self.crossings += [(self.steps, crossing) for tau, crossing in crossings if tau <= last.tau]
        found = []
        for series in self.plan.series:
            while series.next is not None and series.next.passed(last):
                if series.next.value > series.next.reading(self.kept.start):
                    found.append(view.find(series.next))
                series.advance()
        for moment in sorted(found, key=lambda moment: moment.tau):
            if end is None or moment.tau < last.tau:  # the end itself is kept when the run is over
                self._keep(phase, moment)
        if not self.plan.series and end is None:
            self.kept.add_step(view.right, phase.clock, self.main_state(phase, view.right))
        return end

    def _keep(self, phase, moment) -> None:
        self.kept.add(moment, phase.clock, self.main_state(phase, moment), self.interval)

    def _stalled(self, phase) -> Status | None:
        """Whether the run will not get on; in the automatic clock, a loss clock is left instead."""
        wants_loss = bool(self.plan.ends) and all(target.kind == "s" for target, _ in self.plan.ends)
        reason = phase.watch.verdict(phase, wants_loss, timed=self.rest is None)
        if reason is not None:
            return self._leave(phase, reason)
        return Status.STATIONARY if self._at_rest(phase) else None

    def _at_rest(self, phase) -> bool:
        """Whether a run without an end in time has come to rest, where the time since its start is a number."""
        moment, rest = phase.moment, self.rest
        if rest is None or not moment.log_elapsed < LONGEST_LOG or not rest.due(np.exp(moment.log_elapsed)):
            return False
        value = float(np.exp(moment.log_loss))
        if not rest.reached(np.exp(moment.log_elapsed), self.main_state(phase, moment), value, moment.speed):
            return False
        self.notes.append(rest.note(self.plan.t_start + np.exp(moment.log_elapsed)))
        return True

    def _leave(self, phase, reason) -> Status | None:
        """End the run for a reason, or go on in another clock where the rule may choose it."""
        if phase.clock.by_descent and self.plan.rule.retreat(reason):
            return None
        advice = "; try clock='time' or 'log_time'" if phase.clock.by_descent else ""
        self.notes.append(f"clock {phase.clock} at {self._place(phase)}: {reason}{advice}")
        return Status.STATIONARY


def at_rest(moment: Moment, log_elapsed: float) -> Moment:
    """A moment at which nothing moves, at a later time."""
    since = np.logaddexp(moment.log_since, log_difference(log_elapsed, moment.log_elapsed))
    return replace(moment, log_elapsed=log_elapsed, log_since=float(since))
