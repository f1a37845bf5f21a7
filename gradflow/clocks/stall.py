"""Runs that would go on for ever: the infimum of the loss is above what was asked for."""

from __future__ import annotations

import numpy as np

from gradflow.clocks.moment import PolarBase

WINDOW, SHORT_WINDOW = 50, 10
RISES = 3
FAST = 1e3
STILL = 1e-12
DENSE_LIMIT = 500
VANISHES = "the gradient vanishes: the infimum of the loss is positive (data that are not separable), or a saddle"


class Watch:
    """Looks at a phase every few accepted steps, and says why it will not get on, or None."""

    def __init__(self):
        self._steps = self._rises = 0
        self._before = None

    def verdict(self, phase, wants_loss: bool) -> str | None:
        """The reason to leave this phase; `wants_loss`: the run ends at a loss, not at a time."""
        self._steps += 1
        if self._steps % (SHORT_WINDOW if phase.clock.by_descent else WINDOW):
            return None
        moment, before = phase.moment, self._before
        self._before = moment
        if before is None:
            return None
        if phase.clock.by_descent:
            return self._too_fast(phase, before)
        return self._at_rest(phase, before) if wants_loss and phase.clock.exact_time else None

    def _too_fast(self, phase, before) -> str | None:
        """A loss clock in which the path becomes ever faster: the gradient vanishes at a positive loss."""
        now, then = swiftness(phase.moment), swiftness(before)
        self._rises = self._rises + 1 if now > np.log(FAST) and now > then else 0
        return VANISHES if self._rises >= RISES else None

    def _at_rest(self, phase, before) -> str | None:
        """A minimum in physical time: the loss no longer moves, and no direction leads down."""
        moment = phase.moment
        still = abs(moment.s - before.s) < STILL * max(1.0, abs(moment.log_loss))
        later = moment.log_elapsed - before.log_elapsed > np.log(1.5)
        if not (still and later) or isinstance(phase.base, PolarBase) or moment.state.size > DENSE_LIMIT:
            return None
        theta = np.ascontiguousarray(phase.base.theta(moment.state))
        curvatures = np.linalg.eigvalsh(phase.base.problem.hessian(theta))
        if curvatures[0] < -1e-9 * max(curvatures[-1], 0.0):
            return None
        return "the loss no longer moves, and no direction leads down: its infimum is above what was asked for"


def swiftness(moment) -> float:
    """log of |dtheta|/|theta| per unit of log(1 + s)."""
    return float(np.log1p(max(moment.s, 0.0)) + moment.log_speed - moment.log_descent - moment.log_size)
