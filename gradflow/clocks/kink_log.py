"""What happens at the kinks of a run in a clock, told from stepper to stepper, in the clock and in physical time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gradflow.clocks.targets import LN10

if TYPE_CHECKING:
    from gradflow.branching import Kinks


class KinkLog:
    """Events at the kinks of one clocked run.

    A phase begins with a stepper of its own, which finds the pattern anew: only what differs from the pattern before is
    an event. Each event lies at an end of an accepted step, whose moments know all variables.
    """

    def __init__(self, t_start: float):
        self._t_start, self._known = t_start, False
        self._rows: list[tuple] = []
        self._places: list[tuple[float, float, float]] = []
        self._changes: list[tuple[float, int]] = []
        self._points: list = []
        self._regions: set[int] = set()
        self._sliding = np.zeros(0, dtype=np.int64)
        self._seen = self._branches = 0

    def begin(self, stepper, moment) -> None:
        """A stepper takes over at a moment; one that follows no kinks has no record."""
        record = getattr(stepper, "record", None)
        if record is None:
            return
        rows = record.since(0)
        if self._known:
            kinks, masks = stepper.sliding, stepper.masks
            ended, begun = np.setdiff1d(self._sliding, kinks), np.setdiff1d(kinks, self._sliding)
            rows = [record.row(0.0, "exit", kink, masks[kink]) for kink in ended]
            rows += [record.row(0.0, "slide", kink, masks[kink]) for kink in begun]
        self._known, self._seen, self._branches = True, len(record.since(0)), 0
        self._add(rows, moment, stepper)

    def step(self, stepper, left, right, last: float) -> None:
        """Take up what the last step has met, as far as the run goes: to the place `last` of the clock."""
        record = getattr(stepper, "record", None)
        if record is None:
            return
        for row in record.since(self._seen):
            moment = left if row[0] <= left.tau else right
            if moment.tau <= last:
                self._add([row], moment, stepper)
        self._seen = len(record.since(0))
        for branch in stepper.branch_points[self._branches :]:
            if branch.time <= last:
                self._points.append(replace(branch, time=self._time(right.log_elapsed)))
        self._branches = len(stepper.branch_points)
        self._sliding = stepper.sliding
        self._regions |= record.names

    def _time(self, log_elapsed) -> float:
        with np.errstate(over="ignore"):
            return self._t_start + float(np.exp(log_elapsed))

    def _add(self, rows, moment, stepper):
        """Append rows at a moment."""
        time = self._time(moment.log_elapsed)
        self._rows += [(time, *row[1:]) for row in rows]
        self._places += [(moment.log_elapsed / LN10, moment.s, moment.tau)] * len(rows)
        count = stepper.sliding.size
        if rows and (self._changes[-1][1] if self._changes else 0) != count:
            self._changes.append((time, count))
        self._sliding = stepper.sliding

    def told(self) -> Kinks | None:
        """What happened; None if no stepper followed kinks."""
        from gradflow.branching import Kinks
        from gradflow.kinks.record import EVENT

        if not self._known:
            return None
        times, counts = (np.array(column) for column in zip(*self._changes, strict=True)) if self._changes else ([], [])
        log10_t, s, tau = np.array(self._places, dtype=float).reshape(-1, 3).T
        return Kinks(
            np.array(self._rows, dtype=EVENT),
            np.array(times, dtype=float),
            np.array(counts, dtype=int),
            len(self._regions),
            self._points,
            log10_t,
            s,
            tau,
        )
