"""Stabilised explicit stepper of order 4, for flows whose fast modes decay: plateaus, moderate stiffness."""

import math
from functools import lru_cache, partial
from typing import Any

import numpy as np

from gradflow.kernels.calls import compiled
from gradflow.kernels.kernel import aligned
from gradflow.steppers.beginning import begin, checked_first_step, write
from gradflow.steppers.field import Field
from gradflow.steppers.saving import SHORT, UNLIMITED, new_record, start_vector, state_of, tolerances
from gradflow.steppers.stabilised_coefficients import Coefficients, coefficients
from gradflow.steppers.stabilised_loop import (
    HELPERS,
    RECORD,
    RESUMED_COUNTERS,
    RESUMED_NUMBERS,
    TWINS,
    VIEWS,
    Control,
    Memory,
    advance,
)
from gradflow.steppers.stepper import Measured, Stepper

_RESUMED = RESUMED_NUMBERS + RESUMED_COUNTERS
_ROUNDING = 1e-17
"""Ten times the rounding that a step leaves in a decaying mode, relative to the state, over (h |lambda|)^4."""
_PER_ROW = ("stages", "extent", "first", "matrix", "weights", "nodes", "estimate")
_VECTORS = ("state", "velocity", "velocity_before", "direction")


class Stabilised(Measured, Stepper):
    """Adaptive explicit stepper with s = 5 to 103 stages, stable for h |lambda| up to about 0.35 s^2 on the real axis.

    A step of size h takes the least number of stages that is stable for the spectral radius of the Jacobian, which a
    power iteration with difference quotients measures every few steps (one or two gradients, from the last direction).
    Decaying modes are damped to 0.9 of their size in a step, or less; growing ones are followed at order 4. The error
    estimate is of order 3; where its root mean square over ``atol + rtol |state|`` is below 1 a step is accepted.
    The last four stages multiply rounding by up to (h |lambda|)^4 / 100, which bounds the steps at tight tolerances
    (h |lambda| < 560 at 1e-6, 178 at 1e-8); and where fast modes are driven they lower the order, so that an implicit
    stepper pays where a long stiff stretch remains.

    A step that would pass t_end is cut to end there; the next call goes on from t_end with the uncut size,
    ``snapshot`` from before the cut.
    Dense output has order 4 and is continuous with its slope; it costs one gradient in the first step of a run and in a
    step more than ten times longer than the one before, else none.

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
    first_step : float, optional
        Size of the first trial step; default: Hairer's estimate, which costs one gradient.
    stiff_limit : float
        A step with size times spectral radius above it counts as stiff.
    stiff_gradients : float
        ``advance`` returns ``Status.STIFF`` after 15 stiff steps (six calm ones in a row clear the count), with the
        next one stiff too, if about this many gradients or more remain to t_end; infinite: never.
    calm_limit : float
        A step with size times spectral radius below it is one that an explicit pair could take too.
    calm_steps : int
        ``advance`` returns ``Status.PAUSED``, and ``calm`` is true, after so many such steps in a row.

    Raises
    ------
    ValueError
        If a tolerance is negative, both are zero, or shapes do not agree.

    References
    ----------
    Abdulle: Fourth order Chebyshev methods with recurrence relation, SIAM J. Sci. Comput. 23 (2002) 2041-2054;
    Hairer, Wanner: Solving Ordinary Differential Equations II, section IV.2.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel
    >>> from gradflow.steppers.field import Field
    >>> from gradflow.steppers.stabilised import Stabilised
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = numbers * theta
    ...     return 0.5 * float(theta @ out)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> curvatures = np.array([1.0, 1000.0])
    >>> kernel = Kernel("bowl", bowl, None, curvatures, np.zeros(0, np.int64), 0, compiled=False, flops=4.0)
    >>> stepper = Stabilised(Field((flow,), kernel), 0.0, [1.0, 1.0], rtol=1e-6, atol=1e-8)
    >>> print(stepper.advance(2.0))
    reached the end time
    >>> print(round(float(stepper.state[0]), 5), stepper.counts["gradients"] < 1000)
    0.13534 True
    """

    def __init__(
        self,
        field: Field,
        t: float,
        state: Any,
        *,
        rtol: float = 1e-6,
        atol: Any = 1e-8,
        first_step: float | None = None,
        stiff_limit: float = 3.0,
        stiff_gradients: float = math.inf,
        calm_limit: float = 0.0,
        calm_steps: int = UNLIMITED,
    ) -> None:
        y = start_vector(state)
        size = y.size
        self.field = field
        self._method = _bounded(float(rtol))
        absolute = tolerances(float(rtol), atol, size)
        stiff, calm = (float(stiff_limit), float(stiff_gradients)), (float(calm_limit), int(calm_steps))
        self._control = Control(float(rtol), absolute, *stiff, *calm)
        table = aligned(20 * size).reshape(20, size)
        table[0] = table[1] = y
        vectors = (table[i] for i in range(7))
        self._memory = Memory(*vectors, velocities=table[7:10], chain=table[10:12], K=table[12:16], held=table[16:])
        self._record = new_record(2, RECORD)
        self._now = self._record[0]
        self._advance = (
            compiled(advance, helpers=HELPERS, twins=TWINS, inline=True, views=VIEWS) if field.compiled else advance
        )
        self._begin(float(t), first_step)

    def _begin(self, t: float, first_step: float | None) -> None:
        """Evaluate the start, and choose the first step; its probe is the first direction of the power iteration."""
        memory, velocities = self._memory, self._memory.velocities
        if first_step is None:
            vectors = memory.y, velocities[0], memory.scratch, velocities[1]
            value, first_step = begin(self.field, t, *vectors, self._control, 4.0)
            gradients = 2 if first_step > 0.0 else 1
            if first_step > 0.0:
                np.subtract(velocities[1], velocities[0], out=memory.direction)
        else:
            checked_first_step(first_step)
            value, gradients = self.field(t, memory.y, velocities[0]), 1
        velocities[1] = velocities[0]
        write(self._record, t, first_step, value, gradients)
        self._record["t_older"][0], self._record["probing"][0] = t, 1

    def _rules(self, look: bool) -> tuple:
        """Coefficients and the control."""
        return self._method, self._control._replace(stiff_gradients=math.inf) if look else self._control

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and four vectors, all copies.

        After a step cut at t_end it describes the state before the cut and the uncut step size: a stepper restored
        from it takes the steps of one longer run, bit for bit. Otherwise it describes the current state.
        """
        return _snapshot(self._record, self._memory)

    def later_snapshot(self) -> Any:
        """The snapshot, or a function that makes it as long as no further step is taken."""
        return partial(_snapshot, self._record, self._memory) if self._size <= SHORT else self.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes, counters included; dense output starts with the next step.

        Raises
        ------
        ValueError
            If the snapshot belongs to a state of another size.
        """
        memory, now, state = self._memory, self._now, state_of(snapshot, self._size)
        for name in _RESUMED:
            now[name] = snapshot[name]
        memory.y[:] = memory.y_before[:] = state
        memory.velocities[0] = snapshot["velocity"]
        memory.velocities[1] = snapshot["velocity_before"]
        memory.direction[:] = snapshot["direction"]
        now["h_tried"], now["held_for"], now["has_step"] = now["h"], math.nan, 0

    @property
    def t_before(self) -> float:
        """Time before the last accepted step."""
        return float(self._now["t_before"] if self._now["has_step"] else self._now["t"])

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""
        return self._memory.velocities[0].copy()

    @property
    def calm(self) -> bool:
        """Whether the last steps were all so short that an explicit pair could take them."""
        return bool(self._now["slack"] >= self._control.calm_steps)

    @property
    def stages(self) -> int:
        """Number of stages of the last accepted step."""
        return int(self._method.stages[self._now["row"]])


def _snapshot(record: np.ndarray, memory: Memory) -> dict[str, Any]:
    """Numbers and vectors of a stepper, all copies."""
    if math.isnan(record[0]["held_for"]):
        kept, vectors = record[0], (memory.y, memory.velocities[0], memory.velocities[1], memory.direction)
    else:
        kept, vectors = record[1], memory.held
    numbers: dict[str, Any] = {name: kept[name].item() for name in _RESUMED}
    return numbers | {name: vector.copy() for name, vector in zip(_VECTORS, vectors, strict=True)}


@lru_cache(maxsize=64)
def _bounded(rtol: float) -> Coefficients:
    """The methods that multiply rounding to no more than a tenth of the tolerance."""
    method = coefficients()
    rows = max(1, int(np.searchsorted(method.extent, (max(rtol, 1e-13) / _ROUNDING) ** 0.25)))
    per_row = {name: getattr(method, name)[:rows] for name in _PER_ROW}
    return method._replace(**per_row)
