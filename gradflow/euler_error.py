"""Error of Euler's method along a plain gradient flow: its leading order, and an a-posteriori bound of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradflow.dynamics.flow import typical
from gradflow.measure.curvature import hessian_eigenpairs

DENSE_HESSIAN_UP_TO = 200
MOST_EVALUATIONS = 100_000


@dataclass(frozen=True)
class Bound:
    r"""A-posteriori bound of the distance between a GD run and the flow, at every step.

    Attributes
    ----------
    t : ndarray (K + 1,)
        Times of the steps, from the flow's start.
    bound : ndarray (K + 1,)
        :math:`B_{k+1} = e^{-mh} B_k + \tfrac h2\, |\nabla F(\theta_{k+1}) - \nabla F(\theta_k)|\, e^{\max(-m, 0) h}`.
    distance : ndarray (K + 1,)
        The distance itself.
    curvature : ndarray (K,)
        m, the smallest eigenvalue of the Hessian found between flow and run during each step.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    >>> flow = gf.simulate(problem, [0.5, 0.5], gf.GradientFlow(), t_end=2.0, rtol=1e-10)
    >>> found = gf.compare(flow, gf.simulate(problem, [0.5, 0.5], gf.GD(step=0.1), t_end=2.0)).bound()
    >>> bool((found.distance <= found.bound).all())
    True
    """

    t: np.ndarray
    bound: np.ndarray
    distance: np.ndarray
    curvature: np.ndarray


def leading_error(problem, begin, theta, times) -> np.ndarray:
    """e_1 (m, P) at increasing times, by integrating (theta, e_1) from (theta, 0)."""
    from scipy.integrate import DOP853

    def velocity(_, state):
        point, error = state[: theta.size], state[theta.size :]
        gradient = problem.gradient(point)
        return np.concatenate([-gradient, -problem.hvp(point, error + 0.5 * gradient)])

    errors = np.full((times.size, theta.size), np.nan)
    errors[times <= begin] = 0.0
    start = np.concatenate([theta, np.zeros(theta.size)])
    solver = DOP853(velocity, begin, start, max(times[-1], begin), rtol=1e-8, atol=1e-10 * typical(theta))
    while solver.status == "running" and solver.nfev < MOST_EVALUATIONS:
        solver.step()
        inside = (times > solver.t_old) & (times <= solver.t)
        if solver.status != "failed" and inside.any():
            errors[inside] = solver.dense_output()(times[inside])[theta.size :].T
    return errors


def bound(flow, begin, theta, step, count) -> Bound:
    """Recursion of the a-posteriori bound over `count` steps of GD."""
    problem = flow.problem
    halves = flow.at(np.minimum(begin + 0.5 * step * np.arange(2 * count + 1), flow.t_end))
    limit, distance, curvature = np.zeros(count + 1), np.zeros(count + 1), np.empty(count)
    gradient, lowest = problem.gradient(theta), _lowest(problem, halves[0], theta)
    for k in range(count):
        after = theta - step * gradient
        gradient_after, lowest_after = problem.gradient(after), _lowest(problem, halves[2 * k + 2], after)
        middle = _lowest(problem, halves[2 * k + 1], 0.5 * (theta + after))
        m = curvature[k] = min(lowest, middle, lowest_after)
        defect = np.linalg.norm(gradient_after - gradient)
        limit[k + 1] = np.exp(-m * step) * limit[k] + 0.5 * step * defect * np.exp(max(-m, 0.0) * step)
        distance[k + 1] = np.linalg.norm(after - halves[2 * k + 2])
        theta, gradient, lowest = after, gradient_after, lowest_after
    return Bound(begin + step * np.arange(count + 1), limit, distance, curvature)


def _lowest(problem, one, other) -> float:
    """Smallest eigenvalue of the Hessian at the ends and the middle of a segment."""
    points = np.stack([one, 0.5 * (one + other), other])
    if problem.size <= DENSE_HESSIAN_UP_TO:
        hessians = problem.hessian(points)
        return float(np.linalg.eigvalsh(hessians)[:, 0].min()) if np.isfinite(hessians).all() else np.nan
    start, values = None, []
    for point in points:
        (value,), (start,) = hessian_eigenpairs(problem, point, 1, "smallest", method="lanczos", start=start)
        values.append(value)
    return float(min(values))
