"""Adaptive explicit Runge-Kutta steppers."""

import math
from functools import partial
from typing import Any

import numpy as np

from gradflow.kernels.calls import compiled
from gradflow.steppers import tableaux
from gradflow.steppers.adaptive import HELPERS, RECORD, RESUMED, TWINS, VIEWS, Control, Memory, advance
from gradflow.steppers.beginning import begin, checked_first_step, write
from gradflow.steppers.field import Field
from gradflow.steppers.saving import SHORT, aligned_rows, new_record, put_back, start_vector, take_snapshot, tolerances
from gradflow.steppers.stepper import Measured, Stepper


class Explicit(Measured, Stepper):
    """Adaptive explicit stepper for one run.

    Steps of the pair are accepted where the estimated error, entry by entry over ``atol + rtol |state|``, has a root
    mean square below 1; a proportional-integral controller sets the next size.

    A step that would pass t_end is cut to end there; the next call goes on from t_end with the uncut size,
    ``snapshot`` from before the cut.
    Dense output has order 7 for "dop853", which evaluates three gradients at its first use in a step, and 4 for "rk45".

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
            tolerances(float(rtol), atol, y.size),
            float(tableaux.STIFF_LIMITS[pair] if stiff_limit is None else stiff_limit),
            float(stiff_gradients),
            int(stiff_steps),
        )
        stages, used = self._pair.A.shape[0], self._pair.interpolant.weights.shape
        rows = aligned_rows(7 + stages, y.size)
        rows[0] = rows[1] = y
        self._memory = Memory(*(rows[i] for i in range(7)), K=rows[7:], shares=np.zeros(used))
        self._record = new_record(2, RECORD)
        self._now = self._record[0]
        self._advance = compiled(advance, helpers=HELPERS, twins=TWINS, views=VIEWS) if field.compiled else advance
        self._begin(float(t), first_step)

    def _begin(self, t: float, first_step: float | None) -> None:
        """Evaluate the start, and choose the first step."""
        memory = self._memory
        if first_step is None:
            vectors = memory.y, memory.K[0], memory.scratch, memory.K[1]
            value, first_step = begin(self.field, t, *vectors, self._control, self._pair.order)
            gradients = 2 if first_step > 0.0 else 1
        else:
            checked_first_step(first_step)
            value, gradients = self.field(t, memory.y, memory.K[0]), 1
        write(self._record, t, first_step, value, gradients)

    def _rules(self, look: bool) -> tuple:
        """The pair and the control."""
        return self._pair, self._control._replace(stiff_gradients=math.inf) if look else self._control

    def _known_from(self) -> float:
        """Start of the interval in which dense output is known; a rejected trial overwrites the last step's stages."""
        return self.t_before if self._now["has_stages"] else self.t

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and two vectors ("state", "velocity"), all copies.

        After a step cut at t_end it describes the state before the cut and the uncut step size: a stepper restored
        from it takes the steps of one longer run, bit for bit. Otherwise it describes the current state.
        """
        return take_snapshot(self._record, RESUMED, self._memory, self._pair.stages)

    def later_snapshot(self) -> Any:
        """The snapshot, or a function that makes it as long as no further step is taken."""
        if self._size > SHORT:
            return self.snapshot()
        return partial(take_snapshot, self._record, RESUMED, self._memory, self._pair.stages)

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
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy."""
        return self._memory.K[self._pair.stages if self._now["has_stages"] else 0].copy()
