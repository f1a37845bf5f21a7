"""What the own steppers share: one call, dense output, and what a caller sees of a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradflow.arguments import all_finite
from gradflow.status import Status
from gradflow.steppers.field import Field
from gradflow.steppers.saving import UNLIMITED, save_arrays, times_inside

STATUSES = tuple(Status)
COUNTS = ("gradients", "hessian_products", "accepted", "rejected")


class Limits(NamedTuple):
    """Where one call of ``advance`` stops."""

    t_end: float
    max_gradients: int
    max_steps: int
    loss_below: float


class Stepper(ABC):
    """One run by a loop that is compiled for compiled fields: its numbers in a record, its vectors in a memory.

    A subclass sets ``field``, ``_record`` (whose first row is the current state, also called ``_now``: a number is
    read faster from its column), ``_memory`` (with ``y`` and ``y_before``) and ``_advance``, the loop, and says in
    ``_rules`` what the loop takes between the field and the limits. ``_slack`` is a time below which times count as
    equal; ``_cuts`` says whether a step is cut at t_end, and the state before it held.
    """

    field: Field
    _record: np.ndarray
    _now: Any
    _memory: Any
    _advance: Callable
    _slack = 0.0
    _cuts = True

    @abstractmethod
    def _rules(self, look: bool) -> tuple:
        """Formula and tolerances for the loop; `look`: for dense output, when nothing is to be reported."""

    def advance(
        self,
        t_end: float,
        *,
        save_at: np.ndarray | None = None,
        saved: np.ndarray | None = None,
        max_gradients: int = UNLIMITED,
        max_steps: int = UNLIMITED,
        loss_below: float = -math.inf,
    ) -> Status:
        """Step until t_end or another reason to stop. Neither saving nor pausing changes the steps.

        Parameters
        ----------
        t_end : float
            Not before ``t``; may be infinite.
        save_at : ndarray, (m,)
            Increasing times. Those before the last accepted step are skipped, so that the same array can be handed
            to every call of a run.
        saved : ndarray of float64, (m, S)
            Row k receives the state at ``save_at[k]`` once an accepted step reaches it.
        max_gradients : int
            Bound on gradients and Hessian products together, counted from the start of the run.
        max_steps : int
            Bound on the accepted steps of this call.
        loss_below : float
            Stop after the first step that ends with a lower objective.

        Returns
        -------
        Status
            LOSS_BELOW, REACHED_END, STIFF, PAUSED (max_steps) or GRADIENT_BUDGET; STEP_TOO_SMALL or DIVERGED when no
            step from the current state is accepted; NOT_FINITE_START.

        Raises
        ------
        ValueError
            If t_end lies before t, or ``saved`` does not fit.
        """
        t_end, record = float(t_end), self._record
        if not t_end >= self.t - self._slack:
            raise ValueError(f"t_end = {t_end} lies before t = {self.t}: a stepper goes forward; give a later t_end")
        if record["accepted"][0] == 0 and not self._finite():
            return Status.NOT_FINITE_START
        if self._cuts and record["held_for"][0] != t_end:
            record["held_for"][0] = math.nan
        limits = self._limits(t_end, int(max_gradients), int(max_steps), float(loss_below))
        return self._run(False, limits, *save_arrays(save_at, saved, self._size))

    def _limits(self, t_end: float, max_gradients: int, max_steps: int, loss_below: float) -> tuple:
        """Limits in the form that the loop takes."""
        return Limits(t_end, max_gradients, max_steps, loss_below)

    def _run(self, look: bool, limits: tuple, save_at: np.ndarray, saved: np.ndarray) -> Status:
        """Run the compiled or interpreted loop."""
        first = int(save_at.searchsorted(self._known_from()))
        arguments = (self.field.rhs, *self._rules(look), limits, self._memory, self._record, save_at, saved, first)
        if self.field.compiled:
            return STATUSES[self._advance(*arguments)]
        with np.errstate(all="ignore"):
            return STATUSES[self._advance(*arguments)]

    def dense(self, t: Any) -> np.ndarray:
        """State at times inside the last accepted step, with the same bits as ``save_at`` gives.

        Parameters
        ----------
        t : float or array_like, (m,)
            Increasing, from ``t_before`` to ``t``.

        Returns
        -------
        ndarray, (S,) or (m, S)

        Raises
        ------
        ValueError
            If a time lies outside, or inside a step that a rejected trial has overwritten.
        """
        times = times_inside(t, self._known_from(), self.t)
        states = np.empty((times.size, self._size))
        self._run(True, self._limits(math.inf, UNLIMITED, 0, -math.inf), times, states)
        return states if np.ndim(t) else states[0]

    def _known_from(self) -> float:
        """Start of the interval in which dense output is known."""
        return self.t_before

    def _finite(self) -> bool:
        """Whether value, state and velocity at the start are finite."""
        return math.isfinite(self.value) and all_finite(self.state) and all_finite(self.velocity)

    @property
    def _size(self) -> int:
        """Length S of the state."""
        return self._memory.y.size

    @property
    def t(self) -> float:
        """Time after the last accepted step, or t_end if that step went past it."""
        return float(self._record["t"][0])

    @property
    def t_before(self) -> float:
        """Time before the last accepted step, or the t_end at which it was entered."""
        return float(self._record["t_before"][0])

    @property
    def state(self) -> np.ndarray:
        """State at ``t``, a copy."""
        return self._memory.y.copy()

    @property
    def state_before(self) -> np.ndarray:
        """State at ``t_before``, a copy."""
        return self._memory.y_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state."""
        return float(self._record["value"][0])

    @property
    @abstractmethod
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""

    @property
    def counts(self) -> dict[str, int]:
        """Gradients (difference quotients included), Hessian products, accepted and rejected steps so far."""
        record = self._record
        known = record.dtype.fields or {}
        return {name: int(record[name][0]) if name in known else 0 for name in COUNTS}


class Measured:
    """The step and the stiffness that an explicit stepper measures."""

    _now: Any

    @property
    def step(self) -> float:
        """Size that the next step tries."""
        return float(self._now["h"])

    @property
    def rho(self) -> float:
        """Estimate of the norm of the Jacobian, from the last measurement; 0 before the first."""
        return float(self._now["rho"])
