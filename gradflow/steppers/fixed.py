"""Explicit methods with a fixed step: Euler, which is gradient descent on the plain flow, Heun, and Runge-Kutta."""

import math
from typing import Any, NamedTuple

import numpy as np

from gradflow.kernels.calls import call, compiled
from gradflow.status import Status
from gradflow.steppers import tableaux
from gradflow.steppers.field import Field
from gradflow.steppers.saving import put_back, start_vector, take_snapshot
from gradflow.steppers.stepper import Stepper

_GO_ON = -1
_PAUSED = int(Status.PAUSED)
_REACHED_END = int(Status.REACHED_END)
_LOSS_BELOW = int(Status.LOSS_BELOW)
_GRADIENT_BUDGET = int(Status.GRADIENT_BUDGET)
_DIVERGED = int(Status.DIVERGED)

_ROUNDING = 1e-9
"""Fraction of a step below which times count as equal."""

_NUMBERS = ("t", "origin", "value", "t_before", "length", "held_for")
_COUNTERS = ("count", "accepted", "gradients", "has_stages")
_RECORD = np.dtype([(name, "f8") for name in _NUMBERS] + [(name, "i8") for name in _COUNTERS])
_RESUMED = ("t", "origin", "count", "value", "accepted", "gradients")


class _Limits(NamedTuple):
    """The step, and where one call of ``advance`` stops."""

    step: float
    whole_steps: bool
    t_end: float
    max_gradients: int
    max_steps: int
    loss_below: float


class _Memory(NamedTuple):
    """Vectors of one run; after a step the stages ``K`` still belong to it, the last one at the new state ``y``."""

    y: np.ndarray
    y_before: np.ndarray
    y_new: np.ndarray
    y_held: np.ndarray
    velocity_held: np.ndarray
    K: np.ndarray
    weights: np.ndarray


def combine(out, base, scale, K, weights, count):
    """Write base + scale * sum of weights[l] K[l] over l < count to out, each operation rounded once."""
    np.dot(weights[:count], K[:count], out=out)
    out *= scale
    out += base


def combine_loops(out, base, scale, K, weights, count):
    """The same for compiled code."""
    size = out.size
    for i in range(size):
        out[i] = 0.0
    for l in range(count):
        weight = weights[l]
        if weight != 0.0:
            for i in range(size):
                out[i] += weight * K[l, i]
    for i in range(size):
        out[i] = base[i] + scale * out[i]


def assign(out, a):
    """Copy a to out."""
    out[:] = a


def assign_loops(out, a):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a[i]


def all_finite(a):
    """Whether every entry is finite."""
    return np.isfinite(a).all()


def all_finite_loops(a):
    """The same for compiled code."""
    finite = True
    for i in range(a.size):
        finite &= abs(a[i]) < math.inf
    return finite


def run_stages(rhs, rule, memory, t, t_new, length):
    """Evaluate a step from t to t_new; return the objective at the new state."""
    A, C, K, last, y_new = rule.A, rule.C, memory.K, rule.stages, memory.y_new
    velocity, chain, numbers, layout, work, coefficients = rhs
    value = 0.0
    for j in range(1, last + 1):
        time = t_new if j == last else t + C[j] * length
        combine(y_new, memory.y, length, K, A[j], j)
        value = call(velocity, time, y_new, K[j], chain, numbers, layout, work, coefficients)
    return value


def fits_step(now, limits):
    """Whether another whole step ends before t_end, up to rounding."""
    return now["count"] + 1 <= (limits.t_end - now["origin"]) / limits.step + _ROUNDING


def attempt(rhs, rule, limits, memory, record):
    """Take one step, whole or cut at t_end; refuse it if value or state is not finite."""
    now, K, last = record[0], memory.K, rule.stages
    if now["has_stages"]:
        assign(K[0], K[last])
        now["has_stages"] = 0
    whole = fits_step(now, limits)
    if whole:
        t_new, length = now["origin"] + (now["count"] + 1) * limits.step, limits.step
    else:
        t_new, length = limits.t_end, limits.t_end - now["t"]
        now["held_for"] = limits.t_end
        record[1] = record[0]
        assign(memory.y_held, memory.y)
        assign(memory.velocity_held, K[0])
    value = run_stages(rhs, rule, memory, now["t"], t_new, length)
    now["gradients"] += last
    if not (abs(value) < math.inf and all_finite(memory.y_new)):
        return _DIVERGED
    assign(memory.y_before, memory.y)
    assign(memory.y, memory.y_new)
    now["t_before"], now["t"], now["length"], now["value"] = now["t"], t_new, length, value
    now["accepted"] += 1
    now["has_stages"] = 1
    if whole:
        now["count"] += 1
    else:
        now["origin"], now["count"] = t_new, 0
    return _GO_ON


def stop(rule, limits, now, last_step):
    """Reason to stop before the next step, if any."""
    if now["value"] < limits.loss_below:
        return _LOSS_BELOW
    rest = limits.t_end - now["t"]
    if not fits_step(now, limits) and (limits.whole_steps or rest <= _ROUNDING * limits.step):
        return _REACHED_END
    if now["accepted"] >= last_step:
        return _PAUSED
    if now["gradients"] + rule.stages > limits.max_gradients:
        return _GRADIENT_BUDGET
    return _GO_ON


def interpolate(rule, memory, now, time, out):
    """State at a time inside the last step."""
    x = (time - now["t_before"]) / now["length"]
    weights = memory.weights
    basis = x
    for l in range(weights.size):
        weights[l] = 0.0
    for i in range(rule.G.shape[0]):
        for l in range(weights.size):
            weights[l] += basis * rule.G[i, l]
        basis *= x if i % 2 == 1 else 1.0 - x
    combine(out, memory.y_before, now["length"], memory.K, weights, weights.size)


def advance(rhs, rule, limits, memory, record, save_at, saved, first):
    """Step until a reason to stop; write the states at save_at[first:] that steps reach."""
    now = record[0]
    last_step = now["accepted"] + limits.max_steps
    slack = _ROUNDING * limits.step
    k = first
    while True:
        while k < save_at.size and save_at[k] <= now["t"] + slack:
            if save_at[k] >= now["t"] - slack:
                assign(saved[k], memory.y)
            elif save_at[k] <= now["t_before"] + slack:
                assign(saved[k], memory.y_before)
            else:
                interpolate(rule, memory, now, save_at[k], saved[k])
            k += 1
        status = stop(rule, limits, now, last_step)
        if status == _GO_ON:
            status = attempt(rhs, rule, limits, memory, record)
        if status != _GO_ON:
            return status


_HELPERS = (run_stages, fits_step, attempt, stop, interpolate)
_TWINS = ((combine, combine_loops), (all_finite, all_finite_loops), (assign, assign_loops))


class Fixed(Stepper):
    """Explicit stepper with a fixed step, for one run.

    Step k ends at ``t_start + k step``, computed from k. "euler" on the plain flow is gradient descent, with the bits
    of ``theta - step * gradient``.

    Dense output is linear for "euler" (order 1), the cubic Hermite polynomial for "heun" (order 2) and "rk4" (order 3);
    times within 1e-9 of a step from a step's end get the state there. A run is DIVERGED where the next state or its
    objective is not finite; the last finite state is kept.

    Parameters
    ----------
    field : Field
        Velocity; not shared with another stepper.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    step : float
        Step size.
    method : str
        "euler" (order 1), "heun" (order 2) or "rk4" (order 4).
    whole_steps : bool
        False: a shorter last step ends at t_end, and the next call counts its steps from there. True, for discrete
        rules: ``advance`` takes the ``floor((t_end - t_start)/step + 1e-9)`` steps that fit, and may end before t_end.

    Raises
    ------
    ValueError
        If the step is not positive, the method is not known, or the state is not a vector.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel
    >>> from gradflow.steppers.field import Field
    >>> from gradflow.steppers.fixed import Fixed
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = theta
    ...     return 0.5 * float(theta @ theta)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=2.0)
    >>> descent = Fixed(Field((flow,), kernel), 0.0, [1.0], step=0.5, whole_steps=True)
    >>> print(descent.advance(1.4), descent.t, descent.state)
    reached the end time 1.0 [0.25]
    """

    def __init__(
        self, field: Field, t: float, state: Any, *, step: float, method: str = "euler", whole_steps: bool = False
    ) -> None:
        y = start_vector(state)
        if not 0.0 < step < math.inf:
            raise ValueError(f"step = {step}: the step size must be positive and finite; give step > 0")
        self.field = field
        self.step, self._slack = float(step), _ROUNDING * float(step)
        self.whole_steps = bool(whole_steps)
        self._rule = tableaux.rule(method)
        self._memory = _Memory(
            y,
            *(y.copy() for _ in range(4)),
            K=np.zeros((self._rule.C.size, y.size)),
            weights=np.zeros(self._rule.C.size),
        )
        self._record = np.zeros(2, _RECORD)
        now = self._now = self._record[0]
        now["t"] = now["t_before"] = now["origin"] = t
        now["held_for"] = math.nan
        now["value"] = field(t, y, self._memory.K[0])
        now["gradients"] = 1
        self._advance = advance
        if field.compiled:
            self._advance = compiled(advance, helpers=_HELPERS, twins=_TWINS, fastmath=frozenset(), views=())

    def _rules(self, look: bool) -> tuple:
        """The rule."""
        return (self._rule,)

    def _limits(self, t_end: float, max_gradients: int, max_steps: int, loss_below: float) -> tuple:
        """The step and the limits."""
        return _Limits(self.step, self.whole_steps, t_end, max_gradients, max_steps, loss_below)

    def _known_from(self) -> float:
        """Start of the interval in which dense output is known; a refused step overwrites the last one's stages."""
        return self.t_before if self._now["has_stages"] else self.t

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and two vectors ("state", "velocity"), all copies.

        After a shorter last step it describes the state before that step: a stepper restored from it takes the steps of
        one longer run, bit for bit. Otherwise it describes the current state.
        """
        return take_snapshot(self._record, _RESUMED, self._memory, self._rule.stages)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes, counters included; dense output starts with the next step.

        Raises
        ------
        ValueError
            If the snapshot belongs to a state of another size.
        """
        put_back(snapshot, self._record, _RESUMED, self._memory)

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""
        return self._memory.K[self._rule.stages if self._now["has_stages"] else 0].copy()
