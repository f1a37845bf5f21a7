"""Neural collapse: how the features of the last hidden layer gather around their class means."""

from __future__ import annotations

import numpy as np

from gradflow.measure.labels import classes
from gradflow.measure.runs import per_run
from gradflow.networks import Feedforward


def features(problem, theta) -> np.ndarray:
    """Outputs h of layer L - 1, which the last layer reads.

    Parameters
    ----------
    problem : Problem
        With a feedforward network of at least two layers.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (n, width) or (runs, n, width)

    Raises
    ------
    ValueError
        If the network has no hidden layers.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 2, 1]), gf.losses.Square(), [[2.0]], [[1.0]])
    >>> gf.measure.features(problem, np.array([1.0, 3.0, 1.0, 1.0])).tolist()
    [[2.0, 6.0]]
    """
    network = problem.network
    if not isinstance(network, Feedforward) or len(network.stages) < 2:
        raise ValueError(f"features are the outputs of the last hidden layer; {network} has no hidden layers to read")
    return network.values(problem.layers(problem.checked(theta)), problem.x)[-2]


@per_run
def nc1(problem, theta) -> float | np.ndarray:
    r"""Within-class scatter over between-class scatter of the features.

    .. math:: \frac{\operatorname{mean}_i |h_i - \mu_{c(i)}|^2}{\operatorname{mean}_c |\mu_c - \mu_G|^2}

    with class means :math:`\mu_c` and their mean :math:`\mu_G`; 0 when collapsed.

    Parameters
    ----------
    problem : Problem
        Its targets are labels; one output with labels -1/+1 has two classes.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        If the targets are not labels, a class has no samples, or there are no hidden layers.

    References
    ----------
    V. Papyan, X. Han, D. Donoho, Prevalence of neural collapse during the terminal phase of deep learning training,
    arXiv 2008.08186; M. Xu et al., Dynamics in deep classifiers trained with the square loss, Research 6 (2023).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Logistic(), [[1.0], [3.0], [-2.0]], [1, 1, -1])
    >>> round(gf.measure.nc1(problem, np.array([5.0, 1.0])), 9)
    0.166666667
    """
    h, means, true = _class_means(problem, theta)
    within = ((h - means[true]) ** 2).sum(1).mean()
    return _divided(within, (_centred(means) ** 2).sum(1).mean())


@per_run
def nc2(problem, theta) -> float | np.ndarray:
    r"""Distance of the centred class means from a simplex.

    .. math:: \max_{c \ne e} \left|\cos(\mu_c - \mu_G, \mu_e - \mu_G) + \frac{1}{C-1}\right|

    For two classes it is 0 always.

    Parameters
    ----------
    problem : Problem
        Its targets are labels.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        As :func:`nc1`.

    References
    ----------
    V. Papyan, X. Han, D. Donoho, arXiv 2008.08186; M. Xu et al., Research 6 (2023).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([3, 3, 3]), gf.losses.CrossEntropy(), np.eye(3), [0, 1, 2])
    >>> theta = problem.flatten({"W1": np.eye(3), "W2": np.eye(3)})
    >>> round(gf.measure.nc2(problem, theta), 9)
    0.0
    """
    b = _centred(_class_means(problem, theta)[1])
    unit = _divided(b, np.linalg.norm(b, axis=1, keepdims=True))
    count = len(b)
    return np.abs((unit @ unit.T)[~np.eye(count, dtype=bool)] + 1 / (count - 1)).max()


@per_run
def nc3(problem, theta) -> float | np.ndarray:
    r"""Distance between the directions of the last layer and of the class means.

    .. math:: \left\| \frac{W_c}{\|W_c\|_F} - \frac{B}{\|B\|_F} \right\|_F

    :math:`W_c` is :math:`W_L` minus the mean of its rows, B has the rows :math:`\mu_c - \mu_G`. A network with one
    output w counts as the two rows -w and w.

    Parameters
    ----------
    problem : Problem
        Its targets are labels.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        As :func:`nc1`.

    References
    ----------
    V. Papyan, X. Han, D. Donoho, arXiv 2008.08186; M. Xu et al., Research 6 (2023).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([3, 3, 3]), gf.losses.CrossEntropy(), np.eye(3), [0, 1, 2])
    >>> theta = problem.flatten({"W1": np.eye(3), "W2": 5 * np.eye(3)})
    >>> round(gf.measure.nc3(problem, theta), 9)
    0.0
    """
    b = _centred(_class_means(problem, theta)[1])
    last = f"W{len(problem.network.stages)}"
    readout = {**problem.network.fixed, **problem.layers(theta)}[last]
    w = _centred(np.vstack([-readout, readout]) if len(readout) == 1 else readout)
    return float(np.linalg.norm(_divided(w, np.linalg.norm(w)) - _divided(b, np.linalg.norm(b))))


@per_run
def nc4(problem, theta) -> float | np.ndarray:
    """Fraction of samples whose nearest class mean is not the class that the outputs choose.

    Parameters
    ----------
    problem : Problem
        Its targets are labels.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    float or ndarray (runs,)

    Raises
    ------
    ValueError
        As :func:`nc1`.

    References
    ----------
    V. Papyan, X. Han, D. Donoho, arXiv 2008.08186; M. Xu et al., Research 6 (2023).

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Logistic(), [[1.0], [3.0], [-2.0]], [1, 1, -1])
    >>> gf.measure.nc4(problem, np.array([5.0, -1.0]))
    1.0
    """
    h, means, _ = _class_means(problem, theta)
    if not np.isfinite(h).all():
        return np.nan
    nearest = ((h[:, None, :] - means) ** 2).sum(2).argmin(1)
    outputs = problem.outputs(theta)
    chosen = (outputs[:, 0] > 0).astype(int) if outputs.shape[1] == 1 else outputs.argmax(1)
    return np.mean(nearest != chosen)


def collapse(problem, theta) -> np.ndarray:
    """All four distances from neural collapse: :func:`nc1`, :func:`nc2`, :func:`nc3` and :func:`nc4`.

    Parameters
    ----------
    problem : Problem
        Its targets are labels.
    theta : array_like (P,) or (runs, P)

    Returns
    -------
    ndarray (4,) or (runs, 4)

    Raises
    ------
    ValueError
        As :func:`nc1`.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([3, 3, 3]), gf.losses.CrossEntropy(), np.eye(3), [0, 1, 2])
    >>> theta = problem.flatten({"W1": np.eye(3), "W2": np.eye(3)})
    >>> gf.measure.collapse(problem, theta).round(9).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    return np.stack([distance(problem, theta) for distance in (nc1, nc2, nc3, nc4)], axis=-1)


def _class_means(problem, theta):
    """Features (n, width), class means (C, width), class of each sample (n,)."""
    h, true = features(problem, theta), classes(problem)
    sizes = np.bincount(true, minlength=max(problem.network.output_size, 2))
    if (sizes == 0).any():
        raise ValueError(f"class {int(sizes.argmin())} has no samples: neural collapse needs samples of every class")
    means = np.stack([h[true == c].mean(0) for c in range(len(sizes))])
    return h, means, true


def _centred(rows):
    return rows - rows.mean(0)


def _divided(above, below):
    """Quotient; NaN without a warning where features have no spread at all."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / below
