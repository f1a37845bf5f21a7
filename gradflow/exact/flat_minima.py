"""How flat the minima of deep linear regression are: the lower bound, and the balanced minimum."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import count, finite


class FlatMinima(NamedTuple):
    r"""Lower bound of the sharpness :math:`\lambda_{\max}(\nabla^2 F)` of every minimum, and that of the balanced one.

    Attributes
    ----------
    bound : float
        No minimum is flatter.
    balanced : float
        The sharpness where the flow from small starts ends.

    Examples
    --------
    >>> FlatMinima(bound=3.0, balanced=4.0).balanced
    4.0
    """

    bound: float
    balanced: float


def flat_minima(x: ArrayLike, w: ArrayLike, depth: int) -> FlatMinima:
    r"""Sharpness of minima of a deep linear network with one output under the mean square loss (without 1/2).

    .. math:: S \ge 2 L a \|w\|^{2-2/L}, \qquad
        S_{\rm bal} = 2 \|w\|^{2-2/L} \lambda_{\max}\big(\Sigma^{1/2} (I + (L-1) \hat w \hat w^T) \Sigma^{1/2}\big)

    with :math:`\Sigma = X^T X / n`, :math:`\hat w = w/\|w\|`, :math:`a = \hat w^T \Sigma \hat w`. The balanced
    minimum has aligned layers of rank one and equal norm; the flow from small starts ends there. Gradient descent
    with a step above 2 over the bound cannot converge to any minimum.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs.
    w : array_like, shape (d,)
        The end-to-end map of the minimum, not zero.
    depth : int
        The number L of layers.

    Returns
    -------
    FlatMinima
        ``bound`` and ``balanced``.

    Raises
    ------
    ValueError
        If the shapes do not fit, w is zero, or the depth is not positive.

    References
    ----------
    Marion, Chizat 2024, arXiv:2405.13456 (the bound).

    Examples
    --------
    >>> minima = flat_minima(x=[[1.0, 0.0], [0.0, 2.0]], w=[1.0, 0.0], depth=3)
    >>> round(minima.bound, 6), round(minima.balanced, 6)
    (3.0, 4.0)
    """
    x, w, depth = finite("x", x), np.ravel(finite("w", w)), count("depth", depth)
    size = np.linalg.norm(w)
    if x.ndim != 2 or w.size != x.shape[1] or size == 0:
        raise ValueError(f"w has shape {w.shape} and norm {size:g} for x of shape {x.shape}: give w != 0 of shape (d,)")
    covariance, unit, scale = x.T @ x / len(x), w / size, 2 * size ** (2 - 2 / depth)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    inner = np.eye(w.size) + (depth - 1) * np.outer(unit, unit)
    along = float(unit @ covariance @ unit)
    return FlatMinima(float(scale * depth * along), float(scale * np.linalg.eigvalsh(root @ inner @ root)[-1]))
