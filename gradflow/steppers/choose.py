"""Solvers by name: which stepper runs which dynamics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gradflow.arguments import positive
from gradflow.dynamics.discrete import SGD
from gradflow.dynamics.flow import GradientFlow, rate_vector

EXPLICIT = ("dop853", "rk45")
FIXED = ("euler", "heun", "rk4")
SCIPY = ("LSODA", "Radau", "BDF")
TORCHDIFFEQ = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
TORCHDIFFEQ_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")
FIXED_NAMES = (*FIXED, *(f"torchdiffeq:{name}" for name in TORCHDIFFEQ_FIXED))
OWN = (*EXPLICIT, "adams", "stabilised", "stiff")
NAMES = ("auto", *OWN, *SCIPY, "cvode", *(f"torchdiffeq:{name}" for name in TORCHDIFFEQ))


@dataclass(frozen=True)
class FixedStep:
    r"""A method with a fixed step: own "euler", "heun", "rk4", or torchdiffeq's, such as "torchdiffeq:implicit_adams".

    "euler" takes :math:`z_{k+1} = z_k + h f(t_k, z_k)`, which for the plain flow is gradient descent.

    Parameters
    ----------
    method : str
        One of the names above.
    step : float
        Positive; the last step is cut at the end time.

    Examples
    --------
    >>> FixedStep("rk4", step=0.01)
    FixedStep(method='rk4', step=0.01)
    """

    method: str
    step: float

    def __post_init__(self):
        if self.method not in FIXED_NAMES:
            raise ValueError(f"method = {self.method!r}: unknown; choose one of {', '.join(FIXED_NAMES)}")
        positive(self.step, "step")

    def tightened(self, factor: float) -> FixedStep:
        """The same method with half the step."""
        return replace(self, step=self.step / 2)


@dataclass(frozen=True)
class Named:
    """A solver known by its name."""

    name: str

    def __str__(self):
        return self.name

    def tightened(self, factor: float) -> Named:
        """The same solver: its tolerances are tightened instead."""
        return self


@dataclass(frozen=True)
class Exact:
    """The exact step of a discrete rule."""

    def __str__(self):
        return "exact step"

    def tightened(self, factor: float) -> Exact:
        """The same."""
        return self


def checked_solver(solver, dynamics):
    """A solver as an object, or the error that lists the known names."""
    if dynamics.discrete:
        if solver not in ("auto", Exact()):
            raise ValueError(f"solver = {solver!r}: {type(dynamics).__name__} is a discrete rule, it needs no solver")
        return Exact()
    if isinstance(solver, FixedStep | Named):
        return solver
    if solver in FIXED_NAMES:
        raise ValueError(f"solver = {solver!r} has a fixed step: give gf.FixedStep({solver!r}, step=...)")
    if solver not in NAMES:
        known, meant = ", ".join(NAMES), [name for name in NAMES if name.lower() == str(solver).lower()]
        hint = f"did you mean {meant[0]!r}? " if meant else ""
        raise ValueError(f"solver = {solver!r}: unknown; {hint}choose one of {known}, or gf.FixedStep(method, step)")
    return Named(solver)


def make_stepper(problem, dynamics, t: float, state, arguments: dict) -> Any:
    """Stepper for a prepared dynamics at a state."""
    solver, kernel = arguments["solver"], problem.kernel
    if isinstance(dynamics, SGD):
        from gradflow.steppers.stochastic import Stochastic

        return Stochastic(problem, dynamics, t, state)
    field = make_field(problem, dynamics, kernel)
    if dynamics.discrete:
        from gradflow.steppers.fixed import Fixed

        return Fixed(field, t, state, step=dynamics.step, method="euler", whole_steps=True)
    rtol, atol = arguments["rtol"], arguments["atol"]
    if arguments["kinks"] == "follow":
        from gradflow.kinks.charted import masked_network
        from gradflow.steppers.kinked import Kinked
        from gradflow.steppers.kinked_auto import KinkedAuto

        pair, network = "dop853" if solver.name == "dop853" else "rk45", masked_network(problem, dynamics)
        at_branch = arguments["at_branch"]
        kind = KinkedAuto if solver.name == "auto" else Kinked
        return kind(problem, t, state, rtol=rtol, atol=atol, at_branch=at_branch, pair=pair, network=network)
    if arguments["kinks"] == "implicit":
        from gradflow.steppers.implicit_masks import ImplicitMasks

        return ImplicitMasks(problem, t, state, step=solver.step)
    if isinstance(solver, FixedStep):
        return _fixed(field, t, state, solver)
    return _adaptive(problem, dynamics, field, t, state, solver.name, rtol, atol)


def make_field(problem, dynamics, kernel):
    """The chain of a dynamics over a kernel; interpreted where a link is a Python function."""
    from gradflow.steppers.field import Field

    if kernel.compiled and not dynamics.compiled:
        kernel = replace(kernel, compiled=False)
    return Field(dynamics.links(problem), kernel, dynamics.coefficients(problem))


def _fixed(field, t, state, solver):
    if solver.method in FIXED:
        from gradflow.steppers.fixed import Fixed

        return Fixed(field, t, state, step=solver.step, method=solver.method)
    from gradflow.steppers.torchdiffeq_methods import Torchdiffeq

    return Torchdiffeq(field, t, state, method=solver.method.removeprefix("torchdiffeq:"), step=solver.step)


def _adaptive(problem, dynamics, field, t, state, name, rtol, atol):
    symmetric = isinstance(dynamics, GradientFlow) and dynamics.rates is None
    hessian = _jacobian(problem, dynamics) if isinstance(dynamics, GradientFlow) else None
    if name in EXPLICIT:
        from gradflow.steppers.explicit import Explicit

        return Explicit(field, t, state, rtol=rtol, atol=atol, pair=name)
    if name == "auto":
        from gradflow.steppers.auto import Auto

        options = {"symmetric": symmetric, "kinked": problem.network.kinked, "plain": symmetric}
        return Auto(field, t, state, rtol=rtol, atol=atol, **options)
    if name == "adams":
        from gradflow.steppers.adams import Adams

        return Adams(field, t, state, rtol=rtol, atol=atol)
    if name == "stabilised":
        from gradflow.steppers.stabilised import Stabilised

        return Stabilised(field, t, state, rtol=rtol, atol=atol)
    if name == "stiff":
        from gradflow.steppers.stiff import Stiff

        return Stiff(field, t, state, rtol=rtol, atol=atol, symmetric=symmetric)
    if name == "cvode":
        from gradflow.steppers.cvode import Cvode

        return Cvode(field, t, state, rtol=rtol, atol=atol, jacobian=hessian)
    if name in SCIPY:
        from gradflow.steppers.scipy_methods import Scipy

        return Scipy(field, t, state, rtol=rtol, atol=atol, method=name, jacobian=hessian)
    from gradflow.steppers.torchdiffeq_methods import Torchdiffeq

    return Torchdiffeq(field, t, state, rtol=rtol, atol=atol, method=name.removeprefix("torchdiffeq:"))


def _jacobian(problem, dynamics):
    """Exact Jacobian of the gradient flow: minus the Hessian, each row times its rate."""
    if dynamics.rates is None:
        return lambda t, state: -problem.hessian(state)
    rates = rate_vector(problem, dynamics.rates)[:, None]
    return lambda t, state: -rates * problem.hessian(state)
