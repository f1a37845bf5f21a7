"""The automatic clock: physical time wherever it can be represented, another only where the field changes variables."""

from __future__ import annotations

import numpy as np

from gradflow.clocks.kinds import LogLoss, LogTime, Relative, Time
from gradflow.clocks.moment import has_tail
from gradflow.clocks.stall import log_fitted
from gradflow.losses import Square

TINY = 1e-6
SMALL = 1e-3
ESCAPED = 0.9
LONG = 1e6


class Fixed:
    """A clock that the user has chosen: it is never overridden."""

    def __init__(self, clock):
        self.first = clock

    def change(self, march, phase):
        """Never."""
        return None

    def retreat(self, note) -> bool:
        """Never."""
        return False


class Automatic:
    """The rule: relative before the first escape from a tiny start, log loss once every sample is fitted, log time for
    long horizons of other losses and after long plateaus, physical time else.
    """

    def __init__(self, problem, dynamics, theta0, log10_horizon: float):
        self._tail = has_tail(problem, dynamics)
        self._horizon = log10_horizon
        self._square = isinstance(problem.loss, Square)
        self._fitted = log_fitted(problem) if self._tail else -np.inf
        self._why: str | None = None
        self.first = self._start(problem, theta0)

    def _start(self, problem, theta0):
        """Relative for a tiny start of a homogeneous network, physical time else."""
        degree, size = getattr(problem.network, "degree", None), float(np.linalg.norm(theta0))
        degree = 0 if degree is None else degree
        tiny = degree >= 2 and 0.0 < size < (SMALL if degree >= 3 else TINY)
        return Relative() if tiny else self._ordinary()

    def _ordinary(self):
        """The clock of an ordinary start."""
        return LogTime() if not self._tail and self._horizon > np.log10(LONG) else Time()

    def change(self, march, phase):
        """(clock, why) if another clock is due."""
        if self._why is not None:
            why, self._why = self._why, None
            return Time(), why
        moment, name = phase.moment, phase.clock.name
        if not phase.clock.by_descent and moment.log_loss < self._fitted:
            return LogLoss(), "every sample is fitted: the loss falls like an exponential of the margins"
        if name == "relative" and moment.s > -np.log(ESCAPED):
            long = not self._tail and moment.log_elapsed > np.log(LONG)
            return LogTime() if long else Time(), "the first plateau is left"
        return None

    def retreat(self, note) -> bool:
        """Leave the loss clock for good."""
        self._fitted = -np.inf
        self._why = note
        return True
