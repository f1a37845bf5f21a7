"""How much a gradient flow has dissipated: the integral of its squared speed."""

from __future__ import annotations

import numpy as np

from gradflow.measure.runs import checked_run


def dissipation(trajectory) -> float:
    r"""Dissipated part of the objective, :math:`\int |\dot s|^2 dt` over the saved times of a run, s its state.

    For a gradient flow in its own coordinates (:class:`gradflow.GradientFlow` in theta, :class:`gradflow.LMFlow` in
    rho and the layers on their spheres) this is the fall of the objective from the first to the last saved time.
    By Simpson's rule, so the points must be saved densely.

    Parameters
    ----------
    trajectory : Trajectory
        Of a flow.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        For a discrete rule.

    References
    ----------
    M. Xu et al., Dynamics in Deep Classifiers Trained with the Square Loss, Research 6 (2023).

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.5, 0.4], gf.GradientFlow(), t_end=5.0, rtol=1e-12, save_at=2001)
    >>> bool(abs(run.loss[0] - run.loss[-1] - gf.measure.dissipation(run)) < 1e-7)
    True
    """
    from gradflow.measure.along import simpson
    from gradflow.steppers.choose import make_field

    checked_run(trajectory)
    problem, dynamics = trajectory.problem, trajectory.dynamics
    if dynamics.discrete:
        raise TypeError(f"{dynamics!r} is a discrete rule: only a flow dissipates; give a run of gf.GradientFlow()")
    field, velocity = make_field(problem, dynamics, problem.kernel), np.empty(trajectory.states.shape[1])
    squares = []
    for t, state in zip(trajectory.t, trajectory.states, strict=True):
        field(t, np.ascontiguousarray(state), velocity)
        squares.append(velocity @ velocity)
    return float(simpson(trajectory.t, np.array(squares)))
