"""The loop of a run: slices of compiled steps, saves, events, caps and interrupts."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from gradflow.events import Crossing, Event, LossBelow, Point, Raised, crosses, guarded, locate
from gradflow.rest import Rest, leads_down
from gradflow.slicing import Mark, Slice
from gradflow.status import Status
from gradflow.steppers.saving import last_snapshot

MOST_SNAPSHOTS = 64
_SIGINT = int(signal.SIGINT)
_set_handler = import_module("_signal").signal
"""What ``signal.signal`` calls, without its search for an enum of the handler: 0.5 us instead of 7.5 to set and put
back, where the shortest call of simulate takes 160."""


class Plan(NamedTuple):
    """What a run is asked for, in the solver's terms."""

    t_end: float
    times: np.ndarray | None
    most_points: int
    events: Sequence
    max_gradients: int
    max_seconds: float
    mark_gradients: int
    first_steps: int
    progress: bool | None
    discrete: bool
    stochastic: bool
    rest: Rest | None = None


@dataclass
class Outcome:
    """What came out of the loop."""

    status: Status
    t: np.ndarray
    states: np.ndarray
    crossings: list[Crossing]
    snapshots: list[Any]
    seconds: float
    extra_gradients: int = 0
    notes: list[str] = field(default_factory=list)
    interrupt: Interrupt | None = None


class Interrupt:
    """Turns the first Ctrl-C into a flag, so that a run ends between two steps; a second one is raised at once."""

    passing = False
    """Whether the first one is raised at once too, because a partial run is of no use to the caller."""

    def __init__(self):
        self.raised = False
        self._previous = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread() and not Interrupt.passing:
            self._previous = _set_handler(_SIGINT, self._note)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            _set_handler(_SIGINT, self._previous)

    def _note(self, signum, frame):
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True


@contextmanager
def interrupts_raise():
    """Within it Ctrl-C is raised out of a run, instead of ending it with what it has."""
    before, Interrupt.passing = Interrupt.passing, True
    try:
        yield
    finally:
        Interrupt.passing = before


class Saves:
    """Saved states: on a given grid, or every accepted step, thinned to a bounded number."""

    def __init__(self, plan: Plan, size: int):
        self.grid = plan.times
        self.most = max(2 * plan.most_points, 4)
        self.rows = np.empty((0 if self.grid is None else self.grid.size, size))
        self.steps: list[tuple[float, np.ndarray]] = []
        self.stride, self.count = 1, 0

    def note_step(self, t: float, state: np.ndarray) -> None:
        """Keep a step, where there is no grid; drop every other one when there are too many."""
        if self.count % self.stride == 0:
            self.steps.append((t, state))
        self.count += 1
        if len(self.steps) > self.most:
            self.steps = self.steps[::2]
            self.stride *= 2

    def until(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Times and states saved up to t."""
        if self.grid is not None:
            reached = int(self.grid.searchsorted(t, side="right"))
            return self.grid[:reached], self.rows[:reached]
        kept = [(moment, state) for moment, state in self.steps if moment <= t]
        return np.array([moment for moment, _ in kept]), np.array([state for _, state in kept])


class Watch:
    """Caps and progress, looked at between slices."""

    def __init__(self, plan: Plan, interrupt: Interrupt, t_start: float):
        self.plan, self.interrupt, self.t_start = plan, interrupt, t_start
        self.began = time.monotonic()
        self.bar = _progress_bar(plan)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self.began

    def verdict(self, stepper) -> Status | None:
        """Status that ends the run now, if any."""
        if self.bar is not None and np.isfinite(self.plan.t_end):
            done = (stepper.t - self.t_start) / (self.plan.t_end - self.t_start)
            self.bar.update(round(100 * done, 1) - self.bar.n)
        if self.interrupt.raised:
            return Status.INTERRUPTED
        if self.seconds > self.plan.max_seconds:
            return Status.WALL_CLOCK
        return None

    def close(self):
        """End the progress bar."""
        if self.bar is not None:
            self.bar.close()


def drive(stepper, plan: Plan, make_point: Callable[..., Point], interrupt: Interrupt, start=None) -> Outcome:
    """Run a stepper to the end of its plan; `start`: its snapshot, or how to make it, where that is known."""
    watch = Watch(plan, interrupt, stepper.t)
    try:
        return _Drive(stepper, plan, make_point, watch, start or stepper.snapshot()).run()
    finally:
        watch.close()


class _Drive:
    """A stepper on its way: what it has saved, crossed and used so far."""

    def __init__(self, stepper, plan: Plan, make_point, watch: Watch, start):
        self.stepper, self.plan, self.make_point, self.watch = stepper, plan, make_point, watch
        state = stepper.state
        self.saves, self.snapshots = Saves(plan, state.size), [start]
        if plan.times is None:
            self.saves.note_step(stepper.t, state)
        self.crossings: list[Crossing] = []
        self.notes: list[str] = []
        self.extra = 0
        self.before: list[float] = []

    def run(self) -> Outcome:
        """To the first reason to end."""
        plan = self.plan
        if self.watch.interrupt.raised:
            return self._outcome(Status.INTERRUPTED)
        there = self._already_there() if plan.events else None
        if there is not None:
            return self._outcome(there)
        alone = len(plan.events) == 1 and isinstance(plan.events[0], LossBelow) and not plan.stochastic
        if (plan.events and not alone) or plan.times is None or plan.rest is not None:
            return self._step_by_step()
        status = self._in_slices(plan.events[0].level if alone else -np.inf)
        return self._outcome(status, self._crossed() if status == Status.LOSS_BELOW else None)

    def _already_there(self) -> Status | None:
        """Status of a stop whose condition holds at the start."""
        stepper = self.stepper
        start = self.make_point(stepper.t, stepper.state, stepper.value, stepper.velocity)
        self.before = [event.measure(start) for event in self.plan.events]
        for event, value in zip(self.plan.events, self.before, strict=True):
            if not isinstance(event, Event) and value <= 0.0:
                self.crossings, self.extra = [Crossing(event.name, start.t, np.array(start.theta))], start.gradients
                return event.status
        return None

    def _in_slices(self, level) -> Status:
        """Advance without looking at single steps; come back between slices for caps and interrupts."""
        stepper, plan, saves = self.stepper, self.plan, self.saves
        piece, mark = Slice(first=plan.first_steps), Mark(plan.mark_gradients, plan.max_gradients)
        counts, status = stepper.counts, Status.PAUSED
        mark.passed(counts)
        while True:
            left, budget = plan.max_seconds - self.watch.seconds, mark.budget
            steps = piece.next(counts["accepted"], left, at_mark=status == Status.GRADIENT_BUDGET)
            status = self._advanced(
                save_at=saves.grid, saved=saves.rows, max_gradients=budget, max_steps=steps, loss_below=level
            )
            ended = self.watch.verdict(stepper)
            if status != Status.PAUSED and (status != Status.GRADIENT_BUDGET or budget >= plan.max_gradients):
                return status
            if ended is not None:
                return ended
            counts = stepper.counts
            if status == Status.GRADIENT_BUDGET and mark.passed(counts):
                _keep_snapshot(self.snapshots, stepper)

    def _step_by_step(self) -> Outcome:
        """Advance one accepted step at a time, looking at every event after each."""
        stepper, plan, saves = self.stepper, self.plan, self.saves
        saved, mark = None if saves.grid is None else saves.rows, Mark(plan.mark_gradients, plan.max_gradients)
        mark.passed(stepper.counts)
        while True:
            budget, accepted = mark.budget, stepper.counts["accepted"]
            status = self._advanced(save_at=saves.grid, saved=saved, max_gradients=budget, max_steps=1)
            if stepper.counts["accepted"] > accepted:
                if plan.times is None:
                    saves.note_step(stepper.t, stepper.state)
                try:
                    end = self._crossed()
                except Raised as raised:
                    self.notes.append(str(raised))
                    return self._outcome(Status.FUNCTION_FAILED)
                if end is not None:
                    return self._outcome(end[1], end)
            if status == Status.GRADIENT_BUDGET and budget < plan.max_gradients:
                mark.passed(stepper.counts)
                status = Status.PAUSED
            if status == Status.PAUSED:
                status = self._rest() or self.watch.verdict(stepper) or status
            if status != Status.PAUSED:
                return self._outcome(status)
            if stepper.counts["accepted"] % 32 == 0:
                _keep_snapshot(self.snapshots, stepper)

    def _advanced(self, **limits) -> Status:
        """Status after more steps; an error out of a velocity in Python ends the run and is noted."""
        try:
            return self.stepper.advance(self.plan.t_end, **limits)
        except Exception as error:
            field = getattr(self.stepper, "field", None)
            if field is None or getattr(field, "compiled", True):
                raise
            self.notes.append(str(Raised(f"the velocity, from t = {self.stepper.t:.6g} on,", error)))
            return Status.FUNCTION_FAILED

    def _rest(self) -> Status | None:
        """STATIONARY where a run without an end time has come to rest."""
        rest, stepper = self.plan.rest, self.stepper
        if rest is None or not rest.due(stepper.t):
            return None
        with np.errstate(over="ignore"):
            if not rest.reached(stepper.t, stepper.state, stepper.value, float(np.linalg.norm(stepper.velocity))):
                return None
        point = self.make_point(stepper.t, stepper.state)
        if not rest.exact and leads_down(point.problem, point.theta):
            rest.again()
            return None
        self.notes.append(rest.note(stepper.t))
        return Status.STATIONARY

    def _crossed(self):
        """Crossings of the last step in order of time, up to the first terminal one, noted.

        Returns the end (t, status, state) of a terminal crossing or None.
        """
        stepper, plan, points = self.stepper, self.plan, []

        def at(t):
            if plan.discrete or t >= stepper.t:
                point = self.make_point(stepper.t, stepper.state, stepper.value, stepper.velocity)
            else:
                point = self.make_point(t, stepper.dense(t))
            points.append(point)
            return point

        now, found, end = at(stepper.t), [], None
        for index, event in enumerate(plan.events):
            with guarded(event, stepper.t):
                value = event.measure(now)
                if crosses(event, self.before[index], value):
                    t = stepper.t if plan.discrete else locate(event, at, stepper.t_before, stepper.t)
                    found.append((t, index, event))
            self.before[index] = value
        found.sort(key=lambda item: item[:2])
        for t, _, event in found:
            point = at(t)
            self.crossings.append(Crossing(event.name, point.t, np.array(point.theta)))
            if event.terminal:
                end = (point.t, event.status, np.array(point.state))
                break
        self.extra += sum(point.gradients for point in points)
        return end

    def _outcome(self, status, end=None) -> Outcome:
        """Saved points up to the end, and the end state itself as the last one."""
        t, state = (self.stepper.t, self.stepper.state) if end is None else (end[0], end[2])
        times, states = self.saves.until(t)
        if times.size and times[-1] == t:
            states[-1] = state
        else:
            times, states = np.append(times, t), np.concatenate([states.reshape(-1, state.size), state[None]])
        if end is None:
            self.snapshots.append(last_snapshot(self.stepper))
        rest = self.watch.seconds, self.extra, self.notes, self.watch.interrupt
        return Outcome(status, times, states, self.crossings, self.snapshots, *rest)


def _keep_snapshot(snapshots: list[dict], stepper) -> None:
    """Remember the stepper's state; keep every other snapshot when there are too many."""
    snapshots.append(stepper.snapshot())
    if len(snapshots) > MOST_SNAPSHOTS:
        del snapshots[1:-1:2]


def _progress_bar(plan: Plan):
    """A tqdm bar in percent of the time, where somebody watches; None else."""
    if plan.progress is False or (plan.progress is None and not sys.stderr.isatty()):
        return None
    from tqdm.auto import tqdm

    return tqdm(total=100.0, unit="%", delay=0 if plan.progress else 2.0, leave=False, desc="simulate")
