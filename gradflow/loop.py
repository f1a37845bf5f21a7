"""The loop of a run: slices of compiled steps, saves, events, caps and interrupts."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gradflow.events import Crossing, Event, LossBelow, Point, crosses, locate
from gradflow.status import Status

SLICE_SECONDS = 0.15
MOST_SNAPSHOTS = 64
MOST_STEPS = 2**62


@dataclass(frozen=True)
class Plan:
    """What a run is asked for, in the solver's terms."""

    t_end: float
    times: np.ndarray | None
    most_points: int
    events: Sequence
    max_gradients: int
    max_seconds: float
    slice_gradients: int
    progress: bool | None
    discrete: bool
    stochastic: bool


@dataclass
class Outcome:
    """What came out of the loop."""

    status: Status
    t: np.ndarray
    states: np.ndarray
    crossings: list[Crossing]
    snapshots: list[dict]
    seconds: float
    extra_gradients: int = 0
    notes: list[str] = field(default_factory=list)


class Interrupt:
    """Turns the first Ctrl-C into a flag, so that a run ends between two steps; a second one is raised at once."""

    passing = False
    """Whether the first one is raised at once too, because a partial run is of no use to the caller."""

    def __init__(self):
        self.raised = False
        self._previous = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread() and not Interrupt.passing:
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

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


class Slice:
    """Budgets of gradients between two looks at the clock; doubled while a single step needs more."""

    def __init__(self, plan: Plan):
        self.plan, self.size, self.accepted = plan, plan.slice_gradients, -1

    def budget(self, stepper) -> int:
        """Bound on the stepper's gradients for the next slice."""
        counts = stepper.counts
        self.size = 2 * self.size if counts["accepted"] == self.accepted else self.plan.slice_gradients
        self.accepted = counts["accepted"]
        return min(self.plan.max_gradients, counts["gradients"] + self.size)


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


def drive(stepper, plan: Plan, make_point: Callable[..., Point], interrupt: Interrupt) -> Outcome:
    """Run a stepper to the end of its plan."""
    state = stepper.state
    saves, watch = Saves(plan, state.size), Watch(plan, interrupt, stepper.t)
    snapshots = [stepper.snapshot()]
    if plan.times is None:
        saves.note_step(stepper.t, state)
    if interrupt.raised:
        return _outcome(stepper, plan, saves, snapshots, watch, Status.INTERRUPTED, [], 0)
    alone = len(plan.events) == 1 and isinstance(plan.events[0], LossBelow) and not plan.stochastic
    try:
        before: list[float] = []
        if plan.events:
            start = make_point(stepper.t, stepper.state, stepper.value, stepper.velocity)
            before = [event.measure(start) for event in plan.events]
        for event, value in zip(plan.events, before, strict=True):
            if not isinstance(event, Event) and value <= 0.0:
                crossing = Crossing(event.name, start.t, np.array(start.theta))
                return _outcome(stepper, plan, saves, snapshots, watch, event.status, [crossing], start.gradients)
        if (plan.events and not alone) or plan.times is None:
            return _step_by_step(stepper, plan, make_point, saves, watch, snapshots, before)
        status = _in_slices(stepper, plan, saves, watch, snapshots, plan.events[0].level if alone else -np.inf)
        if status != Status.LOSS_BELOW:
            return _outcome(stepper, plan, saves, snapshots, watch, status, [], 0)
        end, crossings, extra = _locate_all(stepper, plan, make_point, before, plan.events)
        return _outcome(stepper, plan, saves, snapshots, watch, status, crossings, extra, end)
    finally:
        watch.close()


def _in_slices(stepper, plan, saves, watch, snapshots, level) -> Status:
    """Advance without looking at single steps; come back between slices for caps and interrupts."""
    piece = Slice(plan)
    while True:
        budget = piece.budget(stepper)
        status = stepper.advance(
            plan.t_end, save_at=saves.grid, saved=saves.rows, max_gradients=budget, loss_below=level
        )
        ended = watch.verdict(stepper)
        if status != Status.PAUSED and (status != Status.GRADIENT_BUDGET or budget >= plan.max_gradients):
            return status
        if ended is not None:
            return ended
        _keep_snapshot(snapshots, stepper)


def _step_by_step(stepper, plan, make_point, saves, watch, snapshots, before) -> Outcome:
    """Advance one accepted step at a time, looking at every event after each."""
    crossings: list[Crossing] = []
    extra = 0
    piece = Slice(plan)
    while True:
        budget = piece.budget(stepper)
        accepted = stepper.counts["accepted"]
        status = stepper.advance(
            plan.t_end,
            save_at=saves.grid,
            saved=saves.rows if saves.grid is not None else None,
            max_gradients=budget,
            max_steps=1,
        )
        if stepper.counts["accepted"] > accepted:
            if plan.times is None:
                saves.note_step(stepper.t, stepper.state)
            end, found, more = _locate_all(stepper, plan, make_point, before, plan.events)
            crossings += found
            extra += more
            if end is not None:
                return _outcome(stepper, plan, saves, snapshots, watch, end[1], crossings, extra, end)
        if status == Status.GRADIENT_BUDGET and budget < plan.max_gradients:
            status = Status.PAUSED
        ended = watch.verdict(stepper)
        if status != Status.PAUSED or ended is not None:
            final = status if status != Status.PAUSED else ended
            return _outcome(stepper, plan, saves, snapshots, watch, final, crossings, extra)
        if stepper.counts["accepted"] % 32 == 0:
            _keep_snapshot(snapshots, stepper)


def _locate_all(stepper, plan, make_point, before: list[float], events):
    """Crossings of the last step in order of time, up to the first terminal one; `before` moves on to the new values.

    Returns the end (t, status, state) of a terminal crossing or None, the crossings, and the gradients they cost.
    """
    points: list[Point] = []

    def at(t):
        if plan.discrete or t >= stepper.t:
            point = make_point(stepper.t, stepper.state, stepper.value, stepper.velocity)
        else:
            point = make_point(t, stepper.dense(t))
        points.append(point)
        return point

    now = at(stepper.t)
    found = []
    for index, event in enumerate(events):
        value = event.measure(now)
        if crosses(event, before[index], value):
            t = stepper.t if plan.discrete else locate(event, at, stepper.t_before, stepper.t)
            found.append((t, index, event))
        before[index] = value
    found.sort(key=lambda item: item[:2])
    crossings, end = [], None
    for t, _, event in found:
        point = at(t)
        crossings.append(Crossing(event.name, point.t, np.array(point.theta)))
        if event.terminal:
            end = (point.t, event.status, np.array(point.state))
            break
    return end, crossings, sum(point.gradients for point in points)


def _keep_snapshot(snapshots: list[dict], stepper) -> None:
    """Remember the stepper's state; keep every other snapshot when there are too many."""
    snapshots.append(stepper.snapshot())
    if len(snapshots) > MOST_SNAPSHOTS:
        del snapshots[1:-1:2]


def _outcome(stepper, plan, saves, snapshots, watch, status, crossings, extra, end=None) -> Outcome:
    """Saved points up to the end, and the end state itself as the last one."""
    t, state = (stepper.t, stepper.state) if end is None else (end[0], end[2])
    times, states = saves.until(t)
    if times.size and times[-1] == t:
        states[-1] = state
    else:
        times, states = np.append(times, t), np.concatenate([states.reshape(-1, state.size), state[None]])
    if end is None:
        snapshots.append(stepper.snapshot())
    return Outcome(status, times, states, crossings, snapshots, watch.seconds, extra)


def _progress_bar(plan: Plan):
    """A tqdm bar in percent of the time, where somebody watches; None else."""
    if plan.progress is False or (plan.progress is None and not sys.stderr.isatty()):
        return None
    from tqdm.auto import tqdm

    return tqdm(total=100.0, unit="%", delay=0 if plan.progress else 2.0, leave=False, desc="simulate")
