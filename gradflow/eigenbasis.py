"""Linear networks in the singular basis of their data, where modes of very different size keep their digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradflow.losses import Square
from gradflow.networks import Feedforward

if TYPE_CHECKING:
    from gradflow.problem import Problem

TOLERANCE = 1e-10
"""Largest part off the diagonal, relative to the largest on it, that counts as rounding and is dropped."""

LOG10_DROWNED = -14.0
"""Size of a mode beside weights of order one from which on it has lost its digits."""

DISTINCT = 1e-2
"""Relative gap of two strengths that separates their escapes."""

ALIGNED = ", with hidden layers that start along its modes"
"""What deeper networks need besides: the data do not say how to turn hidden layers."""

GENERIC = 0.7548776662466927
"""Weight in a sum of two commuting matrices that makes its eigenvectors those of both."""


@dataclass(frozen=True)
class Eigenbasis:
    r"""A problem in the singular basis of its data, with the maps of parameters there and back.

    With :math:`y^T x = U S V^T` and :math:`V^T x^T x V` diagonal the inputs become :math:`V^T x`, the outputs
    :math:`U^T y`: :math:`W_1 \to W_1 V` and :math:`W_L \to U^T W_L`, which takes flows to flows.

    Attributes
    ----------
    problem : Problem
        The same objective on samples that are diagonal to the last bit.
    strengths : ndarray (min(d, k),)
        Entries of U^T y^T x V / n, falling.
    inputs : ndarray (d, d)
        V, orthogonal.
    outputs : ndarray (k, k)
        U, orthogonal.
    """

    problem: Problem
    strengths: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray

    def into(self, theta) -> np.ndarray:
        """Parameters in the eigenbasis, the shape of theta: (P,) or (runs, P)."""
        return self._turned(theta, self.inputs, self.outputs.T)

    def back(self, theta) -> np.ndarray:
        """Parameters in the basis of the original problem, the shape of theta: (P,) or (runs, P)."""
        return self._turned(theta, self.inputs.T, self.outputs)

    def _turned(self, theta, inputs, outputs) -> np.ndarray:
        layers = self.problem.layers(self.problem.checked(theta))
        last = f"W{len(layers)}"
        layers["W1"] = layers["W1"] @ inputs
        layers[last] = outputs @ layers[last]
        return self.problem.flatten(layers)


def eigenbasis(problem) -> Eigenbasis:
    """The eigenbasis of a problem; ValueError where there is none."""
    reason = _obstacle(problem)
    if reason is not None:
        raise ValueError(
            f"no eigenbasis: {reason}; it needs a linear network without skips and biases, the square loss, and inputs"
            " whose covariance commutes with the correlations, e.g. whitened ones"
        )
    basis = _singular_bases(problem.x, problem.y)
    if basis is None:
        raise ValueError(
            "no eigenbasis: x^T x and (y^T x)^T (y^T x) do not commute, so that no turn of inputs and outputs makes"
            " both diagonal; whiten the inputs"
        )
    inputs, outputs, variances, correlations = basis
    x, y = _diagonal_samples(problem, variances, correlations)
    return Eigenbasis(problem.with_data(x, y), correlations / problem.n, inputs, outputs)


def hint(problem, log10_size: float) -> str | None:
    r"""What to say of a start with weights of a size: whether weak modes will drown in the rounding of the leading one.

    At the first escape, mode k of strength s_k has a size of alpha^(1 - s_k/s_1) in a network of two layers, of about
    alpha in a deeper one, beside weights of order one.
    """
    degree = getattr(problem.network, "degree", None)
    if degree is None or degree < 2 or log10_size > LOG10_DROWNED or _obstacle(problem) is not None:
        return None
    basis = _singular_bases(problem.x, problem.y) if _is_turned(problem) else None
    if basis is None:
        return None
    strengths = basis[-1][basis[-1] > TOLERANCE * basis[-1].max(initial=0.0)]
    gap = 1.0 - strengths.min() / strengths.max() if strengths.size else 0.0
    gap = gap if degree == 2 else float(gap > DISTINCT)
    if gap * log10_size > LOG10_DROWNED:
        return None
    return (
        f"weights start at 1e{log10_size:.0f} in a basis in which the modes of the data are mixed: at the first escape"
        f" the weakest are 1e{gap * log10_size:.0f} beside 1, lost in rounding, and later escapes come at wrong times;"
        f" run problem.in_eigenbasis() instead{ALIGNED if degree > 2 else ''}"
    )


def _is_turned(problem) -> bool:
    """Whether the moments of the data are not diagonal, up to the order of modes."""
    correlations = problem.y.T @ problem.x
    crowded = max(np.count_nonzero(correlations, axis).max() for axis in (0, 1)) > 1
    return bool(crowded or _off_diagonal(problem.x.T @ problem.x) > 0.0)


def _obstacle(problem) -> str | None:
    """Why a problem cannot be turned, whatever its data, if so."""
    network = problem.network
    if not isinstance(problem.loss, Square):
        return f"the loss is {problem.loss}"
    if not isinstance(network, Feedforward) or not network.linear:
        return f"{network} is not linear"
    for stage in network.stages:
        if stage.bias or not stage.trained or stage.identity_from >= 0 or stage.linear_from >= 0:
            return f"{network} has biases, skips or fixed layers"
    return None


def _off_diagonal(matrix) -> float:
    """Largest entry off the diagonal."""
    off = np.abs(matrix)
    np.fill_diagonal(off, 0.0)
    return float(off.max(initial=0.0))


def _singular_bases(x, y):
    """(V, U, diagonal of V^T x^T x V, diagonal of U^T y^T x V), strongest first, or None if there are none."""
    gram, correlations = x.T @ x, y.T @ x
    squares = correlations.T @ correlations
    sizes = [max(float(np.linalg.norm(matrix)), np.finfo(float).tiny) for matrix in (gram, squares)]
    _, inputs = np.linalg.eigh(gram / sizes[0] + GENERIC * squares / sizes[1])
    order = np.argsort(-np.linalg.norm(correlations @ inputs, axis=0), kind="stable")
    inputs = inputs[:, order]
    outputs, upper = np.linalg.qr(correlations @ inputs, mode="complete")
    signs = np.where(np.diag(upper) < 0.0, -1.0, 1.0)
    inputs[:, : signs.size] *= signs
    upper, gram = outputs.T @ correlations @ inputs, inputs.T @ gram @ inputs
    if _off_diagonal(gram) > TOLERANCE * sizes[0] or _off_diagonal(upper) > TOLERANCE * np.sqrt(sizes[1]):
        return None
    return inputs, outputs, np.diag(gram).copy(), np.diag(upper).copy()


def _diagonal_samples(problem, variances, correlations):
    """As many samples with the given diagonal moments, and the part of y that no input reaches in one of them."""
    n, count = problem.n, correlations.size
    x, y = np.zeros(problem.x.shape), np.zeros(problem.y.shape)
    seen = np.flatnonzero(variances > TOLERANCE * variances.max(initial=0.0))
    for row, mode in enumerate(seen):
        x[row, mode] = np.sqrt(variances[mode])
        if mode < count:
            y[row, mode] = correlations[mode] / x[row, mode]
    unreached = problem.y - problem.x @ np.linalg.lstsq(problem.x, problem.y, rcond=None)[0]
    rest, size = np.linalg.norm(unreached), np.linalg.norm(problem.y)
    if seen.size < n and rest > 4 * n * np.finfo(float).eps * size:
        y[seen.size, 0] = rest
    return x, y
