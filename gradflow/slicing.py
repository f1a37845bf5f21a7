"""How many steps a run takes between two looks at the clock; no number of a run depends on it."""

from __future__ import annotations

import time

LONGEST = 0.1
"""Seconds that a slice aims at, so that an interrupt is seen soon."""
GROWTH = 8
"""Largest factor from the steps of one slice to those of the next."""
MOST_AT_FIRST, STAGES = 512, 16
"""Largest first slice, and gradients of a step where nothing is known yet."""


def steps_at_first(cost: float) -> int:
    """Steps of the first slice, where a gradient takes about `cost` seconds: a short run comes back only once."""
    return min(MOST_AT_FIRST, max(1, int(LONGEST / (STAGES * cost))))


class Slice:
    """Numbers of steps for the slices of a run, from the seconds that the steps of the last slice took.

    Where a slice ends is the only thing that the clock decides: pausing never changes steps. What is kept of a run
    besides its steps (snapshots, the look for a state at rest) goes by steps and gradients alone.
    """

    def __init__(self, now=time.monotonic, first: int = 1):
        self._now = now
        self.steps, self._accepted, self._began = first, -1, 0.0

    def next(self, accepted: int, seconds_left: float, at_mark: bool = False) -> int:
        """Steps that the next slice may take, after `accepted` steps of the run; `seconds_left` bounds it too.

        A slice that ended early, but not at a mark, was broken off by a change of solver: the next is one step.
        """
        moment, taken = self._now(), accepted - self._accepted
        if self._accepted >= 0 and taken > 0:
            seconds = max(moment - self._began, 1e-9)
            aim = min(LONGEST, max(seconds_left, 0.0)) * taken / seconds
            changed = taken < self.steps and not at_mark
            self.steps = 1 if changed else int(max(1.0, min(aim, GROWTH * taken)))
        self._accepted, self._began = accepted, moment
        return self.steps


class Mark:
    """Budgets of gradients between two snapshots, by the modelled cost; doubled while a single step needs more."""

    def __init__(self, gradients: int, most: int):
        self._nominal, self._most = gradients, most
        self._size, self._accepted, self.budget = gradients, -1, 0

    def passed(self, counts: dict) -> bool:
        """Whether a run has come to the mark, which then moves on."""
        self._size = 2 * self._size if counts["accepted"] == self._accepted else self._nominal
        self._accepted = counts["accepted"]
        before, self.budget = self.budget, min(self._most, counts["gradients"] + self._size)
        return before > 0
