"""Two-layer linear networks of any width and shape: the matrix Riccati equation of Fukumizu."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import finite, times


class RiccatiSolution(NamedTuple):
    """The products of the layers that a rotation of the hidden units leaves alone.

    Attributes
    ----------
    product : ndarray (T, k, d)
        The end-to-end map W2 W1.
    input_gram : ndarray (T, d, d)
        W1^T W1.
    output_gram : ndarray (T, k, k)
        W2 W2^T.

    Examples
    --------
    >>> riccati([0.0, 1.0], [[0.1]], [[0.1]], [[2.0]]).product.shape
    (2, 1, 1)
    """

    product: np.ndarray
    input_gram: np.ndarray
    output_gram: np.ndarray


def riccati(t: ArrayLike, w1: ArrayLike, w2: ArrayLike, sigma: ArrayLike) -> RiccatiSolution:
    r"""Two-layer linear network from a zero-balanced or lambda-balanced start.

    .. math:: Q = \begin{pmatrix} W_1^T \\ W_2 \end{pmatrix}, \quad Q' = F Q - \tfrac12 Q Q^T Q, \quad
        F = \begin{pmatrix} -\lambda/2 & \Sigma^T \\ \Sigma & \lambda/2 \end{pmatrix}

    .. math:: Q Q^T(t) = e^{F t} Q_0 \left[ I + \tfrac12 Q_0^T \frac{e^{2 F t} - I}{F} Q_0 \right]^{-1}
        Q_0^T e^{F t}

    The loss is :math:`\|\Sigma - W_2 W_1\|_F^2 / 2` and the start obeys
    :math:`W_2^T W_2 - W_1 W_1^T = \lambda I`; lambda is read off the start. The formula is applied in substeps of
    at most :math:`1 / \|F\|_2` (the solutions form a semigroup), so it is accurate at any time; the cost grows with
    the largest time.

    Parameters
    ----------
    t : array_like, shape (T,)
        Times, not negative, in any order.
    w1 : array_like, shape (h, d)
        The first layer at time 0.
    w2 : array_like, shape (k, h)
        The second layer at time 0.
    sigma : array_like, shape (k, d)
        The target, outputs by inputs.

    Returns
    -------
    RiccatiSolution
        ``product`` W2 W1 (T, k, d), ``input_gram`` W1^T W1 (T, d, d), ``output_gram`` W2 W2^T (T, k, k); a single
        time drops the first axis.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the start is not lambda-balanced.

    References
    ----------
    Fukumizu 1998; Braun, Domine, Fitzgerald, Saxe 2022; Domine et al. 2024, arXiv:2409.14623.

    Examples
    --------
    >>> layer = np.diag([0.3, 0.1])
    >>> riccati(1.0, layer, layer, sigma=[[1.0, 0.5], [-0.5, 2.0]]).product.round(6)
    array([[ 0.446647,  0.144275],
           [-0.144275,  0.460351]])
    """
    t, w1, w2, sigma = times(t), finite("w1", w1), finite("w2", w2), finite("sigma", sigma)
    _require_layers(w1, w2, sigma)
    outputs, inputs = sigma.shape
    balance = _balance(w1, w2)
    flow = np.block([[-balance / 2 * np.eye(inputs), sigma.T], [sigma, balance / 2 * np.eye(outputs)]])
    rates, basis = np.linalg.eigh(flow)
    state = basis.T @ np.vstack([w1.T, w2])
    grams = np.empty((t.size, inputs + outputs, inputs + outputs))
    moments, reached = t.ravel(), 0.0
    for index in np.argsort(moments):
        moment = float(moments[index])
        state = _advance(state, rates, moment - reached)
        reached = moment
        rows = basis @ state
        grams[index] = rows @ rows.T
    grams = grams.reshape(*t.shape, inputs + outputs, inputs + outputs)
    return RiccatiSolution(
        product=grams[..., inputs:, :inputs],
        input_gram=grams[..., :inputs, :inputs],
        output_gram=grams[..., inputs:, inputs:],
    )


def _require_layers(w1: np.ndarray, w2: np.ndarray, sigma: np.ndarray) -> None:
    """Raise unless the three matrices fit each other."""
    for name, matrix in (("w1", w1), ("w2", w2), ("sigma", sigma)):
        if matrix.ndim != 2:
            raise ValueError(f"{name} has shape {matrix.shape}: it must be a matrix")
    if w2.shape[1] != w1.shape[0] or sigma.shape != (w2.shape[0], w1.shape[1]):
        raise ValueError(
            f"w1 {w1.shape}, w2 {w2.shape} and sigma {sigma.shape} do not fit: "
            "give w1 of shape (h, d), w2 of shape (k, h) and sigma of shape (k, d)"
        )


def _balance(w1: np.ndarray, w2: np.ndarray) -> float:
    """Return lambda of W2^T W2 - W1 W1^T = lambda I, after checking that there is one."""
    difference = w2.T @ w2 - w1 @ w1.T
    balance = float(np.trace(difference)) / len(difference)
    scale = max(float((w1**2).sum()), float((w2**2).sum()))
    deviation = float(np.abs(difference - balance * np.eye(len(difference))).max())
    if deviation > 1e-10 * scale:
        raise ValueError(
            f"the start is not balanced: W2^T W2 - W1 W1^T differs from {balance:.6g} I by {deviation:.3g}; "
            "it must be a multiple of the identity. Give such a start, or integrate the flow numerically"
        )
    return balance if abs(balance) > 1e-13 * scale else 0.0


def _advance(state: np.ndarray, rates: np.ndarray, duration: float) -> np.ndarray:
    """Move Q, in the eigenbasis of F, by a duration in substeps that keep the formula well conditioned."""
    if duration == 0:
        return state
    steps = max(1, int(np.ceil(duration * np.abs(rates).max())))
    exponents = rates * (duration / steps)
    growth = np.exp(exponents)[:, None]
    small = np.abs(exponents) < 1e-300
    safe = np.where(small, 1.0, exponents)
    weights = np.where(small, 1.0, np.expm1(2 * safe) / (2 * safe))[:, None] * (duration / steps)
    for _ in range(steps):
        spread = np.eye(state.shape[1]) + state.T @ (weights * state)
        state = np.linalg.solve(np.linalg.cholesky(spread), (growth * state).T).T
    return state
