"""Adaptive explicit Runge-Kutta steppers."""

import math
from typing import Any

import numpy as np

from gradflow.kernels.calls import compiled
from gradflow.status import Status
from gradflow.steppers import tableaux
from gradflow.steppers.adaptive import HELPERS, RECORD, RESUMED, TWINS, Control, Limits, Memory, advance
from gradflow.steppers.beginning import propose_first_step
from gradflow.steppers.field import Field
from gradflow.steppers.saving import (
    UNLIMITED,
    aligned_rows,
    put_back,
    save_arrays,
    start_vector,
    take_snapshot,
    times_inside,
)

_STIFF_LIMITS = {"dop853": 6.1, "rk45": 3.25}


class Explicit:
    """Adaptive explicit stepper for one run.

    Steps of the pair are accepted where the estimated error, entry by entry over ``atol + rtol |state|``, has a root
    mean square below 1; a proportional-integral controller sets the next size.

    Parameters
    ----------
    field : Field
        Velocity; not shared with another stepper.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    rtol : float
        Relative tolerance.
    atol : float or array_like, (S,)
        Absolute tolerance, for all entries or for each; large for entries that must not steer the step.
    pair : str
        "dop853" (order 8) or "rk45" (order 5).
    first_step : float, optional
        Size of the first trial step; default: Hairer's estimate, which costs one gradient.
    stiff_limit : float, optional
        A step with size times the estimated norm of the Jacobian above it counts as stiff; default: near the
        stability limit of the pair (6.1 or 3.25).
    stiff_gradients : float
        ``advance`` returns ``Status.STIFF`` after enough stiff steps (six calm ones in a row clear the count) if about
        this many gradients or more remain to t_end; infinite: never.
    stiff_steps : int
        How many stiff steps are enough.

    Raises
    ------
    ValueError
        If a tolerance is negative, both are zero, or shapes do not agree.

    References
    ----------
    Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, sections II.4 to II.6 and II.10;
    Hairer, Wanner: Solving Ordinary Differential Equations II, section IV.2 (stiffness and step control).

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel
    >>> from gradflow.steppers.explicit import Explicit
    >>> from gradflow.steppers.field import Field
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = theta
    ...     return 0.5 * float(theta @ theta)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=2.0)
    >>> stepper = Explicit(Field((flow,), kernel), 0.0, [1.0], rtol=1e-8, atol=1e-10)
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 7))
    1.0 0.3678794
    """

    def __init__(
        self,
        field: Field,
        t: float,
        state: Any,
        *,
        rtol: float = 1e-6,
        atol: Any = 1e-8,
        pair: str = "dop853",
        first_step: float | None = None,
        stiff_limit: float | None = None,
        stiff_gradients: float = math.inf,
        stiff_steps: int = 15,
    ) -> None:
        y = start_vector(state)
        self.field = field
        self._pair = tableaux.pair(pair)
        self._control = Control(
            float(rtol),
            _tolerances(float(rtol), atol, y.size),
            float(_STIFF_LIMITS[pair] if stiff_limit is None else stiff_limit),
            float(stiff_gradients),
            int(stiff_steps),
        )
        stages, used = self._pair.A.shape[0], self._pair.interpolant.weights.shape
        rows = aligned_rows(7 + stages, y.size)
        rows[:2] = y
        self._memory = Memory(*rows[:7], K=rows[7:], shares=np.zeros(used))
        self._record = np.zeros(2, RECORD)
        self._now = self._record[0]
        self._advance = compiled(advance, helpers=HELPERS, twins=TWINS) if field.compiled else advance
        self._begin(float(t), first_step)

    def _begin(self, t: float, first_step: float | None) -> None:
        """Evaluate the start, and choose the first step."""
        now, memory = self._now, self._memory
        now["t"] = now["t_before"] = t
        now["error_before"] = 1e-4
        now["held_for"] = math.nan
        now["value"] = self.field(t, memory.y, memory.K[0])
        now["gradients"] = 1
        if first_step is not None:
            if not first_step > 0.0:
                raise ValueError(
                    f"first_step = {first_step}: the first step must be positive; leave it out for a guess"
                )
            now["h"] = first_step
        elif self._finite():
            vectors = memory.y, memory.K[0], memory.scratch, memory.K[1]
            now["h"] = propose_first_step(self.field, t, *vectors, self._control, self._pair.order)
            now["gradients"] += 1
        now["h_tried"] = now["h"]

    def _finite(self) -> bool:
        """Whether value, state and velocity are finite."""
        memory = self._memory
        return math.isfinite(self._now["value"]) and bool(
            np.isfinite(memory.y).all() and np.isfinite(memory.K[0]).all()
        )

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
        """Step until t_end or another reason to stop.

        Neither saving nor pausing changes the steps. A step that would pass t_end is cut to end there; the next call
        goes on from t_end with the uncut size, ``snapshot`` from before the cut.

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
            Bound on ``counts["gradients"]``, which counts from the start of the run.
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
        t_end = float(t_end)
        if not t_end >= self.t:
            raise ValueError(f"t_end = {t_end} lies before t = {self.t}: a stepper goes forward; give a later t_end")
        if self._now["accepted"] == 0 and not self._finite():
            return Status.NOT_FINITE_START
        if self._now["held_for"] != t_end:
            self._now["held_for"] = math.nan
        limits = Limits(t_end, int(max_gradients), int(max_steps), float(loss_below))
        return self._run(self._control, limits, *save_arrays(save_at, saved, self._memory.y.size))

    def _run(self, control: Control, limits: Limits, save_at: np.ndarray, saved: np.ndarray) -> Status:
        """Run the compiled or interpreted loop."""
        first = int(np.searchsorted(save_at, self._known_from()))
        arguments = (self.field.rhs, self._pair, control, limits, self._memory, self._record, save_at, saved, first)
        if self.field.compiled:
            return Status(self._advance(*arguments))
        with np.errstate(all="ignore"):
            return Status(self._advance(*arguments))

    def _known_from(self) -> float:
        """Start of the interval in which dense output is known; a rejected trial overwrites the last step's stages."""
        return self.t_before if self._now["has_stages"] else self.t

    def dense(self, t: Any) -> np.ndarray:
        """State at times inside the last accepted step, with the same bits as ``save_at`` gives.

        Order 7 for "dop853", which evaluates three gradients at the first use in a step, and 4 for "rk45".

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
            If a time lies outside, or inside a step whose stages a rejected trial has overwritten.
        """
        times = times_inside(t, self._known_from(), self.t)
        states = np.empty((times.size, self._memory.y.size))
        look = Limits(math.inf, UNLIMITED, 0, -math.inf)
        self._run(self._control._replace(stiff_gradients=math.inf), look, times, states)
        return states if np.ndim(t) else states[0]

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and two vectors ("state", "velocity"), all copies.

        After a step cut at t_end it describes the state before the cut and the uncut step size: a stepper restored
        from it takes the steps of one longer run, bit for bit. Otherwise it describes the current state.
        """
        return take_snapshot(self._record, RESUMED, self._memory, self._pair.stages)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes, counters included; dense output starts with the next step.

        Raises
        ------
        ValueError
            If the snapshot belongs to a state of another size.
        """
        put_back(snapshot, self._record, RESUMED, self._memory)
        self._now["h_tried"] = self._now["h"]

    @property
    def t(self) -> float:
        """Time after the last accepted step."""
        return float(self._now["t"])

    @property
    def t_before(self) -> float:
        """Time before the last accepted step."""
        return float(self._now["t_before"])

    @property
    def state(self) -> np.ndarray:
        """State after the last accepted step, a copy."""
        return self._memory.y.copy()

    @property
    def state_before(self) -> np.ndarray:
        """State before the last accepted step, a copy."""
        return self._memory.y_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state."""
        return float(self._now["value"])

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""
        return self._memory.K[self._pair.stages if self._now["has_stages"] else 0].copy()

    @property
    def step(self) -> float:
        """Size that the next step tries."""
        return float(self._now["h"])

    @property
    def rho(self) -> float:
        """Estimate of the norm of the Jacobian, from the last accepted step; 0 before the first."""
        return float(self._now["rho"])

    @property
    def counts(self) -> dict[str, int]:
        """Gradients, accepted and rejected steps so far."""
        now = self._now
        return {
            "gradients": int(now["gradients"]),
            "hessian_products": 0,
            "accepted": int(now["accepted"]),
            "rejected": int(now["rejected"]),
        }


def _tolerances(rtol: float, atol: Any, size: int) -> np.ndarray:
    """One absolute tolerance per entry; a zero becomes the least number that can divide."""
    given = np.asarray(atol, dtype=np.float64)
    if given.ndim and given.shape != (size,):
        raise ValueError(f"atol has shape {given.shape}: it must be a number or have shape ({size},), as the state")
    least = given.min() if given.ndim else float(given)
    if not (rtol >= 0.0 and least >= 0.0 and (rtol > 0.0 or least > 0.0)):
        raise ValueError(f"rtol = {rtol}, atol = {atol}: tolerances must not be negative, nor both be zero")
    return np.maximum(given, 1e-300) if given.ndim else np.full(size, max(float(given), 1e-300))
