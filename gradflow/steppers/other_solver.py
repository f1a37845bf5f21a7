"""Solvers of other libraries as steppers: the loop over their steps, counts, budgets, saved states."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradflow.status import Status
from gradflow.steppers.saving import UNLIMITED, save_arrays, start_vector, times_inside

Velocity = Callable[[float, np.ndarray, np.ndarray], float]
Jacobian = Callable[[float, np.ndarray], Any] | None

_LEAST_RTOL = 2.3e-14


class Halt(Exception):
    """Leave a solver from inside a callback, or report its failure. DIVERGED at a time t asks for a shorter step."""

    def __init__(self, status: Status, message: str = "", t: float = math.nan) -> None:
        super().__init__(message)
        self.status, self.message, self.t = status, message, t


class Step(NamedTuple):
    """Last accepted step; before the first one both ends coincide."""

    t_before: float
    state_before: np.ndarray
    t: float
    state: np.ndarray


class Evaluation(NamedTuple):
    """One call of the field."""

    t: float
    state: np.ndarray
    value: float
    velocity: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether objective and velocity are finite."""
        return bool(np.isfinite(self.value) and np.isfinite(self.velocity).all())


class OtherSolver:
    """What the solvers of other libraries share: the loop over steps, counts, budgets, saved states.

    A solver left in the middle of a step (budget, interrupt, velocity not finite) starts anew from the last accepted
    state, which is never lost. A velocity that is not finite shortens the trial step, up to 20 times in a row.
    ``counts`` holds "gradients" (calls of the field), "hessian_products" (S for each call of ``jacobian``), "accepted"
    steps (one that t_end divides is two) and "rejected" ones (0 where the library does not tell); ``message`` is what
    the solver said at the end.
    """

    _step: Callable[[float, np.ndarray, float | None], None]
    _inside: Callable[[np.ndarray], np.ndarray]
    _drop: Callable[[], None]
    _forget: Callable[[], None]
    _trials = 20
    _same_time = 0
    _reserve = 0

    def __init__(
        self, field: Velocity, t: float, state: Any, rtol: float, atol: Any, jacobian: Jacobian = None
    ) -> None:
        start = start_vector(state)
        self.field = field
        self.rtol, self.atol = tolerances(rtol, atol, start.size)
        self.jacobian: Any = jacobian
        self.counts = {"gradients": 0, "hessian_products": 0, "accepted": 0, "rejected": 0}
        self.message = ""
        self._budget = UNLIMITED
        self._dearest = 0
        self._evaluated: Evaluation | None = None
        self._at_state: Evaluation | None = None
        self._place(float(t), start)

    @property
    def t(self) -> float:
        """Time after the last accepted step."""
        return self._last.t

    @property
    def state(self) -> np.ndarray:
        """State after the last accepted step, a copy."""
        return self._last.state.copy()

    @property
    def t_before(self) -> float:
        """Time before the last accepted step."""
        return self._last.t_before

    @property
    def state_before(self) -> np.ndarray:
        """State before the last accepted step, a copy."""
        return self._last.state_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state; costs one gradient where the solver did not evaluate it there."""
        return self._here().value

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy; costs as ``value`` does, once for both."""
        return self._here().velocity.copy()

    def advance(
        self,
        t_end: float,
        *,
        save_at: Any = None,
        saved: Any = None,
        max_gradients: int = UNLIMITED,
        max_steps: int = UNLIMITED,
        loss_below: float = -math.inf,
    ) -> Status:
        """Step until t_end or another reason to stop; parameters and statuses are those of ``Explicit.advance``.

        A step that may break ``max_gradients``, being as dear as the dearest so far, is not begun; a step that does
        break it is given up. ``loss_below`` costs one gradient a step where the
        solver does not evaluate the end of its steps. SOLVER_FAILED is one more status; ``message`` says more.

        Raises
        ------
        ValueError
            If t_end lies before t, or ``saved`` does not fit.
        """
        t_end = float(t_end)
        if not t_end >= self.t:
            raise ValueError(f"t_end = {t_end} lies before t = {self.t}: a stepper goes forward; give a later t_end")
        times, saved = save_arrays(save_at, saved, self._last.state.size)
        self.message = ""
        self._budget = int(max_gradients) - self._reserve
        try:
            with np.errstate(all="ignore"):
                return self._run(t_end, times, saved, max_steps, loss_below)
        except Halt as halt:
            self.message = halt.message
            return halt.status
        finally:
            self._budget = UNLIMITED

    def _run(self, t_end, times, saved, max_steps, loss_below) -> Status:
        """Loop over steps."""
        if self.counts["accepted"] == 0 and not (np.isfinite(self._last.state).all() and self._here().finite):
            return Status.NOT_FINITE_START
        first, steps = int(np.searchsorted(times, self.t_before)), 0
        while True:
            reached = int(np.searchsorted(times, self.t, side="right"))
            if reached > first:
                saved[first:reached] = self._states(times[first:reached])
                first = reached
            if loss_below > -math.inf and self._here().value < loss_below:
                return Status.LOSS_BELOW
            if self.t >= t_end:
                return Status.REACHED_END
            if steps >= max_steps:
                return Status.PAUSED
            if self.counts["gradients"] + max(self._dearest, 1) > self._budget:
                return Status.GRADIENT_BUDGET
            before = self.counts["gradients"]
            self._accepted_step(t_end, times)
            self._dearest = max(self._dearest, self.counts["gradients"] - before)
            steps += 1

    def _accepted_step(self, t_end, times) -> None:
        """Take one step, tried from ever shorter first steps while the velocity is not finite."""
        failure, shorter = Halt(Status.DIVERGED), math.inf
        for trial in range(self._trials):
            try:
                return self._step(t_end, times, shorter if trial else None)
            except Halt as halt:
                self._drop()
                if halt.status == Status.GRADIENT_BUDGET or (trial == 0 and halt.status != Status.DIVERGED):
                    raise
                if halt.status != Status.DIVERGED:
                    break
                failure = halt
            except BaseException:
                self._drop()
                raise
            reach = failure.t - self.t if failure.t > self.t else self.t - self.t_before
            shorter = 0.1 * min(reach if reach > 0.0 else max(abs(self.t), 1.0), shorter)
        raise failure

    def dense(self, t: Any) -> np.ndarray:
        """State (S,) at a time, or states (m, S) at increasing times, from ``t_before`` to ``t``.

        Raises
        ------
        ValueError
            If a time lies outside.
        """
        times = times_inside(t, self.t_before, self.t)
        with np.errstate(all="ignore"):
            states = self._states(times)
        return states if np.ndim(t) else states[0]

    def _states(self, times: np.ndarray) -> np.ndarray:
        """States at times of the last step, outside the budget; its two ends are exact."""
        states = np.empty((times.size, self._last.state.size))
        states[times == self.t_before] = self._last.state_before
        states[times == self.t] = self._last.state
        inner = (times > self.t_before) & (times < self.t)
        if inner.any():
            budget, self._budget = self._budget, UNLIMITED
            try:
                states[inner] = self._inside(times[inner])
            finally:
                self._budget = budget
        return states

    def snapshot(self) -> dict[str, Any]:
        """Time, state (a copy) and counts: what a new start needs. The solver's own memory is not in it."""
        return {"t": self.t, "state": self.state, **self.counts}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Start anew from a snapshot, counts included: the run goes on within tolerance, not bit for bit."""
        state = np.array(snapshot["state"], dtype=np.float64)
        if state.shape != self._last.state.shape:
            raise ValueError(f"the snapshot's state has shape {state.shape}, this stepper's {self._last.state.shape}")
        self._forget()
        self.counts = {name: int(snapshot[name]) for name in self.counts}
        self._place(float(snapshot["t"]), state)

    def _place(self, t: float, state: np.ndarray) -> None:
        """Stand at a state with no step behind it."""
        self._last = Step(t, state, t, state)

    def _accept(self, t: float, state: np.ndarray, steps: int = 1) -> None:
        """Move to the end of a step, or of several; many solvers evaluated the field there last."""
        self.counts["accepted"] += steps
        self._last, self._at_state = Step(self._last.t, self._last.state, t, state), self._evaluated

    def _here(self) -> Evaluation:
        """Field at the state, evaluated when first asked for."""
        self._at_state = self._evaluate(self._last.t, self._last.state)
        return self._at_state

    def _known(self, t: float, state: np.ndarray) -> Evaluation | None:
        """An evaluation at this very point, if there is one."""
        for known in (self._evaluated, self._at_state):
            if known and abs(known.t - t) <= self._same_time * math.ulp(t) and np.array_equal(known.state, state):
                return known
        return None

    def _evaluate(self, t: float, state: np.ndarray) -> Evaluation:
        """Call the field: counted, within the budget, remembered."""
        known = self._known(t, state)
        if known is None:
            if self.counts["gradients"] >= self._budget:
                raise Halt(Status.GRADIENT_BUDGET)
            point = np.array(state, dtype=np.float64)
            velocity = np.empty_like(point)
            self.counts["gradients"] += 1
            known = Evaluation(t, point, self.field(t, point, velocity), velocity)
            self._evaluated = known
        return known

    def _velocity(self, t: float, state: np.ndarray) -> np.ndarray:
        """Right-hand side for the solver."""
        evaluation = self._evaluate(float(t), state)
        if not evaluation.finite:
            raise not_finite("velocity", t)
        return evaluation.velocity

    def _matrix(self, t: float, state: np.ndarray) -> np.ndarray:
        """Jacobian for the solver."""
        size = state.size
        matrix = np.asarray(self.jacobian(float(t), np.array(state)), dtype=np.float64)
        self.counts["hessian_products"] += size
        if matrix.shape != (size, size):
            raise ValueError(f"jacobian gave shape {matrix.shape}: it must be ({size}, {size}), as the state")
        if not np.isfinite(matrix).all():
            raise not_finite("Jacobian", t)
        return matrix


def not_finite(what: str, t: float) -> Halt:
    """Report of a trial that left the domain of the field."""
    return Halt(Status.DIVERGED, f"the {what} is not finite near t = {t:.17g}", float(t))


def tolerances(rtol: float, atol: Any, size: int) -> tuple[float, np.ndarray]:
    """Tolerances that the solvers take as they are, one absolute tolerance per entry."""
    if not rtol >= _LEAST_RTOL:
        raise ValueError(f"rtol = {rtol}: must be at least {_LEAST_RTOL}, 100 roundings of float64; give a larger one")
    given = np.asarray(atol, dtype=np.float64)
    if given.shape not in ((), (size,)):
        raise ValueError(f"atol has shape {given.shape}: it must be a number or have shape ({size},), as the state")
    if not np.all(given >= 0.0):
        raise ValueError(f"atol = {atol}: absolute tolerances must not be negative")
    return float(rtol), np.maximum(np.broadcast_to(given, (size,)), 1e-300)
