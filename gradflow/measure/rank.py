"""Singular values and ranks of the layers and of the map from inputs to outputs."""

from __future__ import annotations

import numpy as np

from gradflow.measure.layers import weight, weights


def spectrum(matrix) -> np.ndarray:
    """Singular values, largest first; NaN for a matrix that is not finite."""
    finite = np.isfinite(matrix).all((-2, -1), keepdims=True)
    values = np.linalg.svd(np.where(finite, matrix, 0.0), compute_uv=False)
    return np.where(finite[..., 0], values, np.nan)


def singular_values(problem, theta, layer="map") -> np.ndarray:
    r"""Singular values :math:`\sigma_1 \ge \sigma_2 \ge \dots` of the effective map, or of one layer.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    layer : str
        "map": the map from inputs to outputs of a linear network; or the name of a block, e.g. "W1". The kernel of a
        convolution counts as the matrix (output channels, all the rest).

    Returns
    -------
    ndarray (modes,) or (runs, modes)
        NaN where theta is not finite.

    Raises
    ------
    ValueError
        For an unknown layer, with the list of known ones; for "map" of a network that is not linear.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 2]), gf.losses.Square(), np.eye(2), np.eye(2))
    >>> theta = problem.flatten({"W1": np.diag([2.0, 1.0]), "W2": np.diag([3.0, 0.5])})
    >>> gf.measure.singular_values(problem, theta).round(12).tolist()
    [6.0, 0.5]
    >>> gf.measure.singular_values(problem, theta, layer="W1").round(12).tolist()
    [2.0, 1.0]
    """
    return spectrum(weight(problem, theta, layer))


def layer_singular_values(problem, theta) -> dict[str, np.ndarray]:
    """Singular values of every weight matrix, by name.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    dict of str to ndarray (modes,) or (runs, modes)

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> values = gf.measure.layer_singular_values(problem, np.array([3.0, 0.0, 0.0, 1.0, 0.6, 0.8]))
    >>> {name: value.round(12).tolist() for name, value in values.items()}
    {'W1': [3.0, 1.0], 'W2': [1.0]}
    """
    return {name: spectrum(matrix) for name, matrix in weights(problem, theta).items()}


def stable_rank(problem, theta, layer=None) -> float | np.ndarray:
    r"""Stable rank :math:`\|W\|_F^2 / \|W\|_2^2`, between 1 and the rank.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    layer : str, optional
        Name of a block, or "map" for the effective map of a linear network; every weight matrix if not given.

    Returns
    -------
    float or ndarray (layers,), (runs,) or (runs, layers)
        NaN for a zero matrix.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.stable_rank(problem, np.array([2.0, 0.0, 0.0, 1.0, 0.6, 0.8])).round(12).tolist()
    [1.25, 1.0]
    """
    return _for_layers(lambda values: _quotient((values**2).sum(-1), values[..., 0] ** 2), problem, theta, layer)


def spectral_ratio(problem, theta, layer=None) -> float | np.ndarray:
    r"""Ratio :math:`\|W\|_2 / \|W\|_F`, which is 1 exactly for rank one.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    layer : str, optional
        Name of a block, or "map" for the effective map of a linear network; every weight matrix if not given.

    Returns
    -------
    float or ndarray (layers,), (runs,) or (runs, layers)
        NaN for a zero matrix.

    References
    ----------
    Z. Ji, M. Telgarsky, Gradient descent aligns the layers of deep linear networks, arXiv 1810.02032.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.spectral_ratio(problem, np.array([4.0, 0.0, 0.0, 3.0, 0.6, 0.8])).round(12).tolist()
    [0.8, 1.0]
    """
    return _for_layers(lambda values: _quotient(values[..., 0], np.linalg.norm(values, axis=-1)), problem, theta, layer)


def numerical_rank(problem, theta, layer=None, *, tolerance=1e-6, relative_to="largest") -> float | np.ndarray:
    r"""Number of singular values above `tolerance` times the largest, :math:`\#\{i: \sigma_i > \tau\sigma_1\}`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    layer : str, optional
        Name of a block, or "map" for the effective map of a linear network; every weight matrix if not given.
    tolerance : float
        tau, between 0 and 1.
    relative_to : {"largest", "norm"}
        Whether tau is relative to the largest singular value or to the Frobenius norm.

    Returns
    -------
    float or ndarray (layers,), (runs,) or (runs, layers)
        Whole numbers; 0 for a zero matrix, NaN where theta is not finite.

    Raises
    ------
    ValueError
        For an unknown layer or `relative_to`, or a tolerance outside [0, 1).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.numerical_rank(problem, np.array([2.0, 0.0, 0.0, 1e-9, 0.6, 0.8])).tolist()
    [1.0, 1.0]
    """
    if not 0 <= tolerance < 1:
        raise ValueError(
            f"tolerance = {tolerance}: it is relative to the largest singular value; give 0 <= tolerance < 1"
        )
    if relative_to not in ("largest", "norm"):
        raise ValueError(f"relative_to = {relative_to!r}: choose 'largest' or 'norm'")

    def rank(values):
        size = values[..., :1] if relative_to == "largest" else np.linalg.norm(values, axis=-1, keepdims=True)
        above = (values > tolerance * size).sum(-1).astype(float)
        return np.where(np.isnan(values[..., 0]), np.nan, above)

    return _for_layers(rank, problem, theta, layer)


def rank_tail(problem, theta, rank, layer=None) -> float | np.ndarray:
    r"""Relative distance from the nearest matrix of a rank, :math:`\big(\sum_{i > r} \sigma_i^2\big)^{1/2} / \|W\|_F`.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    rank : int
        The rank r.
    layer : str, optional
        Name of a block, or "map" for the effective map of a linear network; every weight matrix if not given.

    Returns
    -------
    float or ndarray (layers,), (runs,) or (runs, layers)
        NaN for a zero matrix.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), np.ones((2, 1)))
    >>> gf.measure.rank_tail(problem, np.array([4.0, 0.0, 0.0, 3.0, 0.6, 0.8]), 1).round(12).tolist()
    [0.6, 0.0]
    """
    if not (isinstance(rank, int | np.integer) and rank >= 0):
        raise ValueError(f"rank = {rank!r}: must be an integer, at least 0")

    def tail(values):
        return _quotient(np.linalg.norm(values[..., rank:], axis=-1), np.linalg.norm(values, axis=-1))

    return _for_layers(tail, problem, theta, layer)


def _for_layers(function, problem, theta, layer):
    """Function of the singular values of one layer, or of all along the last axis."""
    if layer is not None:
        result = function(singular_values(problem, theta, layer))
        return result if np.ndim(result) else float(result)
    return np.stack([function(values) for values in layer_singular_values(problem, theta).values()], axis=-1)


def _quotient(above, below):
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / below
