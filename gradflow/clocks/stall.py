"""Runs that would go on for ever: the infimum of the loss is above what was asked for."""

from __future__ import annotations

import numpy as np

from gradflow.clocks.moment import PolarBase
from gradflow.clocks.targets import LN10
from gradflow.losses import Exponential
from gradflow.rest import leads_down, lower_nearby

WINDOW, SHORT_WINDOW = 50, 10
RISES = 3
FAST = 1e3
STILL = 1e-12
DENSE_LIMIT = 500
FIRST_LOOK, LATER_LOOKS = 300, 1.5
"""Gradients until the Hessian is looked at for the first time, and the factor to the next times."""

LITTLE = 1e-2
"""Fall of log L that Newton's estimate must leave below for a minimum to be near."""

LENGTHS = ("relative", "arc")
FOLDED = 0.2
"""Displacement over length of a path below which it has turned back on itself."""
FOLDS, FOLDS_IN_TIME = 2, 10
"""Looks in succession at a folded path that end a run; more where a time is to be reached."""
FOLDS_BACK = (
    "the path turns back on itself and the loss no longer falls: the state is at rest to within the tolerances, what"
    " was asked for is not reached, and length goes no further; try clock='time' or 'log_time'"
)
SHORTENS = (
    "the budget went in ever shorter steps: near a saddle or a minimum length stands still while time passes; try"
    " clock='time' or 'log_time'"
)
WAITS = (
    "from a start this small the wait at each saddle is so long that holding still what is fitted takes most of the"
    " budget; a larger start meets the same saddles sooner, a looser rtol takes fewer steps"
)
VANISHES = "the gradient vanishes: the infimum of the loss is positive (data that are not separable), or a saddle"


class Watch:
    """Looks at a phase every few accepted steps, and says why it will not get on, or None."""

    def __init__(self):
        self._steps = self._rises = self._folds = 0
        self._before, self._next_look = None, FIRST_LOOK

    def verdict(self, phase, wants_loss: bool, timed: bool) -> str | None:
        """The reason to leave this phase; `wants_loss`: the run ends at a loss only; `timed`: it may end at a time."""
        self._steps += 1
        spent = phase.stepper.counts["gradients"] + phase.base.counts["gradients"]
        if wants_loss and spent >= self._next_look:
            self._next_look = LATER_LOOKS * spent
            floor = floor_of_loss(phase)
            if floor is not None:
                return f"a minimum is near, at log10 loss = {floor / LN10:.6g}: its infimum is above what was asked for"
        if self._steps % (SHORT_WINDOW if phase.clock.by_descent or phase.clock.name in LENGTHS else WINDOW):
            return None
        moment, before = phase.moment, self._before
        self._before = moment
        if before is None:
            return None
        if phase.clock.by_descent:
            return self._too_fast(phase, before)
        if phase.clock.name in LENGTHS:
            return self._folded(phase, before, FOLDS_IN_TIME if timed else FOLDS)
        return self._at_rest(phase, before) if wants_loss and phase.clock.exact_time else None

    def _too_fast(self, phase, before) -> str | None:
        """A loss clock in which the path becomes ever faster: the gradient vanishes at a positive loss."""
        now, then = swiftness(phase.moment), swiftness(before)
        self._rises = self._rises + 1 if now > np.log(FAST) and now > then else 0
        return VANISHES if self._rises >= RISES else None

    def _folded(self, phase, before, patience) -> str | None:
        """A clock of length at a minimum: every step goes through the tolerated neighbourhood, and comes back."""
        moment = phase.moment
        length = moment.tau - before.tau
        if phase.clock.name == "relative" and not isinstance(phase.base, PolarBase):
            length *= np.exp(moment.log_size)
        folded = np.linalg.norm(moment.state - before.state) < FOLDED * length and stands_still(moment, before)
        self._folds = self._folds + 1 if folded else 0
        return FOLDS_BACK if self._folds >= patience else None

    def _at_rest(self, phase, before) -> str | None:
        """A minimum in physical time: the loss no longer moves, and no direction leads down."""
        moment = phase.moment
        still = stands_still(moment, before)
        later = moment.log_elapsed - before.log_elapsed > np.log(1.5)
        if not (still and later) or isinstance(phase.base, PolarBase) or moment.state.size > DENSE_LIMIT:
            return None
        theta = np.ascontiguousarray(phase.base.theta(moment.state))
        if leads_down(phase.base.problem, theta):
            return None
        return "the loss no longer moves, and no direction leads down: its infimum is above what was asked for"


def floor_of_loss(phase) -> float | None:
    r"""log L at a minimum nearby, by Newton's estimate :math:`g^T H^{-1} g/2`, or None.

    With g = grad log L and H = (Hess L)/L. On an exponential tail the estimate is 1/2 and never small. At a saddle some
    curvature is negative however small g is, or, from degree 3 on, zero: then a descent from displaced weights finds
    the way down. On the first plateau g itself lies in such directions. Not asked once every sample is fitted: then the
    loss can fall to 0.
    """
    base, moment = phase.base, phase.moment
    plain = base.log and (base.symmetric or isinstance(base, PolarBase))
    known = plain and base.kernel.product is not None and moment.state.size <= DENSE_LIMIT
    if not known or (base.tailed and moment.log_loss < log_fitted(base.problem)):
        return None
    theta = np.ascontiguousarray(base.theta(moment.state))
    _, g = base.problem.log_value_and_gradient(theta)
    along = float(g @ base.problem.log_hvp(theta, g)) + float(g @ g) ** 2
    base.counts["hessian_products"] += 1
    if float(g @ g) ** 2 > 2.0 * LITTLE * along:
        return None
    base.counts["hessian_products"] += g.size
    curvatures, directions = np.linalg.eigh(base.hessian(theta) + np.outer(g, g))
    parts, top = (directions.T @ g) ** 2, curvatures[-1]
    curved = curvatures > 1e-12 * top
    if not top > 0.0 or parts[~curved].sum() > 1e-2 * parts.sum():
        return None
    if curvatures[0] < -10.0 * np.sqrt(parts.sum()) / np.exp(moment.log_size) - 1e-9 * top:
        return None
    fall = 0.5 * float(np.sum(parts[curved] / curvatures[curved]))
    if not fall < LITTLE or lower_nearby(base.problem, theta, float(np.exp(moment.log_loss - LITTLE))):
        return None
    return moment.log_loss - fall


def stands_still(moment, before) -> bool:
    """Whether the loss has not moved from one moment to another, to rounding."""
    return abs(moment.s - before.s) < STILL * max(1.0, abs(moment.log_loss))


def log_fitted(problem) -> float:
    """Log of the loss at which the sum over samples equals that of one sample of zero margin."""
    zero_margin = 0.0 if isinstance(problem.loss, Exponential) else float(np.log(np.log(2.0)))
    return zero_margin + float(np.log(problem.loss.factor(problem.n)))


def swiftness(moment) -> float:
    """log of |dtheta|/|theta| per unit of log(1 + s)."""
    return float(np.log1p(max(moment.s, 0.0)) + moment.log_speed - moment.log_descent - moment.log_size)
