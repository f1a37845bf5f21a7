"""Implicit stepper for stiff flows: backward differentiation, Newton systems solved without a matrix."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gradflow.kernels.calls import PRODUCT, address, compiled
from gradflow.steppers import stiff_linear, stiff_newton
from gradflow.steppers.field import Field
from gradflow.steppers.saving import start_vector, state_of
from gradflow.steppers.stepper import Stepper

_STEPS_POWER = 1.0 / 7.0
_TOWARDS_NEXT_ORDER = 0.6
_GENERAL = (-0.1850, -1 / 9, -0.0823, -0.0415, 0.0)
_MOST_DIRECTIONS = 50
_LARGEST_MATRIX = 500

_NUMBERS = tuple("t t_before newest h factor value guess last_value remainder inverted spacing".split())
_COUNTERS = tuple("order next_order equal failures trusted exact since_jacobian since_inverse".split())
_FLAGS = tuple("buffer has_value spent dense has_matrix fresh".split())
_COUNTS = tuple("gradients hessian_products accepted rejected".split())
_RECORD = np.dtype([(name, "f8") for name in _NUMBERS] + [(name, "i8") for name in _COUNTERS + _FLAGS + _COUNTS])


class Method(NamedTuple):
    """Formula by order, tolerances, what is known of the Jacobian, and after how many products a new one pays."""

    alpha: np.ndarray
    gamma: np.ndarray
    error: np.ndarray
    most_order: int
    rtol: float
    atol: np.ndarray
    least_spacing: float
    symmetric: bool
    plain: bool
    has_product: bool
    product: Any
    jacobian_after: float
    inverse_after: float


class Memory(NamedTuple):
    """Arrays of one run.

    ``state`` and ``state_before`` are what the caller sees, ``velocity`` belongs to ``state``. ``history`` (2, rows, S)
    holds the differences of the accepted step and those of the trial step. ``point`` is the iterate of Newton's method,
    ``slope`` the velocity there, ``correction`` what has been added to the prediction.
    """

    state: np.ndarray
    state_before: np.ndarray
    velocity: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    point: np.ndarray
    slope: np.ndarray
    correction: np.ndarray
    residual: np.ndarray
    change: np.ndarray
    direction: np.ndarray
    image: np.ndarray
    trial: np.ndarray
    history: np.ndarray
    directions: np.ndarray
    images: np.ndarray
    jacobian: np.ndarray
    inverse: np.ndarray


class Stiff(Stepper):
    r"""Stepper for stiff flows: numerical differentiation formulas of variable order and step size.

    The formula of order k, with :math:`\nabla` the backward difference on an even grid of spacing h and
    :math:`\gamma_k = 1 + 1/2 + \dots + 1/k`,

    .. math:: \sum_{j=1}^{k} \frac{1}{j} \nabla^j y_n - \kappa_k \gamma_k (y_n - \tilde y_n) = h f(t_n, y_n), \qquad
              \tilde y_n \text{ predicted,}

    is solved by Newton's method, each linear system :math:`(I - cJ) x = r` by conjugate gradients for a symmetric
    Jacobian J, else by conjugate residuals (GCR), with products J x from difference quotients of the velocity: about
    one gradient each. Where their noise makes a system look indefinite (c times the curvature beyond 1e7), exact
    Hessian products take over if the kernel has them. For S up to 500 a dense Jacobian, used as preconditioner and kept
    over many steps, comes in as soon as the products that it would have saved outnumber its own.

    The spectrum of a symmetric Jacobian is real, so orders up to 6 are stable and :math:`\kappa_k` goes 60 % of the way
    from BDF k to BDF k + 1; other Jacobians get the orders up to 5 and the coefficients of Shampine and Reichelt.

    A run to rtol takes about rtol^(-1/7) steps, and on slow flows their errors add up. So the error of one step is held
    to rtol^(8/7), and the error at the end keeps in proportion to rtol: 0.1 to 7 times rtol at the end of flows that
    relax to a minimum, for rtol from 1e-3 to 1e-12. Growth along saddles magnifies earlier errors, and a mode that is
    smaller than atol while it grows is not resolved at all: there, choose a smaller atol.

    t_end does not change the steps: the last one goes past it, and the state there is interpolated; the next call goes
    on from where the steps are, with the same bits as one longer run.
    A bound ``loss_below`` costs a gradient per step, except for the plain flow, where each step estimates the
    objective. A step that the bound on gradients interrupts is tried anew by the next call.

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
    dense : bool, optional
        True: the dense Jacobian from the first step on. False: never. Default: when it pays.
    symmetric : bool
        Whether the Jacobian of the field is symmetric: the plain flow, also in a time of its own. A field of one link
        is then taken to be minus the gradient.

    Raises
    ------
    ValueError
        If a tolerance is negative, both are zero, or shapes do not agree.

    References
    ----------
    Shampine, Reichelt: The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997); Knoll, Keyes: Jacobian-free
    Newton-Krylov methods, J. Comput. Phys. 193 (2004).

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import call
    >>> from gradflow.kernels.kernel import Kernel
    >>> from gradflow.steppers.field import Field
    >>> from gradflow.steppers.stiff import Stiff
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = np.array([1.0, 1e6]) * theta
    ...     return 0.5 * float(theta @ out)
    >>> def flow(t, state, out, chain, numbers, layout, work, coefficients):
    ...     value = call(chain[0], state, out, numbers, layout, work)
    ...     out[:] = -out
    ...     return value
    >>> kernel = Kernel("bowl", bowl, None, np.zeros(1), np.zeros(0, np.int64), 0, compiled=False, flops=4.0)
    >>> stepper = Stiff(Field((flow,), kernel), 0.0, [1.0, 1.0], rtol=1e-6, atol=1e-8)
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 5))
    1.0 0.36788
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
        dense: bool | None = None,
        symmetric: bool = True,
    ) -> None:
        y = start_vector(state)
        self.field = field
        self._method = _method(field, _tolerances(float(rtol), atol, y.size), dense, bool(symmetric))
        self._memory = _memory(y, math.isfinite(self._method.jacobian_after), bool(symmetric))
        self._record = np.zeros(2, _RECORD)
        self._now = self._record[0]
        self._advance = _advance(field.compiled)
        self._begin(float(t), bool(dense))

    def _begin(self, t: float, dense: bool) -> None:
        """Evaluate the start, and make a first step of half the tolerance."""
        now, memory, method = self._now, self._memory, self._method
        now["t"] = now["t_before"] = now["newest"] = t
        now["value"] = self.field(t, memory.state, memory.velocity)
        now["gradients"] = now["has_value"] = now["order"] = now["next_order"] = now["factor"] = 1
        now["remainder"] = -1.0
        now["dense"] = dense
        with np.errstate(all="ignore"):
            scaled = memory.velocity / (method.atol + method.rtol * np.abs(memory.state))
        speed = float(np.linalg.norm(scaled)) / math.sqrt(scaled.size)
        now["h"] = min(0.5 / speed, 1e100) if speed > 0.0 else 1.0
        memory.history[0, 0] = memory.state
        memory.history[0, 1] = now["h"] * memory.velocity

    def _rules(self, look: bool) -> tuple:
        """Formulas and tolerances."""
        return (self._method,)

    @property
    def _size(self) -> int:
        """Length of the state."""
        return self._memory.state.size

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on: numbers, and three arrays ("state", "velocity", "history"), all copies."""
        now, memory = self._now, self._memory
        numbers = {name: now[name].item() for name in _NUMBERS + _COUNTERS + _FLAGS + _COUNTS}
        history = memory.history[now["buffer"], : max(now["order"], now["next_order"]) + 3].copy()
        return numbers | {"state": memory.state.copy(), "velocity": memory.velocity.copy(), "history": history}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes, counters included.

        The steps that follow are those of the run it was taken from, bit for bit as long as no dense Jacobian is in
        use: that is not part of the snapshot, and is made anew. Dense output starts with the next step.

        Raises
        ------
        ValueError
            If the snapshot belongs to a state of another size.
        """
        now, memory = self._now, self._memory
        state = state_of(snapshot, self._size)
        for name in _NUMBERS + _COUNTERS + _FLAGS + _COUNTS:
            now[name] = snapshot[name]
        now["t_before"], now["buffer"], now["has_matrix"], now["inverted"] = now["t"], 0, 0, 0.0
        memory.state[:] = memory.state_before[:] = state
        memory.velocity[:] = snapshot["velocity"]
        memory.history[0, : len(snapshot["history"])] = snapshot["history"]

    @property
    def state(self) -> np.ndarray:
        """State at ``t``, a copy."""
        return self._memory.state.copy()

    @property
    def state_before(self) -> np.ndarray:
        """State at ``t_before``, a copy."""
        return self._memory.state_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state; costs one gradient when first asked for there."""
        self._evaluate_here()
        return float(self._now["value"])

    @property
    def velocity(self) -> np.ndarray:
        """Velocity at the state, a copy; costs as ``value`` does, once for both."""
        self._evaluate_here()
        return self._memory.velocity.copy()

    def _evaluate_here(self) -> None:
        """Evaluate the field at the state, if that was not done."""
        now, memory = self._now, self._memory
        if not now["has_value"]:
            now["value"] = self.field(self.t, memory.state, memory.velocity)
            now["gradients"] += 1
            now["has_value"] = 1

    def at_newest(self) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Objective, velocity and acceleration at the end of a step of the plain flow, as the formula has them.

        They cost no gradient: the velocity is that of the formula, right to what Newton's method left, the objective
        follows from the last iterate, the acceleration from the differences. None where a step was cut, or before one.
        """
        now, memory, method = self._now, self._memory, self._method
        if not method.plain or now["accepted"] == 0 or now["t"] != now["newest"]:
            return None
        order, h = int(now["order"]), float(now["h"])
        velocity = (memory.correction + memory.offset) * (method.alpha[order] / h)
        j = np.arange(2, order + 2)
        differences = memory.history[now["buffer"], 2 : order + 2]
        return float(now["guess"]), velocity, (2.0 * method.gamma[j - 1] / j) @ differences / h / h

    @property
    def differences(self) -> tuple[float, np.ndarray]:
        """Length of the last accepted step, and the backward differences (order + 2, S) of its polynomial."""
        now = self._now
        return float(now["h"]), self._memory.history[now["buffer"], : now["order"] + 2].copy()


def _tolerances(rtol: float, atol: Any, size: int) -> tuple[float, np.ndarray]:
    """Tolerances of a step: those of the run, shared out among its steps; a zero becomes a number that can divide."""
    given = np.asarray(atol, dtype=np.float64)
    if given.ndim and given.shape != (size,):
        raise ValueError(f"atol has shape {given.shape}: it must be a number or have shape ({size},), as the state")
    if not (rtol >= 0.0 and np.all(given >= 0.0) and (rtol > 0.0 or np.all(given > 0.0))):
        raise ValueError(f"rtol = {rtol}, atol = {atol}: tolerances must not be negative, nor both be zero")
    share = min(max(rtol if rtol > 0.0 else float(given.min()), 1e-12), 1.0) ** _STEPS_POWER
    return share * rtol, np.clip(np.broadcast_to(share * given, (size,)), 1e-300, 1e150)


def _advance(is_compiled: bool) -> Callable:
    """The loop, compiled or not."""
    if not is_compiled:
        return stiff_newton.advance
    helpers = stiff_linear.HELPERS + stiff_newton.HELPERS
    return compiled(stiff_newton.advance, helpers=helpers, twins=stiff_linear.TWINS)


def _method(field: Field, tolerances: tuple[float, np.ndarray], dense: bool | None, symmetric: bool) -> Method:
    """Coefficients of the formulas, and costs in gradients of a dense Jacobian and its inverse."""
    rtol, atol = tolerances
    orders = np.arange(9.0)
    gamma = np.concatenate([[0.0], np.cumsum(1.0 / orders[1:])])
    kappa = np.zeros(9)
    kappa[1:6] = -_TOWARDS_NEXT_ORDER / ((orders[1:6] + 1.0) * gamma[1:6]) if symmetric else _GENERAL
    plain = symmetric and len(field.links) == 1
    product: Any = 0
    if plain and field.kernel.product is not None:
        product = address(field.kernel.product, PRODUCT) if field.compiled else field.kernel.product
    size = atol.size
    inverse = 2.0 * size**3 / max(field.kernel.flops, 1.0)
    pays = dense or (dense is None and size <= _LARGEST_MATRIX)
    return Method(
        alpha=(1.0 - kappa) * gamma,
        gamma=gamma,
        error=kappa * gamma + 1.0 / (orders + 1.0),
        most_order=6 if symmetric else 5,
        rtol=rtol,
        atol=atol,
        least_spacing=0.1 * float(atol.min()) * math.sqrt(size),
        symmetric=symmetric,
        plain=plain,
        has_product=product != 0,
        product=product,
        jacobian_after=size + inverse if pays else math.inf,
        inverse_after=inverse,
    )


def _memory(y: np.ndarray, dense: bool, symmetric: bool) -> Memory:
    """Arrays for a start state; those that the method does not use are empty."""
    size = y.size
    vectors = {name: np.zeros(size) for name in Memory._fields[:13]} | {"state": y.copy(), "state_before": y.copy()}
    square = size if dense else 0
    most = 0 if symmetric else min(size, _MOST_DIRECTIONS)
    return Memory(
        **vectors,
        history=np.zeros((2, 9, size)),
        directions=np.zeros((most, size)),
        images=np.zeros((most, size)),
        jacobian=np.zeros((square, square)),
        inverse=np.zeros((square, square)),
    )
