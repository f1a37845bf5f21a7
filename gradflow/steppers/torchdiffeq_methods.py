"""Solvers of torchdiffeq as steppers."""

import math
from collections import deque
from typing import Any

import numpy as np

from gradflow.status import Status
from gradflow.steppers.other_solver import Halt, OtherSolver, Velocity

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
_MULTISTEP = ("explicit_adams", "implicit_adams")
_MULTISTEP_STRETCH = 100


class Torchdiffeq(OtherSolver):
    r"""Stepper that hands single steps to ``torchdiffeq.odeint``.

    An adaptive method is left after each accepted step, at its end and with the step size it proposes; its own output,
    which interpolates to fourth order whatever the method, is not used. So steps end at every time of ``save_at`` and
    at t_end, and saving changes the steps. A method of fixed steps divides the stretch to the next such time evenly
    into steps of at most `step`. The Adams methods, which start from scratch in every call, count a stretch of up to
    100 steps as one; "explicit_adams", of order up to 11, is stable only for `step` below about 0.003 / sharpness.

    There is no interpolant: ``dense`` integrates once more from ``t_before``, and these gradients count. ``rejected``
    is 0 for fixed steps.

    Parameters
    ----------
    field : Field
        Velocity: ``field(t, state, out)`` writes it to ``out`` and returns the objective.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    rtol : float
        Relative tolerance, at least 2.3e-14; for "implicit_adams" that of its iteration.
    atol : float or array_like, (S,)
        Absolute tolerance.
    method : str
        Adaptive: "dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun". Fixed steps: "euler", "midpoint", "heun2",
        "heun3", "rk4", "explicit_adams", "implicit_adams".
    step : float, optional
        Step size, for fixed steps only.

    Raises
    ------
    ValueError
        For an unknown method, a missing, needless or non-positive `step`, tolerances too small, or a state that is
        not one flat vector.

    References
    ----------
    Chen, Rubanova, Bettencourt, Duvenaud: Neural ordinary differential equations, arXiv:1806.07366.

    Examples
    --------
    >>> from gradflow.steppers.torchdiffeq_methods import Torchdiffeq
    >>> def bowl(t, state, out):
    ...     out[:] = -state
    ...     return 0.5 * float(state @ state)
    >>> stepper = Torchdiffeq(bowl, 0.0, [1.0], rtol=1e-9, atol=1e-11, method="dopri5")
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 6))
    1.0 0.367879
    """

    _same_time = 1

    def __init__(
        self,
        field: Velocity,
        t: float,
        state: Any,
        *,
        rtol: float = 1e-7,
        atol: Any = 1e-9,
        method: str = "dopri8",
        step: float | None = None,
    ) -> None:
        if method not in ADAPTIVE + FIXED:
            raise ValueError(
                f"method = {method!r}: torchdiffeq's adaptive methods are {', '.join(ADAPTIVE)};"
                f" those of fixed steps are {', '.join(FIXED)}"
            )
        if method in FIXED and (step is None or not step > 0.0):
            raise ValueError(f"step = {step}: method {method!r} has fixed steps; give step > 0, say step=0.01")
        if method in ADAPTIVE and step is not None:
            raise ValueError(f"step = {step}: method {method!r} chooses its own steps; leave step out, give rtol")
        super().__init__(field, t, state, rtol, atol)
        self.method = method
        self.step = step
        self._trials = 20 if step is None else 1
        self._forget()

    def _forget(self) -> None:
        """Let the next step be chosen anew."""
        self._size: float | None = None
        self._tried: float | None = None

    def _drop(self) -> None:
        """Nothing outlives a call of odeint but the proposed step size, which a step given up does not change."""

    def _step(self, t_end: float, times: np.ndarray, first_step: float | None) -> None:
        """Take one step, not beyond the next time that is asked for."""
        later = times[np.searchsorted(times, self.t, side="right") :]
        stop = min(t_end, later[0]) if later.size else t_end
        if self.step is not None:
            return self._fixed_step(self._grid(self.t, stop, self.step))
        trial = self._size if first_step is None else first_step
        watch = _Watch(self)
        t, state, proposed = self._adaptive(watch, self.t, self._last.state, stop, trial)
        self.counts["rejected"] += watch.rejected
        self._tried = watch.sizes[-1]
        cut = self.t + self._tried > t == stop
        self._size = max(proposed, self._tried) if cut else proposed
        self._accept(t, state)

    def _adaptive(self, watch: "_Watch", t: float, state: np.ndarray, stop: float, first_step: float | None):
        """Take one adaptive step, cut at `stop`; return its end and the step size proposed after it."""
        options: dict[str, Any] = {} if first_step is None else {"first_step": first_step}
        beyond = t + 2.0 * (stop - t)
        if math.isfinite(beyond):
            options["step_t"] = _tensor([stop])
        else:
            beyond = np.finfo(np.float64).max
        try:
            self._odeint(watch, state, [t, beyond], options)
        except _StepDone as done:
            return done.t, done.state, done.proposed
        raise Halt(Status.SOLVER_FAILED, f"{self.method}: no step was taken at t = {t:.17g}")

    def _grid(self, t: float, stop: float, step: float) -> np.ndarray:
        """Equal steps towards `stop`: one, or up to 100 for the methods with a memory."""
        count = math.ceil((stop - t) / step - 1e-9) if math.isfinite(stop) else math.inf
        taken = int(min(max(count, 1), _MULTISTEP_STRETCH if self.method in _MULTISTEP else 1))
        size = (stop - t) / max(count, 1) if math.isfinite(stop) else step
        grid = t + size * np.arange(taken + 1)
        if taken >= count:
            grid[-1] = stop
        return grid

    def _fixed_step(self, grid: np.ndarray) -> None:
        """Take the steps of a grid."""
        if not np.all(np.diff(grid) > 0.0):
            raise Halt(Status.STEP_TOO_SMALL, f"{self.method}: time stands still at t = {self.t:.17g}")
        rate = _Rate(self)
        try:
            t, state = float(grid[-1]), self._on_grid(rate, grid, self._last.state)
            self._velocity(t, state)
        except Halt as halt:
            taken, t, state = rate.nodes[0 if halt.status == Status.DIVERGED else -1]
            if taken > 0:
                self._accept(t, state, taken)
            raise
        self._accept(t, state, grid.size - 1)

    def _on_grid(self, rate: "_Rate", grid: np.ndarray, state: np.ndarray) -> np.ndarray:
        """State at the end of a grid."""
        nodes = _tensor(grid)
        options = {"grid_constructor": lambda field, start, ends: nodes}
        return self._odeint(rate, state, [grid[0], grid[-1]], options)[-1].numpy()

    def _odeint(self, rate: Any, state: np.ndarray, times: Any, options: dict[str, Any]) -> Any:
        """Call torchdiffeq."""
        import torch
        from torchdiffeq import odeint

        tolerances = {"rtol": self.rtol, "atol": _tensor(self.atol)}
        try:
            with torch.no_grad():
                return odeint(rate, _tensor(state), _tensor(times), method=self.method, options=options, **tolerances)
        except AssertionError as failure:
            raise Halt(Status.SOLVER_FAILED, f"{self.method}: {failure}") from failure

    def _inside(self, times: np.ndarray) -> np.ndarray:
        """States inside the last step, by integrating it once more up to each time."""
        last, states = self._last, np.empty((times.size, self._last.state.size))
        t, state, size = last.t_before, last.state_before, self._tried
        for time, row in zip(times, states, strict=True):
            if self.step is not None:
                count = math.ceil((time - last.t_before) / self.step - 1e-9)
                row[:] = self._on_grid(_Rate(self), np.linspace(last.t_before, time, count + 1), last.state_before)
                continue
            while t < time:
                t, state, size = self._adaptive(_Watch(self), t, state, float(time), size)
            row[:] = state
        return states


class _StepDone(Exception):
    """Leave odeint: a step is accepted, and the next one is proposed."""

    def __init__(self, t: float, state: np.ndarray, proposed: float) -> None:
        super().__init__(t)
        self.t, self.state, self.proposed = t, state, proposed


class _Rate:
    """Right-hand side on tensors, which remembers the starts of the last two steps."""

    def __init__(self, solver: Torchdiffeq) -> None:
        self.solver = solver
        self.nodes: deque[tuple[int, float, np.ndarray]] = deque(maxlen=2)
        self.steps = 0

    def __call__(self, t: Any, state: Any) -> Any:
        return _tensor(self.solver._velocity(float(t), state.numpy()))

    def callback_step(self, t: Any, state: Any, size: Any) -> None:
        """Before each step: its start and size."""
        self.nodes.append((self.steps, float(t), state.numpy().copy()))
        self.steps += 1


class _Watch(_Rate):
    """Right-hand side that follows the steps and leaves after the first accepted one."""

    def __init__(self, solver: Torchdiffeq) -> None:
        super().__init__(solver)
        self.sizes: list[float] = []
        self.accepted = False
        self.rejected = 0

    def callback_step(self, t: Any, state: Any, size: Any) -> None:
        """Before each trial: its start and size."""
        t, size = float(t), float(size)
        if self.accepted:
            raise _StepDone(t, state.numpy().copy(), size)
        if not t + size > t:
            raise Halt(Status.STEP_TOO_SMALL, f"{self.solver.method}: step size {size:.3g} at t = {t:.17g}")
        self.sizes.append(size)

    def callback_accept_step(self, t: Any, state: Any, size: Any) -> None:
        """After a trial that is accepted."""
        self.accepted = True

    def callback_reject_step(self, t: Any, state: Any, size: Any) -> None:
        """After a trial that is rejected."""
        self.rejected += 1


def _tensor(array: Any) -> Any:
    """Copy as a float64 tensor."""
    import torch

    return torch.from_numpy(np.array(array, dtype=np.float64))
