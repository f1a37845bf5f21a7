"""Margins of classifiers: per sample, the smallest, and without the scale of the weights."""

from __future__ import annotations

import numpy as np

from gradflow.measure.labels import classes
from gradflow.measure.layers import effective_map, rho

DIVISORS = ("layers", "theta", "map")


def margins(problem, theta, by=None) -> np.ndarray:
    r"""Margin of every sample: :math:`y_i f(x_i)`, or :math:`f_{y_i}(x_i) - \max_{c \ne y_i} f_c(x_i)`.

    The first for one output and labels -1/+1, the second for one output per class. Positive where the sample is
    classified correctly.

    Parameters
    ----------
    problem : Problem
        Its targets are labels, whatever the loss.
    theta : array_like (P,) or (runs, P)
    by : {None, "layers", "theta", "map"}
        What the margins are divided by, as in :func:`gradflow.measure.normalised_margin`; None: nothing.

    Returns
    -------
    ndarray (n,) or (runs, n)

    Raises
    ------
    ValueError
        If the targets are not labels; for another `by`, or "theta" and a network that is not homogeneous.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0], [2.0]], [1, -1])
    >>> gf.measure.margins(problem, np.array([3.0])).tolist()
    [3.0, -6.0]
    """
    true = classes(problem)
    with np.errstate(invalid="ignore", divide="ignore"):
        outputs = problem.outputs(theta) / _size(problem, theta, by)[..., None, None]
    if outputs.shape[-1] == 1:
        return outputs[..., 0] * problem.y[:, 0]
    rows = np.arange(len(true))
    others = outputs.copy()
    others[..., rows, true] = -np.inf
    return outputs[..., rows, true] - others.max(-1)


def _size(problem, theta, by) -> np.ndarray:
    """What margins are divided by, () or (runs,)."""
    if by is None:
        return np.ones(())
    if by not in DIVISORS:
        raise ValueError(f"by = {by!r}: choose one of {', '.join(DIVISORS)}")
    if by == "layers":
        return np.asarray(rho(problem, theta))
    if by == "map":
        maps = effective_map(problem, theta)
        return np.linalg.norm(maps.reshape(*np.shape(theta)[:-1], -1), axis=-1)
    degree = problem.network.degree
    if degree is None:
        raise ValueError(
            f"by = 'theta' needs a homogeneous network, not {problem.network}: use activations such as relu without"
            " biases, or by = 'layers'"
        )
    return np.linalg.norm(problem.checked(theta), axis=-1) ** degree


def margin(problem, theta) -> float | np.ndarray:
    r"""Smallest margin over the samples, :math:`\min_i y_i f(x_i)` (see :func:`gradflow.measure.margins`).

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
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0], [-2.0]], [1, -1])
    >>> gf.measure.margin(problem, np.array([3.0]))
    3.0
    """
    smallest = margins(problem, theta).min(-1)
    return smallest if np.ndim(smallest) else float(smallest)


def normalised_margin(problem, theta, by="layers") -> float | np.ndarray:
    r"""Smallest margin without the scale of the weights.

    ``by="layers"``: :math:`\min_i m_i / \prod_l \|W_l\|_F`, the margin of the network with layers of norm one (for
    a chain of layers with activations of degree 1 and no biases). ``by="theta"``: :math:`\min_i m_i / |\theta|^D`
    for a network of degree D, the quantity that gradient flow increases late in training. ``by="map"``:
    :math:`\min_i m_i / \|W_L \cdots W_1\|_F` for a linear network, with one output the distance of the nearest sample
    from the hyperplane that separates the classes.

    Parameters
    ----------
    problem : Problem
    theta : array_like (P,) or (runs, P)
    by : {"layers", "theta", "map"}
        What the margin is divided by.

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        For another `by`; for ``by="theta"`` and a network that is not homogeneous, or "map" and one that is not linear.

    References
    ----------
    K. Lyu, J. Li, Gradient descent maximizes the margin of homogeneous neural networks, arXiv 1906.05890.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Logistic(), [[0.5]], [1])
    >>> gf.measure.normalised_margin(problem, np.array([3.0, 4.0]))
    0.5
    >>> gf.measure.normalised_margin(problem, np.array([3.0, 4.0]), by="theta")
    0.24
    """
    if by is None:
        raise ValueError(f"by = None: choose one of {', '.join(DIVISORS)}")
    smallest = margins(problem, theta, by).min(-1)
    return smallest if np.ndim(smallest) else float(smallest)


def accuracy(problem, theta) -> float | np.ndarray:
    """Fraction of samples with a positive margin: the right sign, or the right class; a tie counts as an error.

    Parameters
    ----------
    problem : Problem
        Its targets are labels; for held-out samples use ``problem.with_data(x, y)``.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)
        NaN where an output is not a number.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Logistic(), [[1.0], [2.0]], [1, -1])
    >>> gf.measure.accuracy(problem, np.array([3.0]))
    0.5
    """
    values = margins(problem, theta)
    fraction = np.where(np.isnan(values).any(-1), np.nan, (values > 0).mean(-1))
    return fraction if fraction.ndim else float(fraction)
