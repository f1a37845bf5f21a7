"""The one-step solvers of scipy as steppers."""

import math
import warnings
from typing import Any

import numpy as np

from gradflow.status import Status
from gradflow.steppers.other_solver import Halt, Jacobian, OtherSolver, Velocity, not_finite

METHODS = ("LSODA", "Radau", "BDF", "DOP853", "RK45", "RK23")
_RUNGE_KUTTA = ("DOP853", "RK45", "RK23")
_ONE_STEP = ("Radau", *_RUNGE_KUTTA)


class Scipy(OtherSolver):
    r"""Stepper that drives a one-step solver object of ``scipy.integrate``.

    Radau and the Runge-Kutta methods cut the step that would pass t_end. LSODA and BDF, whose history a cut would
    harm, keep it: they step past t_end and interpolate back, and the next ``advance`` goes on from where they are, so
    that pausing does not change the steps. The field is then evaluated after t_end; where it is not finite there, the
    steps stop short of that. Nothing restarts between two calls of ``advance``, except after a step given up halfway.

    Parameters
    ----------
    field : Field
        Velocity: ``field(t, state, out)`` writes it to ``out`` and returns the objective.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    rtol : float
        Relative tolerance, at least 2.3e-14, where scipy would silently take its own.
    atol : float or array_like, (S,)
        Absolute tolerance.
    method : {"LSODA", "Radau", "BDF", "DOP853", "RK45", "RK23"}
        The first three are for stiff problems.
    jacobian : callable, optional
        ``jacobian(t, state) -> (S, S)``, for the plain flow minus the Hessian; for stiff methods only. Default:
        differences by the solver, S gradients each, counted.

    Raises
    ------
    ValueError
        For an unknown method, tolerances too small, or a state that is not one flat vector.

    Examples
    --------
    >>> from gradflow.steppers.scipy_methods import Scipy
    >>> def bowl(t, state, out):
    ...     out[:] = -state
    ...     return 0.5 * float(state @ state)
    >>> stepper = Scipy(bowl, 0.0, [1.0], rtol=1e-9, atol=1e-11, method="LSODA")
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 6))
    1.0 0.367879
    """

    def __init__(
        self,
        field: Velocity,
        t: float,
        state: Any,
        *,
        rtol: float,
        atol: Any,
        method: str = "LSODA",
        jacobian: Jacobian = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method = {method!r}: scipy's methods are {', '.join(METHODS)}")
        super().__init__(field, t, state, rtol, atol, jacobian)
        self.method = method
        self._reserve = 3 if method == "DOP853" else 0
        self._forget()

    def _forget(self) -> None:
        """Leave the solver for good."""
        self._solver: Any = None
        self._interpolant: Any = None
        self._next_size: float | None = None

    def _drop(self) -> None:
        """Leave a solver that stopped in the middle of a step; a Runge-Kutta step can be repeated as it was."""
        if self._solver is not None and self.method in _RUNGE_KUTTA:
            self._next_size = self._solver.h_abs
        self._solver = None

    def _begin(self, t: float, state: np.ndarray, bound: float, first_step: float | None, slack: float = 1.0) -> Any:
        """Make a solver at a time and state."""
        from scipy import integrate

        options: dict[str, Any] = {} if first_step is None else {"first_step": min(first_step, bound - t)}
        if self.jacobian is not None and self.method not in _RUNGE_KUTTA:
            options["jac"] = self._matrix
        solver = getattr(integrate, self.method)
        return solver(self._velocity, t, state, bound, rtol=slack * self.rtol, atol=slack * self.atol, **options)

    def _bound(self, t_end: float) -> float:
        """How far the solver may go; LSODA bounds its first step by it and needs a finite number."""
        if self.method == "LSODA":
            return self.t + 1e6 * (t_end - self.t if math.isfinite(t_end) else max(abs(self.t), 1.0))
        return t_end if self.method in _ONE_STEP else math.inf

    def _step(self, t_end: float, times: np.ndarray, first_step: float | None) -> None:
        """Take one step of the solver, or the rest of one that went past the last t_end."""
        solver = self._solver
        ahead = solver is not None and solver.t > self.t
        if self.method in _ONE_STEP and solver is not None:
            solver.t_bound, solver.status = t_end, "running"
        if solver is None or (solver.status == "finished" and not ahead):
            first_step = self._next_size if first_step is None else first_step
            solver = self._solver = self._begin(self.t, self.state, self._bound(t_end), first_step)
        if not ahead:
            self._drive(solver)
        past = solver.t > t_end
        self._accept(t_end if past else float(solver.t), self._interpolant(t_end) if past else solver.y.copy())

    def _drive(self, solver: Any) -> None:
        """Take one step of the solver."""
        t, calls, size = solver.t, solver.nfev, getattr(solver, "h_abs", 0.0)
        message = self._attempt(solver)
        if solver.status == "failed":
            small = message == getattr(solver, "TOO_SMALL_STEP", "")
            raise Halt(Status.STEP_TOO_SMALL if small else Status.SOLVER_FAILED, f"{self.method}: {message}")
        if not solver.t > t:
            raise Halt(Status.STEP_TOO_SMALL, f"{self.method}: time stands still at t = {t:.17g}")
        if not np.isfinite(solver.y).all():
            raise not_finite("state", solver.t)
        if self.method in _RUNGE_KUTTA:
            self.counts["rejected"] += (solver.nfev - calls) // solver.n_stages - 1
            if t + size > solver.t == solver.t_bound:
                solver.h_abs = max(solver.h_abs, size)
        self._interpolant = None if self.method == "DOP853" else solver.dense_output()

    def _attempt(self, solver: Any) -> str:
        """Step, and return what the solver says, LSODA's warnings included; other warnings are handed on."""
        if self.method != "LSODA":
            return solver.step() or ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            message = solver.step() or ""
        for warning in caught:
            if str(warning.message).startswith("lsoda: "):
                message = str(warning.message).removeprefix("lsoda: ")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return message

    def _inside(self, times: np.ndarray) -> np.ndarray:
        """States inside the last step by the solver's interpolant; that of DOP853 costs three gradients when used."""
        if self._interpolant is None:
            last, solver = self._last, self._solver
            if solver is None:
                solver = self._begin(last.t_before, last.state_before, last.t, last.t - last.t_before, slack=10.0)
                solver.step()
            self._interpolant = solver.dense_output()
        return self._interpolant(times).T
