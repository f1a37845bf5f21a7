"""What is measured along a whole run: integrals over time, lengths of steps, the drift of what a flow conserves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradflow.measure.runs import checked_run


def time_integral(trajectory, function: Callable) -> float | np.ndarray:
    r"""Integral :math:`\int f(\theta(t))\,dt` of a measure over the saved times of a run.

    By Simpson's rule, so the points must be saved densely.

    Parameters
    ----------
    trajectory : Trajectory
    function : callable
        A measure ``f(problem, theta)``, with values of any shape (...).

    Returns
    -------
    float or ndarray (...)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [0.0], gf.GradientFlow(), t_end=1.0, save_at=201)
    >>> bool(abs(gf.measure.time_integral(run, lambda problem, theta: 2 - theta[0]) - run.end[0]) < 1e-7)
    True
    """
    checked_run(trajectory)
    value = simpson(trajectory.t, trajectory.measure(function))
    return value if np.ndim(value) else float(value)


def simpson(t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Integral over the first axis."""
    from scipy import integrate

    return np.asarray(integrate.simpson(values, x=t, axis=0))


def step_lengths(trajectory, *, relative: bool = True, mean_over: int = 1) -> np.ndarray:
    r"""Lengths of the ways from one saved point to the next, :math:`|\theta_{k+1} - \theta_k|\,/\,|\theta_k|`.

    Those of the steps of a discrete rule, where all of them are saved.

    Parameters
    ----------
    trajectory : Trajectory
    relative : bool
        Whether they are divided by the norm of the earlier point.
    mean_over : int
        Number of successive lengths of which the mean is taken, each one once; what is left at the end is dropped.

    Returns
    -------
    ndarray ((T - 1) // mean_over,)

    Raises
    ------
    ValueError
        If there are fewer lengths than `mean_over`.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [1.0], gf.GD(0.5), t_end=1.0, save_at=3)
    >>> gf.measure.step_lengths(run).round(6).tolist()
    [0.5, 0.166667]
    >>> gf.measure.step_lengths(run, mean_over=2).round(6).tolist()
    [0.333333]
    """
    checked_run(trajectory)
    theta = trajectory.theta
    lengths = np.linalg.norm(np.diff(theta, axis=0), axis=1)
    lengths = lengths / np.linalg.norm(theta[:-1], axis=1) if relative else lengths
    if not 1 <= mean_over <= lengths.size:
        raise ValueError(f"mean_over = {mean_over}: must be from 1 to the number of lengths, {lengths.size}")
    return lengths[: lengths.size // mean_over * mean_over].reshape(-1, mean_over).mean(1)


def drift(trajectory, flow) -> dict[str, np.ndarray]:
    """Deviation along a run from what another flow conserves, from the same start.

    ``trajectory.drift`` holds what the run's own dynamics conserves; this serves for discrete rules, and for flows
    whose state says more: the kernel invariants of a diagonal network along polar steps.

    Parameters
    ----------
    trajectory : Trajectory
    flow : flow
        For example ``gf.GradientFlow()``.

    Returns
    -------
    dict of str to ndarray (T,)
        By the name of the invariant; NaN where a point has no state of that flow.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> run = gf.simulate(problem, [1.0, 0.5], gf.Momentum(0.1, beta=0.5), t_end=0.1)
    >>> round(float(gf.measure.drift(run, gf.GradientFlow())["layer 1"][-1]), 6)
    0.016875
    """
    checked_run(trajectory)
    problem = trajectory.problem
    flow = flow.prepared(problem, trajectory.theta[0])
    states = np.full((trajectory.t.size, flow.pack(problem, trajectory.theta[0]).size), np.nan)
    for state, theta in zip(states, trajectory.theta, strict=True):
        try:
            state[:] = flow.pack(problem, theta)
        except ValueError:  # outside the domain of the flow's coordinates
            continue
    return {name: found.drift(trajectory.t, states) for name, found in flow.invariants(problem).items()}
