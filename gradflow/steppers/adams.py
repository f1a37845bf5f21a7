"""Adams stepper: few gradients per unit of time where gradients are costly, also where stability binds."""

import math
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from gradflow.kernels.calls import compiled
from gradflow.steppers.adams_formulas import GAUSS_POINTS, MOST_POINTS, ROWS
from gradflow.steppers.adams_loop import HELPERS, TWINS, VIEWS, advance
from gradflow.steppers.field import Field
from gradflow.steppers.saving import SHORT, aligned_rows, new_record, start_vector, state_of, tolerances
from gradflow.steppers.stepper import Measured, Stepper

STABLE = (2.0, 2.4, 1.93, 1.41, 1.03, 0.77, 0.57, 0.43, 0.33, 0.26, 0.21)
"""Real stability limits h |lambda| of even steps with k = 1 to 11 velocities and the full correction."""
DAMPING = (0.0, 0.46, 0.58, 0.68, 0.77, 0.84)
"""Fraction of the correction that damped steps make, k = 1 to 6; 0: not damped."""
STABLE_DAMPED = (0.0, 5.21, 3.56, 2.36, 1.62, 1.16)
"""Their real stability limits."""
_SAFE = 0.85
_DEPTH = len(STABLE) + 1
_SLOTS = np.arange(_DEPTH + 3)

_NUMBERS = tuple(
    "t t_before newest length h next h_tried value newest_value rho moved trial_moved low middle high size".split()
)
_COUNTERS = tuple("order damped used known failures stiff calm due has_value inside inside_before".split())
_COUNTS = tuple("gradients accepted rejected".split())
_RECORD = np.dtype([(name, "f8") for name in _NUMBERS] + [(name, "i8") for name in _COUNTERS + _COUNTS])


class Method(NamedTuple):
    """Error constants times k! and safe stability limits, full and damped, by number k of velocities; tolerances."""

    error: np.ndarray
    stable: np.ndarray
    damping: np.ndarray
    most_order: int
    rtol: float
    atol: np.ndarray
    stiff_gradients: float


class Memory(NamedTuple):
    """Arrays of one run.

    ``states`` holds states and ``newest`` says which: the newest point, the one before, the corrected end of the trial
    step. ``rows`` holds velocities and ``slots`` says which: those of the history, newest first, then those at the
    predicted end of the last step, at that of the trial step, and at the corrected end of the trial step. ``state``
    and ``state_before`` are what the caller sees where a step went past t_end. The rest is scratch for the norms and
    the weights of a step.
    """

    state: np.ndarray
    state_before: np.ndarray
    velocity: np.ndarray
    predicted: np.ndarray
    states: np.ndarray
    rows: np.ndarray
    newest: np.ndarray
    times: np.ndarray
    slots: np.ndarray
    norms: np.ndarray
    points: np.ndarray
    spare: np.ndarray
    weights: np.ndarray
    places: np.ndarray


class Adams(Measured, Stepper):
    r"""Adams-Bashforth-Moulton stepper of order 1 to 12 with variable steps: two gradients a step.

    From the last k velocities, on whatever times they were, a step predicts :math:`p`, evaluates, corrects

    .. math:: y = p + \theta h \gamma_k \big(f(p) - \text{extrapolated } f\big),

    and evaluates. With :math:`\theta = 1` this has order k + 1; the error estimate, entry by entry over
    ``atol + rtol |state|``, is the difference to order k. With :math:`\theta < 1` it has order k, and on the real axis
    a stability limit up to twice as large: 5.2 for k = 2. How far f moves with the correction measures the norm of the
    Jacobian. The next step takes the k and the :math:`\theta` that allow the longest length, by error and by
    stability; so orders sink where stability binds, instead of steps failing.

    t_end does not change the steps: the last one goes past it, and the state there is interpolated; the next call goes
    on from where the steps are, with the same bits as one longer run.
    Dense output is the integral of the polynomial that the corrector integrates, of order k + 1; it costs no gradients.

    Parameters
    ----------
    field : Field
        Velocity; not shared with another stepper. It is evaluated beyond t_end, see :meth:`advance`.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    rtol : float
        Relative tolerance.
    atol : float or array_like, (S,)
        Absolute tolerance, for all entries or for each; large for entries that must not steer the step.
    stiff_gradients : float
        ``advance`` returns ``Status.STIFF`` after 15 steps bound by stability (six others in a row clear the count) if
        about this many gradients or more remain to t_end; infinite: never.

    Raises
    ------
    ValueError
        If a tolerance is negative, both are zero, or shapes do not agree.

    References
    ----------
    Shampine, Gordon: Computer Solution of Ordinary Differential Equations, Freeman (1975);
    Hairer, Norsett, Wanner: Solving Ordinary Differential Equations I, sections III.1, III.5 and III.7.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel
    >>> from gradflow.steppers.adams import Adams
    >>> from gradflow.steppers.field import Field
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = theta
    ...     return 0.5 * float(theta @ theta)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=2.0)
    >>> stepper = Adams(Field((flow,), kernel), 0.0, [1.0], rtol=1e-8, atol=1e-10)
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 7))
    1.0 0.3678794
    """

    _cuts = False

    def __init__(
        self,
        field: Field,
        t: float,
        state: Any,
        *,
        rtol: float = 1e-6,
        atol: Any = 1e-8,
        stiff_gradients: float = math.inf,
    ) -> None:
        y = start_vector(state)
        self.field = field
        absolute = tolerances(float(rtol), atol, y.size)
        self._method = Method(*_constants(), len(STABLE), float(rtol), absolute, float(stiff_gradients))
        table = aligned_rows(7 + _DEPTH + 3, y.size)
        table[4] = y
        self._memory = Memory(
            table[0],
            table[1],
            table[2],
            table[3],
            table[4:7],
            table[7:],
            newest=_SLOTS[:3].copy(),
            times=np.zeros(_DEPTH + 3),
            slots=_SLOTS.copy(),
            norms=np.zeros(5),
            points=np.zeros(MOST_POINTS),
            spare=np.zeros(MOST_POINTS + GAUSS_POINTS.size),
            weights=np.zeros((ROWS, MOST_POINTS)),
            places=np.zeros(MOST_POINTS, np.int64),
        )
        self._record = new_record(1, _RECORD)
        self._now = self._record[0]
        for name in ("t", "t_before", "newest"):
            self._record[name] = t
        self._advance = (
            compiled(advance, helpers=HELPERS, twins=TWINS, inline=True, views=VIEWS) if field.compiled else advance
        )
        if not field.compiled:
            self._evaluate_here()

    def _finite(self) -> bool:
        """The loop looks at the start itself."""
        return True

    def _rules(self, look: bool) -> tuple:
        """Formulas and tolerances."""
        return (self._method._replace(stiff_gradients=math.inf) if look else self._method,)

    @property
    def _size(self) -> int:
        """Length of the state."""
        return self._memory.state.size

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers and arrays ("state", "velocities" and others), all copies.

        A stepper restored from it takes the steps of one longer run, bit for bit.
        """
        return _snapshot(self._now, self._memory)

    def later_snapshot(self) -> Any:
        """The snapshot, or a function that makes it as long as no further step is taken."""
        return partial(_snapshot, self._now, self._memory) if self._size <= SHORT else self.snapshot()

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes, counters included; dense output starts with the next step.

        Raises
        ------
        ValueError
            If the snapshot belongs to a state of another size.
        """
        now, m, state = self._now, self._memory, state_of(snapshot, self._size)
        for name in _NUMBERS + _COUNTERS + _COUNTS:
            now[name] = snapshot[name]
        count = len(snapshot["times"])
        m.newest[:], m.slots[:] = np.arange(3), np.arange(m.slots.size)
        m.states[:2], m.times[:count] = snapshot["points"], snapshot["times"]
        m.rows[:count], m.rows[m.slots[-3]] = snapshot["velocities"][:-1], snapshot["velocities"][-1]
        m.state[:] = m.state_before[:] = state
        now["t_before"], now["known"], now["inside_before"] = now["t"], count, 1
        now["has_value"] = now["has_value"] and not now["inside"]

    @property
    def state(self) -> np.ndarray:
        """State at ``t``, a copy."""
        return _state(self._now, self._memory).copy()

    @property
    def state_before(self) -> np.ndarray:
        """State at ``t_before``, a copy."""
        m = self._memory
        return (m.state_before if self._now["inside_before"] else m.states[m.newest[1]]).copy()

    @property
    def value(self) -> float:
        """Objective at the state; where a run has ended, it costs one gradient when first asked for."""
        self._evaluate_here()
        return float(self._now["value"])

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy; costs as ``value`` does, once for both."""
        self._evaluate_here()
        m = self._memory
        return (m.velocity if self._now["inside"] else m.rows[m.slots[0]]).copy()

    def _evaluate_here(self) -> None:
        """Evaluate the field at the state, if that was not done; at the newest point the next step needs it too."""
        now, m = self._now, self._memory
        if now["has_value"]:
            return
        now["gradients"] += 1
        now["has_value"] = 1
        if now["inside"]:
            now["value"] = self.field(self.t, m.state, m.velocity)
        else:
            now["value"] = now["newest_value"] = self.field(self.t, m.states[m.newest[0]], m.rows[m.slots[0]])
            now["due"] = now["known"] > 0


def _state(now, memory) -> np.ndarray:
    """State at t."""
    return memory.state if now["inside"] else memory.states[memory.newest[0]]


def _snapshot(now, memory) -> dict[str, Any]:
    """Numbers and arrays of a stepper, all copies."""
    m = memory
    count = min(max(int(now["order"]), int(now["used"])) + 2, int(now["known"]))
    kept = [*m.slots[:count], m.slots[-3]]
    numbers = dict(zip(_NUMBERS + _COUNTERS + _COUNTS, now.item(), strict=True))
    arrays = {"state": _state(now, m).copy(), "points": m.states[m.newest[:2]], "velocities": m.rows[kept]}
    return numbers | arrays | {"times": m.times[kept[:-1]]}


@cache
def _constants() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Error constants, safe stability limits, damping.

    The correction weighs gamma_k, the error of order k gamma_{k-1} - gamma_k.
    """
    most = len(STABLE)
    gamma = np.ones(most + 1)
    for k in range(1, most + 1):
        gamma[k] = 1.0 - sum(gamma[i] / (k + 1.0 - i) for i in range(k))
    damping = np.zeros(most + 1)
    damping[1 : len(DAMPING) + 1] = DAMPING
    stable, error = np.zeros((2, most + 1)), np.zeros((2, most + 1))
    stable[0, 1:], stable[1, 1 : len(STABLE_DAMPED) + 1] = STABLE, STABLE_DAMPED
    error[0, 1:], error[1] = gamma[:-1] - gamma[1:], (1.0 - damping) * gamma
    error *= [math.factorial(k) for k in range(most + 1)]
    return error, _SAFE * stable, damping
