"""Alternating proximal and gradient steps: the relaxed variable splitting method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.arguments import not_negative, positive, real_array, whole


@dataclass(frozen=True)
class SplittingRun:
    """Iterates of :func:`gradflow.relaxed_splitting`.

    Attributes
    ----------
    w, u : ndarray (K + 1, d)
        Weights on the unit sphere, and their sparse copies.
    lagrangian : ndarray (K + 1,)
        L(u, w) after each step.
    converged : bool
        Whether the last step was shorter than the tolerance.

    Examples
    --------
    >>> SplittingRun(w=np.ones((1, 1)), u=np.ones((1, 1)), lagrangian=np.zeros(1), converged=True).converged
    True
    """

    w: np.ndarray
    u: np.ndarray
    lagrangian: np.ndarray
    converged: bool


def relaxed_splitting(
    problem, start, penalty, *, strength: float, coupling: float, step: float, tolerance=1e-14, max_steps=100_000
) -> SplittingRun:
    r"""Relaxed variable splitting for a sparse weight vector on the unit sphere.

    .. math:: u^+ = \mathrm{prox}_{(\lambda/\beta) P}(w), \qquad
        \tilde w = w - h\,\nabla F(w) - h\beta (w - u^+), \qquad w^+ = \tilde w / |\tilde w|

    descends :math:`L(u, w) = F(w) + \lambda P(u) + \frac\beta2 |w - u|^2`. For h to 0 it follows the flow on the
    sphere, :class:`gradflow.SphereFlow`.

    Parameters
    ----------
    problem : object
        With ``value`` and ``gradient`` of a vector.
    start : array_like (d,)
        Normalised here.
    penalty : penalty
        For example ``gradflow.penalties.L1()``.
    strength, coupling, step : float
        lambda, beta and h, positive.
    tolerance : float
        The iteration ends when w moves less.
    max_steps : int
        Cap on the steps.

    Returns
    -------
    SplittingRun

    Raises
    ------
    ValueError
        For a start at zero, or a number that is not positive.

    References
    ----------
    T. Dinh, J. Xin, arXiv 1812.05719.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem, penalty = gf.population.ConvolutionalPopulation([0.6, 0.8, 0.0], patches=3), gf.penalties.L0()
    >>> run = relaxed_splitting(problem, [1.0, 1.0, 1.0], penalty, strength=0.001, coupling=0.02, step=0.5)
    >>> run.converged, run.u[-1].round(6).tolist()
    (True, [0.6, 0.8, 0.0])
    """
    strength, coupling = positive(strength, "strength"), positive(coupling, "coupling")
    step, threshold = positive(step, "step"), strength / coupling
    tolerance, max_steps = not_negative(tolerance, "tolerance"), whole(max_steps, "max_steps")
    if not hasattr(penalty, "prox"):
        raise TypeError(f"penalty = {penalty!r}: give one of gf.penalties, such as gf.penalties.L1()")
    w = real_array(start, "start", "(d,)")
    if w.ndim != 1 or not np.linalg.norm(w) > 0:
        raise ValueError(f"start has shape {w.shape}: give a vector that is not zero")
    w /= np.linalg.norm(w)
    ws, us = [w], [penalty.prox(w, threshold)]
    converged = False
    while not converged and len(ws) <= max_steps:
        u = penalty.prox(w, threshold)
        moved = w - step * (problem.gradient(w) + coupling * (w - u))
        moved /= np.linalg.norm(moved)
        converged = bool(np.linalg.norm(moved - w) < tolerance)
        w = moved
        ws.append(w)
        us.append(penalty.prox(w, threshold))
    w, u = np.array(ws), np.array(us)
    lagrangian = problem.value(w) + strength * penalty.value(u) + coupling / 2 * ((w - u) ** 2).sum(1)
    return SplittingRun(w, u, lagrangian, converged)
