"""Gradients of single samples: what stochastic gradient descent sees."""

from __future__ import annotations

import numpy as np

from gradflow.measure.runs import per_run


@per_run
def sample_gradients(problem, theta) -> np.ndarray:
    r"""Gradient of every sample's own objective, :math:`G_i`, with :math:`\frac1n \sum_i G_i = \nabla F(\theta)`.

    For a mean loss :math:`G_i = \nabla \ell(f_\theta(x_i), y_i) + 2\lambda\theta`; a sum loss is multiplied by n. SGD
    with batch size 1 steps along :math:`-G_i`; it rests only where all of them vanish.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (n, P) or (runs, n, P)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0], [2.0]], [[1.0], [0.0]])
    >>> gf.measure.sample_gradients(problem, np.array([3.0])).tolist()
    [[4.0], [24.0]]
    """
    theta = problem.checked(theta)
    factor = problem.n if getattr(problem.loss, "reduction", "mean") == "sum" else 1
    decay = 2 * problem.decay * theta
    rows = []
    for x, y in zip(problem.x, problem.y, strict=True):
        rows.append(factor * (problem.with_data(x[None], y[None]).gradient(theta) - decay) + decay)
    return np.array(rows)
