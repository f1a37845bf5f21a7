"""The objective, the length of its gradient, and whether that is its derivative."""

from __future__ import annotations

import numpy as np

from gradflow.arguments import positive
from gradflow.measure.runs import per_run


def loss(problem, theta) -> float | np.ndarray:
    r"""Value of the objective, :math:`F(\theta) = L(f_\theta(x), y) + \lambda|\theta|^2`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]], decay=0.5)
    >>> gf.measure.loss(problem, np.array([1.0]))
    1.0
    """
    return problem.value(theta)


def gradient_norm(problem, theta) -> float | np.ndarray:
    r"""Euclidean length :math:`|\nabla F(\theta)|` of the gradient of the objective.

    At kinks relu'(0) = 0, so that it stays away from 0 where a followed flow rests on kinks; the speed of such a flow
    is what ``gf.GradientBelow`` looks at.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[5.0]])
    >>> gf.measure.gradient_norm(problem, np.array([0.6, 0.0]))
    3.0
    """
    norm = np.linalg.norm(problem.gradient(theta), axis=-1)
    return norm if np.ndim(norm) else float(norm)


@per_run
def gradient_error(problem, theta, step: float = 1e-5) -> float | np.ndarray:
    r"""Largest difference between the gradient and central differences, :math:`\max_i |\partial_i F - \delta_i F|`.

    .. math:: \delta_i F = \frac{F(\theta + h e_i) - F(\theta - h e_i)}{2h}

    Of order :math:`h^2` plus rounding of order :math:`10^{-16} F/h` for a right gradient.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    step : float
        h.

    Returns
    -------
    float or ndarray (runs,)

    Examples
    --------
    >>> import gradflow as gf
    >>> x, y = gf.data.gaussian(10, 3)
    >>> problem = gf.Problem(gf.FullyConnected([3, 4, 1], activation="tanh"), gf.losses.Square(), x, y)
    >>> gf.measure.gradient_error(problem, problem.init()) < 1e-8
    True
    """
    shifts = positive(step, "step") * np.eye(theta.size)
    differences = (problem.value(theta + shifts) - problem.value(theta - shifts)) / (2 * step)
    return np.abs(problem.gradient(theta) - differences).max()
