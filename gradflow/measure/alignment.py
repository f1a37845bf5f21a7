"""Alignment of the singular vectors of adjacent layers."""

from __future__ import annotations

import numpy as np

from gradflow.measure.layers import weights


def alignment(problem, theta) -> np.ndarray:
    r"""Alignment :math:`|\langle u_l, v_{l+1}\rangle|` of adjacent layers.

    :math:`u_l` is the top left singular vector of :math:`W_l`, :math:`v_{l+1}` the top right one of
    :math:`W_{l+1}`; 1 means aligned.

    Parameters
    ----------
    problem : Problem
        With at least two trained layers, each a matrix that fits the next one.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (layers - 1,) or (runs, layers - 1)
        NaN where theta is not finite.

    Raises
    ------
    ValueError
        If no two layers are adjacent matrices.

    References
    ----------
    Z. Ji, M. Telgarsky, Gradient descent aligns the layers of deep linear networks, arXiv 1810.02032.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.alignment(problem, np.array([2.0, 0.0, 0.0, 1.0, 0.6, 0.8])).round(12).tolist()
    [0.6]
    """
    shapes = problem.network.shapes
    matrices = weights(problem, theta)
    pairs = list(zip(list(matrices)[:-1], list(matrices)[1:], strict=True))
    if not pairs or any(len(shapes[b]) > 2 or shapes[a][0] != shapes[b][1] for a, b in pairs):
        raise ValueError(
            f"alignment needs at least two trained layers, each a matrix that fits the next one, not {problem.network}"
        )
    vectors = {name: _top_vectors(matrix) for name, matrix in matrices.items()}
    return np.stack([np.abs((vectors[a][0] * vectors[b][1]).sum(-1)) for a, b in pairs], axis=-1)


def _top_vectors(matrix):
    """Top left and right singular vectors; NaN for a matrix that is not finite."""
    finite = np.isfinite(matrix).all((-2, -1), keepdims=True)
    left, _, right = np.linalg.svd(np.where(finite, matrix, 0.0), full_matrices=False)
    return np.where(finite[..., 0], left[..., :, 0], np.nan), np.where(finite[..., 0], right[..., 0, :], np.nan)
