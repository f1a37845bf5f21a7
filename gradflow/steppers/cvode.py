"""SUNDIALS CVODE, through scikit-sundae, as a stepper for stiff problems."""

import contextlib
import io
import math
import os
import re
import sys
from typing import Any

import numpy as np

from gradflow.status import Status
from gradflow.steppers.other_solver import Halt, Jacobian, OtherSolver, Velocity

_LARGEST_DENSE = 200
_KRYLOV_DIMENSION = 30
_COMPLAINT = re.compile(r"\n?\[\w+, Error: -?\d+\] (.*)\n\n?")


class Cvode(OtherSolver):
    r"""Stepper that drives CVODE: backward differences of variable order, for stiff problems.

    The Newton systems are solved by GMRES with products by differences of the field; by dense factors if there is a
    `jacobian` and S <= 200. A step that passes t_end is kept: the state at t_end is interpolated, and the next
    ``advance`` goes on from where CVODE is, so that neither saving nor pausing changes the steps. The field is then
    evaluated after t_end; where it is not finite there, the steps stop short of that. Local errors follow the
    tolerance, and add up: over long times expect 10 to 100 rtol.

    Parameters
    ----------
    field : Field
        Velocity: ``field(t, state, out)`` writes it to ``out`` and returns the objective.
    t : float
        Start time.
    state : array_like, (S,)
        Start state.
    rtol : float
        Relative tolerance, at least 2.3e-14.
    atol : float or array_like, (S,)
        Absolute tolerance.
    jacobian : callable, optional
        ``jacobian(t, state) -> (S, S)``, for the plain flow minus the Hessian; used for S <= 200.

    Raises
    ------
    ImportError
        If scikit-sundae is not installed.
    ValueError
        For tolerances too small, or a state that is not one flat vector.

    References
    ----------
    Hindmarsh et al.: SUNDIALS, suite of nonlinear and differential/algebraic equation solvers,
    ACM Transactions on Mathematical Software 31 (2005).

    Examples
    --------
    >>> from gradflow.steppers.cvode import Cvode
    >>> def bowl(t, state, out):
    ...     out[:] = -state
    ...     return 0.5 * float(state @ state)
    >>> stepper = Cvode(bowl, 0.0, [1.0], rtol=1e-9, atol=1e-11)
    >>> print(stepper.advance(1.0))
    reached the end time
    >>> print(stepper.t, round(float(stepper.state[0]), 6))
    1.0 0.367879
    """

    def __init__(
        self, field: Velocity, t: float, state: Any, *, rtol: float, atol: Any, jacobian: Jacobian = None
    ) -> None:
        try:
            from sksundae.cvode import CVODE
        except ImportError as missing:
            raise ImportError(
                "CVODE needs the package scikit-sundae: pip install 'gradflow[cvode]', or take another solver"
            ) from missing
        super().__init__(field, t, state, rtol, atol, jacobian)
        self._make = CVODE
        self._forget()

    def _forget(self) -> None:
        """Leave the solver for good."""
        self._solver: Any = None
        self._behind: Any = None
        self._front = (self.t, self._last.state)

    def _drop(self) -> None:
        """Leave a solver that stopped in the middle of a step; it still interpolates the step before."""
        self._solver = None

    def _begin(self, first_step: float | None) -> None:
        """Make a solver at the state."""
        options: dict[str, Any] = {"linsolver": "gmres", "krylov_dim": _KRYLOV_DIMENSION}
        if self.jacobian is not None and self._last.state.size <= _LARGEST_DENSE:
            options = {"linsolver": "dense", "jacfn": self._fill_jacobian}
        if first_step is not None:
            options["first_step"] = first_step
        self._solver = self._make(self._fill, method="BDF", rtol=self.rtol, atol=self.atol, **options)
        with _unlogged():
            self._solver.init_step(self.t, self.state)
        self._front = (self.t, self.state)

    def _fill(self, t: float, state: np.ndarray, out: np.ndarray) -> None:
        """Write the velocity where CVODE wants it."""
        out[:] = self._velocity(t, state)

    def _fill_jacobian(self, t: float, state: np.ndarray, velocity: np.ndarray, out: np.ndarray) -> None:
        """Write the Jacobian where CVODE wants it."""
        out[:] = self._matrix(t, state)

    def _step(self, t_end: float, times: np.ndarray, first_step: float | None) -> None:
        """Take one step of CVODE, or the rest of one that went past the last t_end."""
        if self._solver is None:
            self._begin(first_step)
        if not self._front[0] > self.t:
            self._drive(t_end)
        t, state = self._front
        if t > t_end:
            t, state = t_end, self._interpolate(t_end)
        self._accept(t, state.copy())

    def _drive(self, t_end: float) -> None:
        """Take one step of CVODE; the first call after an interpolation only goes back to the end of the last one."""
        t = self._front[0]
        towards = max(t_end if math.isfinite(t_end) else 0.0, t + 1e-9 * max(abs(t), 1e-9))
        for _ in range(2):
            with _quiet() as said:
                result = self._solver.step(towards, "onestep", None)
            if result.status < 0:
                raise Halt(Status.SOLVER_FAILED, said[-1] if said else f"CVODE: {result.message}")
            if result.t > t:
                break
        else:
            raise Halt(Status.STEP_TOO_SMALL, f"CVODE: time stands still at t = {t:.17g}")
        if not np.isfinite(result.y).all():
            raise Halt(Status.DIVERGED, f"the state is not finite near t = {result.t:.17g}", float(result.t))
        self._behind = self._solver
        self._front = (float(result.t), result.y)

    def _interpolate(self, t: float) -> np.ndarray:
        """State inside the last step of CVODE."""
        with _quiet() as said:
            result = self._behind.step(t, "normal", None)
        if result.status < 0:
            raise Halt(Status.SOLVER_FAILED, said[-1] if said else f"CVODE: {result.message}")
        return result.y

    def _inside(self, times: np.ndarray) -> np.ndarray:
        """States inside the last step by CVODE's interpolant."""
        return np.array([self._interpolate(t) for t in times])


@contextlib.contextmanager
def _unlogged():
    """Give SUNDIALS, which looks for its log file when it starts, another one than the terminal."""
    name = "SUNLOGGER_WARNING_FILENAME"
    chosen = name in os.environ
    os.environ.setdefault(name, os.devnull)
    try:
        yield
    finally:
        if not chosen:
            del os.environ[name]


@contextlib.contextmanager
def _quiet():
    """Collect what CVODE prints, and hand on what others do."""
    said: list[str] = []
    streams = sys.stdout, sys.stderr
    caught = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(caught[0]), contextlib.redirect_stderr(caught[1]):
            yield said
    finally:
        for stream, text in zip(streams, (each.getvalue() for each in caught), strict=True):
            said.extend(f"CVODE: {complaint}" for complaint in _COMPLAINT.findall(text))
            if rest := _COMPLAINT.sub("", text):
                stream.write(rest)
