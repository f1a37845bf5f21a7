"""Which stepper runs a phase of a clocked run, and the Jacobians in the variables of the clocks."""

from __future__ import annotations

import numpy as np

from gradflow.clocks.kinds import Normalised, Time
from gradflow.steppers.choose import EXPLICIT, FixedStep

DENSE_LIMIT = 500

STEPS_PER_STIFFNESS = 1.0 / 6.2
GRADIENTS_PER_STEP = 12
MOST_EXPLICIT = 3000.0


def stepping_clock(base, moment, clock, solver, log_loss_end, kinked):
    """The clock that the steps are taken in: implicit steps of a loss clock in the one with a symmetric Jacobian."""
    implicit = solver.name == "stiff" or (
        solver.name == "auto" and clock.by_descent and not explicit_pays(base, moment, log_loss_end)
    )
    if kinked and clock.name == "log_time":
        return Time(clock)
    implicit = implicit or kinked
    return Normalised(clock) if implicit and clock.by_descent and base.plain and (base.tailed or kinked) else clock


def make_stepper(phase, solver, rtol, atol, first_step, deep, at_branch=None):
    """Stepper of a phase: the one that was named; for "auto" implicit where the clock was chosen for that.

    `deep`: long plateaus may follow, which the solver with the exact Jacobian passes best. `at_branch`: kinks are
    followed in physical time, with this choice where the flow is not unique.
    """
    name, base, clock = solver.name, phase.base, phase.clock
    field, tau, state = base.clocked(clock), phase.moment.tau, phase.moment.state
    if at_branch is not None and clock.name == "time":
        from gradflow.kinks.charted import masked_network
        from gradflow.steppers.kinked import Kinked

        pair, network = "dop853" if name == "dop853" else "rk45", masked_network(base.problem, base.dynamics)
        return Kinked(base.problem, tau, state, rtol=rtol, atol=atol, at_branch=at_branch, pair=pair, network=network)
    if at_branch is not None and base.log and base.symmetric:
        from gradflow.clocks.kinked import kinked_stepper

        options = {"pair": "dop853" if name == "dop853" else "rk45", "at_branch": at_branch, "implicit": name == "auto"}
        return kinked_stepper(base.problem, clock, tau, state, rtol=rtol, atol=atol, **options)
    symmetric = base.symmetric and (clock.exact_time or isinstance(clock, Normalised))
    if name == "auto" and clock.by_descent:
        name = "stiff" if isinstance(clock, Normalised) or (base.tailed and not base.plain) else "dop853"
    if name == "auto" and clock.exact_time and deep and base.plain and state.size <= DENSE_LIMIT:
        name = "LSODA"
    if name == "auto" and clock.exact_time:
        from gradflow.steppers.auto import Auto

        if any("handed over" in note for note in getattr(phase.stepper, "notes", [])):
            name = "stiff"
        else:
            kinked = base.problem.network.kinked
            return Auto(field, tau, state, rtol=rtol, atol=atol, symmetric=symmetric, kinked=kinked)
    if name == "auto" or name in EXPLICIT:
        from gradflow.steppers.explicit import Explicit

        pair = "dop853" if name == "auto" else name
        return Explicit(field, tau, state, rtol=rtol, atol=atol, pair=pair, first_step=first_step)
    if name == "adams":
        from gradflow.steppers.adams import Adams

        return Adams(field, tau, state, rtol=rtol, atol=atol)
    if name == "stabilised":
        from gradflow.steppers.stabilised import Stabilised

        return Stabilised(field, tau, state, rtol=rtol, atol=atol)
    if name == "stiff":
        from gradflow.steppers.stiff import Stiff

        return Stiff(field, tau, state, rtol=rtol, atol=atol, symmetric=symmetric)
    matrix = jacobian(base, clock) if base.plain and state.size <= DENSE_LIMIT else None
    if name == "cvode":
        from gradflow.steppers.cvode import Cvode

        return Cvode(field, tau, state, rtol=rtol, atol=atol, jacobian=matrix)
    from gradflow.steppers.scipy_methods import Scipy

    return Scipy(field, tau, state, rtol=rtol, atol=atol, method=name, jacobian=matrix)


def checked_clocked_solver(solver) -> None:
    """Refuse what cannot be stepped one accepted step at a time in a clock."""
    if isinstance(solver, FixedStep) or solver.name.startswith("torchdiffeq"):
        raise ValueError(
            f"solver = {solver}: with a clock choose one of auto, dop853, rk45, adams, stabilised, stiff,"
            " LSODA, Radau, BDF, cvode"
        )


def explicit_pays(base, moment, log_loss_end: float) -> bool:
    """Whether an explicit method needs few gradients: its steps are those of stability, rho ds/6.2 in all."""
    if not (base.tailed and np.isfinite(moment.log_descent)):
        return True
    distance = moment.log_loss - log_loss_end
    return GRADIENTS_PER_STEP * stiffness(base, moment) * distance * STEPS_PER_STIFFNESS < MOST_EXPLICIT


def stiffness(base, moment) -> float:
    """Largest curvature of log L over its descent, by power iteration along the flow's own directions."""
    with np.errstate(all="ignore"):
        direction = moment.velocity / np.exp(moment.log_speed)
        direction = direction + 0.1 * np.sin(np.arange(1.0, direction.size + 1.0)) / np.sqrt(direction.size)
        step = 1e-6 * np.exp(moment.log_size)
        largest = 0.0
        for _ in range(8):
            direction = direction / np.linalg.norm(direction)
            moved = base.look(0.0, moment.state + step * direction)
            image = (moved.velocity - moment.velocity) / step
            largest = float(np.linalg.norm(image))
            direction = image
        return largest / float(np.exp(moment.log_descent))


def jacobian(base, clock):
    r"""Jacobian of the plain flow in the variable of a clock, from the exact Hessian H of log L and g = grad log L.

    .. math:: J = -a\,(I - c\,u u^T)\,H + \dots, \qquad u = g/|g|,

    c = 2 for the loss clocks (a reflection), 1 for lengths; with the gradient of \|theta\| for the relative clock, and
    :math:`-a\,(H + g g^T)` for the clocks of time.
    """

    def matrix(tau, state):
        moment = base.look(tau, state)
        g, h = -moment.velocity, base.hessian(state)
        a = float(np.exp(clock.log_rate(tau, moment) + moment.log_loss))
        if clock.exact_time:
            return -a * (h + np.outer(g, g))
        u = g / np.exp(moment.log_speed)
        result = -a * (h - (2.0 if clock.by_descent else 1.0) * np.outer(u, u @ h))
        if clock.name == "relative":
            result -= a * np.outer(g, state) / np.exp(2.0 * moment.log_size)
        return result

    return matrix
