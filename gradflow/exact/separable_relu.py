"""Minimum of two-layer ReLU networks on orthogonally separable data, by the convex problem with the same minimum."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import positive, samples


class SeparableMinimum(NamedTuple):
    r"""The minimum of the normalised network, from the convex problem.

    Attributes
    ----------
    rho : float
        The scale, :math:`\rho = \|w_+\| + \|w_-\|`.
    loss : float
        The regularised loss there.
    weights : ndarray (2, d)
        The vectors :math:`w_+` and :math:`w_-` for the labels +1 and -1.

    Examples
    --------
    >>> separable_relu(x=[[1.0, 0.0], [0.0, -1.0]], y=[1.0, -1.0], decay=0.5).weights.shape
    (2, 2)
    """

    rho: float
    loss: float
    weights: np.ndarray


def separable_relu(x: ArrayLike, y: ArrayLike, decay: float) -> SeparableMinimum:
    r"""Minimum of a normalised two-layer ReLU network on orthogonally separable samples, decay on rho.

    .. math:: \min_{w_+, w_-} \frac1n \sum_{y_i = 1} (1 - w_+ \cdot \bar x_i)^2 + \frac1n \sum_{y_i = -1}
        (1 - w_- \cdot \bar x_i)^2 + \lambda (\|w_+\| + \|w_-\|)^2, \qquad \bar x_i = y_i x_i

    The network is :math:`f(x) = \mathrm{relu}(w_+ \cdot x) - \mathrm{relu}(-w_- \cdot x)` and
    :math:`\rho = \|w_+\| + \|w_-\|`. The minimum is found by BFGS.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs; all products :math:`\bar x_i \cdot \bar x_j` must be at least 0.
    y : array_like, shape (n,) or (n, 1)
        Labels -1 and +1.
    decay : float
        lambda, positive.

    Returns
    -------
    SeparableMinimum
        ``rho``, ``loss`` and ``weights``.

    Raises
    ------
    ValueError
        If the labels are not signs, the samples are not orthogonally separable, or the decay is not positive.

    References
    ----------
    Xu et al. 2023, Research 6 (the normalised loss).

    Examples
    --------
    >>> minimum = separable_relu(x=[[1.0, 0.0], [0.0, -1.0]], y=[1.0, -1.0], decay=0.5)
    >>> round(minimum.rho, 5), round(minimum.loss, 5)
    (0.66667, 0.66667)
    """
    from scipy.optimize import minimize

    decay = float(positive("decay", decay))
    x, y = samples(x, y)
    if not (np.abs(y) == 1).all():
        raise ValueError("y must hold labels -1 and +1")
    signed = y[:, None] * x
    if (signed @ signed.T).min() < -1e-12:
        raise ValueError("the samples are not orthogonally separable: some y_i y_j x_i . x_j is negative")
    groups = [signed[y == sign] for sign in (1, -1)]

    def value(flat):
        w = flat.reshape(2, -1)
        errors = [1 - group @ row for group, row in zip(groups, w, strict=True)]
        norms = np.linalg.norm(w, axis=1)
        slope = [
            -2 / len(x) * group.T @ error + 2 * decay * norms.sum() * row / max(norm, 1e-300)
            for group, error, row, norm in zip(groups, errors, w, norms, strict=True)
        ]
        return sum((error**2).sum() for error in errors) / len(x) + decay * norms.sum() ** 2, np.concatenate(slope)

    start = np.concatenate([group.sum(0) if len(group) else np.zeros(x.shape[1]) for group in groups]) / len(x) + 1e-3
    found = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-10})
    weights = found.x.reshape(2, -1)
    return SeparableMinimum(float(np.linalg.norm(weights, axis=1).sum()), float(found.fun), weights)
