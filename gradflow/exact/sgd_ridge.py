"""Stationary mean and covariance of stochastic gradient descent for ridge regression."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import not_negative, positive, samples
from gradflow.exact.square_loss import ridge


class RidgeNoise(NamedTuple):
    """Stationary distribution of the iterates.

    Attributes
    ----------
    mean : ndarray (d,)
        The ridge solution.
    covariance : ndarray (d, d)
        About the mean.

    Examples
    --------
    >>> sgd_ridge(x=[[1.0], [1.0]], y=[1.0, -1.0], decay=0.0, step=0.1).covariance.shape
    (1, 1)
    """

    mean: np.ndarray
    covariance: np.ndarray


def sgd_ridge(x: ArrayLike, y: ArrayLike, decay: float, step: float) -> RidgeNoise:
    r"""Stationary mean and covariance of SGD with batch size one, drawn with replacement, for ridge regression.

    .. math:: w' = (1 - 2\mu\lambda) w + 2\mu x_i (y_i - x_i \cdot w), \qquad
        S = \frac1n \sum_i \left( A_i S A_i^T + b_i b_i^T \right)

    with :math:`A_i = (1 - 2\mu\lambda) I - 2\mu x_i x_i^T` and
    :math:`b_i = 2\mu [(y_i - x_i \cdot w_*) x_i - \lambda w_*]`; the mean is the ridge solution :math:`w_*`.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs.
    y : array_like, shape (n,) or (n, 1)
        The targets.
    decay : float
        lambda, not negative.
    step : float
        mu, positive and small enough for a stationary state.

    Returns
    -------
    RidgeNoise
        ``mean`` and ``covariance``.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the step is too large for a stationary covariance.

    References
    ----------
    Galanti, Poggio 2022, CBMM memo 134 (the setting).

    Examples
    --------
    >>> noise = sgd_ridge(x=[[1.0], [1.0]], y=[1.0, -1.0], decay=0.0, step=0.1)
    >>> noise.mean.round(6) + 0.0, noise.covariance.round(6)
    (array([0.]), array([[0.111111]]))
    """
    decay, step = float(not_negative("decay", decay)), float(positive("step", step))
    mean = ridge(x, y, decay)
    x, y = samples(x, y)
    d = x.shape[1]
    maps = (1 - 2 * step * decay) * np.eye(d) - 2 * step * x[:, :, None] * x[:, None, :]
    kicks = 2 * step * ((y - x @ mean)[:, None] * x - decay * mean)
    operator = np.mean([np.kron(a, a) for a in maps], axis=0)
    if abs(np.linalg.eigvals(operator)).max() >= 1:
        raise ValueError(f"step = {step}: too large, the iteration has no stationary covariance; give a smaller step")
    second = np.mean(kicks[:, :, None] * kicks[:, None, :], axis=0)
    covariance = np.linalg.solve(np.eye(d * d) - operator, second.ravel()).reshape(d, d)
    return RidgeNoise(mean, covariance)
