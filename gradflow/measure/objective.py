"""The objective and the length of its gradient."""

from __future__ import annotations

import numpy as np


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
