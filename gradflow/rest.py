"""Whether a run without an end time has come to rest, so that the stop it waits for cannot be reached any more."""

from __future__ import annotations

import math

import numpy as np

from gradflow.events import Event, ExcessLossBelow, LossBelow

DOUBLINGS, LOOKS = 6.0, 4
"""Doublings of the elapsed time, and looks at them, without progress: then the run is at rest."""
LONG = 12.0
"""Doublings over which a loss must have levelled off."""
WITHIN = 4.0
"""Tolerances within which a state at rest may wander."""
ROUNDING = 8.0 * np.finfo(float).eps
FALL = 0.9
"""A loss that falls by less than this factor while the time doubles is not on its way to 0."""
LEVELS, AHEAD = 0.75, 10.0
"""Ratio of one fall of the loss to the one before, as the time doubles, below which it levels off: what is ahead is
then at most 3 times the last fall; 10 are allowed."""
WANDERS = 1e-3
"""Displacement over speed times time below which a state wanders on the spot."""
STEADY = 0.95
"""Ratio of one mean speed to the one before, as the time doubles, from which a state is not on its way to rest."""
LOWER = 1e-6
"""Relative fall that makes one loss lower than another."""
DENSE_LIMIT = 500
"""Largest number of parameters for which the Hessian is made."""


class Rest:
    r"""Looks at a run whenever the time since its start has doubled.

    There is progress where the state has left a neighbourhood of the size of the tolerances, where its displacement in
    that neighbourhood still doubles with the time (a drift, as on a plateau, against wandering in rounding), where a
    flow is so slow that rounding would hide its drift as yet, or where the loss still falls by a constant factor. A
    loss that has risen meanwhile is rounding, and shows no progress.

    Where the stops are levels of the loss, a loss that levels off above them is the end too, though weights may go on
    towards infinity, ever more slowly: falls that shrink by a constant factor, as the time doubles, have a sum.

    Parameters
    ----------
    t_start : float
        Start of the run.
    rtol, atol : float, or array_like (S,)
        Tolerances of the run; 0 for discrete rules, which rest where rounding stops them.
    level : float
        Highest level of the loss that ends the run; infinite where something else may end it.

    Examples
    --------
    >>> import numpy as np
    >>> rest, tail = Rest(0.0, 1e-8, 1e-10), Rest(0.0, 1e-8, 1e-10)
    >>> any(rest.reached(2.0**k, np.ones(2), 0.5, 0.0) for k in range(9))
    True
    >>> any(tail.reached(2.0**k, np.ones(2), 0.5**k, 0.0) for k in range(1000))
    False
    """

    def __init__(self, t_start: float, rtol: float, atol, level: float = math.inf):
        self.t_start, self.rtol, self.atol, self.level = t_start, rtol, atol, level
        self.mark, self.looked, self.farthest = np.zeros(0), 0.0, 0.0
        self.last, self.pace = np.zeros(0), math.inf
        self.doublings, self.looks, self.levelled = 0.0, 0, 0.0
        self.least = self.before = self.fall = math.inf
        self.risen = False

    def due(self, t: float) -> bool:
        """Whether the time since the start has doubled since the last look."""
        elapsed = t - self.t_start
        return elapsed > 0.0 and elapsed >= 2.0 * self.looked

    def reached(self, t: float, state: np.ndarray, value: float, speed: float) -> bool:
        """Look, if it is time; whether nothing has got on for six doublings, or the loss levels off too high."""
        if not self.due(t):
            return False
        elapsed = t - self.t_start
        doublings = math.log2(elapsed) - math.log2(self.looked) if self.looked else 0.0
        since = elapsed - self.looked
        hidden = self.rtol > 0.0 and 0.0 < speed * elapsed <= ROUNDING * float(np.linalg.norm(state))
        too_high = self._levels_off(state, value, doublings, since, speed) and not hidden
        rests = self._rests(state, value, doublings, speed * since, hidden)
        self.looked, self.before, self.last = elapsed, value, state
        return rests or too_high

    def _rests(self, state, value, doublings, way, hidden) -> bool:
        """Whether the state is where it was, and the loss does not fall; `way`: speed times the time since."""
        self.risen = self.risen or value > self.before
        if not self._near(state):
            self.again()
            self.mark, self.least = state.copy(), value
            return False
        distance = float(np.linalg.norm(state - self.mark))
        drifts = distance > max(ROUNDING * float(np.linalg.norm(state)), 2.0 * self.farthest, WANDERS * way)
        falls = value < FALL * self.least and not self.risen
        self.farthest, self.least = max(distance, self.farthest), min(value, self.least)
        self.doublings, self.looks = (
            (0.0, 0) if drifts or falls or hidden else (self.doublings + doublings, self.looks + 1)
        )
        return self.doublings >= DOUBLINGS and self.looks >= LOOKS

    def _near(self, state) -> bool:
        """Whether the state is where it was at the mark, to within the tolerances."""
        if self.mark.size != state.size:
            return False
        allowed = np.maximum(WITHIN * (self.rtol * np.abs(state) + self.atol), ROUNDING * np.abs(state).max())
        return bool((np.abs(state - self.mark) <= allowed).all())

    def again(self) -> None:
        """Begin to wait anew."""
        self.mark, self.farthest, self.doublings, self.looks = np.zeros(0), 0.0, 0.0, 0
        self.risen = False

    def _levels_off(self, state, value, doublings, since, speed) -> bool:
        """Whether the falls of the loss have shrunk geometrically for long, towards a limit above the level.

        Not while the state gets on as fast as before, or faster, as it does on a plateau that it will leave.
        """
        fall, way = self.before - value, math.inf
        if self.last.size == state.size:
            way = float(np.linalg.norm(state - self.last))
        moves = way > max(ROUNDING * float(np.linalg.norm(state)), WANDERS * speed * since)
        if (moves and way > STEADY * self.pace * since) or (
            fall > ROUNDING * abs(value) and not fall < LEVELS * self.fall
        ):
            self.levelled = 0.0
        elif math.isfinite(self.fall):
            self.levelled += doublings
        self.pace = way / since
        if fall > ROUNDING * abs(value):
            self.fall = fall
        return self.levelled >= LONG and value - AHEAD * self.fall > self.level

    @property
    def exact(self) -> bool:
        """Whether the state has not moved at all, to rounding, since the mark."""
        return self.mark.size > 0 and self.farthest <= ROUNDING * float(np.linalg.norm(self.mark))

    def note(self, t: float) -> str:
        """What is said of a run that ends at rest."""
        if self.doublings >= DOUBLINGS:
            grew = f"neither the state nor the loss got on while the time grew {2.0**self.doublings:.3g}-fold"
        else:
            grew = f"the loss levels off at {self.before:.6g}, while the time grew {2.0**self.levelled:.3g}-fold"
        return f"at rest at t = {t:.6g}: {grew}; the stop that was asked for cannot be reached"


def level_of(events) -> float:
    """Highest level of the loss that ends a run; infinite where another event may end it."""
    levels = []
    for event in events:
        if isinstance(event, LossBelow):
            levels.append(event.level)
        elif isinstance(event, ExcessLossBelow) and event.minimum is not None:
            levels.append(event.minimum + event.level)
        elif not isinstance(event, Event) or event.terminal:
            return math.inf
    return max(levels, default=math.inf)


def leads_down(problem, theta) -> bool:
    """Whether some direction leads down from a stationary point: negative curvature, where the Hessian can be asked.

    Of a network of degree 3 or more the Hessian is no witness: it is 0 in the directions that leave a saddle.
    """
    if problem.network.kinked or problem.size > DENSE_LIMIT:
        return False
    curvatures = np.linalg.eigvalsh(problem.hessian(np.ascontiguousarray(theta)))
    return bool(curvatures[0] < -1e-9 * max(curvatures[-1], 0.0)) or lower_nearby(problem, theta)


def lower_nearby(problem, theta, floor: float = 0.0) -> bool:
    """Whether a short descent from displaced weights ends below one from `theta`, or that one below a supposed `floor`.

    For smooth networks of degree >= 3. At a minimum, degenerate or not, all come to the same loss.
    """
    if problem.network.kinked or (getattr(problem.network, "degree", None) or 0) < 3:
        return False
    aside = np.random.default_rng(0).normal(size=(2, problem.size)) * np.abs(theta).max() * np.array([[0.1], [0.5]])
    here, *there = (_descended(problem, start) for start in (theta, *(theta + aside)))
    return min(there) < (1.0 - LOWER) * here or here < (1.0 - LOWER) * floor


def _descended(problem, theta) -> float:
    """Loss after a short descent."""
    from scipy.optimize import minimize

    options = {"maxiter": 200, "gtol": 0.0, "ftol": 0.0}
    return float(minimize(problem.value_and_gradient, theta, jac=True, method="L-BFGS-B", options=options).fun)
