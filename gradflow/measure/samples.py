"""Gradients of single samples: what stochastic gradient descent sees, and how far it is from rest."""

from __future__ import annotations

import numpy as np

from gradflow.measure.layers import weight_names
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


@per_run
def gradient_noise(problem, theta) -> np.ndarray:
    r"""Mean squared gradient of a sample's own objective in every layer, :math:`\frac1n \sum_i \|G_i^l\|_F^2`.

    SGD rests only where it vanishes; G as in :func:`gradflow.measure.sample_gradients`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (layers,) or (runs, layers)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0], [2.0]], [[1.0], [0.0]])
    >>> gf.measure.gradient_noise(problem, np.array([3.0])).tolist()
    [296.0]
    """
    blocks = problem.layers(sample_gradients(problem, theta))
    return np.array([(blocks[name] ** 2).sum() / problem.n for name in weight_names(problem.network)])


@per_run
def gradient_noise_floor(problem, theta) -> float | np.ndarray:
    r"""Lower bound of :func:`gradflow.measure.gradient_noise` in the first layer, positive with decay.

    .. math:: \frac1n \sum_i \|G_i^1\|_F^2 \ge 4\lambda^2 \Big( \|W_1\|_F^2 - \frac1n \sum_i \|W_1 \hat x_i\|^2 \Big),
        \qquad \hat x_i = x_i/\|x_i\|

    A gradient of the loss alone is :math:`\delta_i x_i^T` there: it cannot undo the decay across :math:`x_i`. Hence SGD
    with batches of one sample cannot rest unless the rows of :math:`W_1` are parallel to all inputs.

    Parameters
    ----------
    problem : Problem
        Of a fully connected network without biases, under a mean loss.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    References
    ----------
    T. Galanti, T. Poggio, SGD Noise and Implicit Low-Rank Bias in Deep Neural Networks, CBMM memo 134, 2022.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)), decay=0.5)
    >>> gf.measure.gradient_noise_floor(problem, np.array([1.0, 1.0]))
    1.0
    """
    first = problem.layers(theta)["W1"]
    directions = problem.x / np.linalg.norm(problem.x, axis=1, keepdims=True)
    return 4 * problem.decay**2 * ((first**2).sum() - ((directions @ first.T) ** 2).sum(1).mean())
