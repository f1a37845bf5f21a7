"""Minima of the square loss with a decay on the norm of the normalised network."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import count, not_negative, samples


class NeuralCollapse(NamedTuple):
    r"""The collapsed equilibrium of the normalised network :math:`f = \rho f_V`.

    Attributes
    ----------
    gain : float
        s, with outputs :math:`f(x_i) = s\, y_i`.
    rho : float
        The scale.
    loss : float
        The regularised loss there.

    Examples
    --------
    >>> neural_collapse(decay=1e-3, classes=3, per_class=6, depth=2)._fields
    ('gain', 'rho', 'loss')
    """

    gain: float
    rho: float
    loss: float


def resting_scale(margins: ArrayLike, decay: float) -> np.ndarray:
    r"""Scale rho at which the normalised flow of the square loss is at rest for given directions.

    .. math:: \rho_* = \frac{M}{Q + \lambda}, \qquad M = \mathrm{mean}_i\, m_i, \quad Q = \mathrm{mean}_i\, m_i^2

    It minimises :math:`\mathrm{mean}_i (1 - \rho\, m_i)^2 + \lambda \rho^2` over rho, with the margins
    :math:`m_i = y_i f_V(x_i)` of the network with unit layers and targets 1 and -1.

    Parameters
    ----------
    margins : array_like (..., n)
        Margins m of the samples.
    decay : float
        lambda, not negative.

    Returns
    -------
    np.ndarray, shape (...)
        The scale.

    Raises
    ------
    ValueError
        If the decay is negative.

    References
    ----------
    T. Poggio, Q. Liao, Explicit regularization and implicit bias in deep network classifiers trained with the square
    loss, arXiv 2101.00072.

    Examples
    --------
    >>> float(resting_scale([0.5, 0.5], 0.0))
    2.0
    """
    margins = np.asarray(margins, dtype=float)
    return margins.mean(-1) / ((margins**2).mean(-1) + not_negative("decay", decay))


def ridge(x: ArrayLike, y: ArrayLike, decay: float) -> np.ndarray:
    r"""Ridge regression, the limit of the normalised flow of a deep linear network with one output.

    .. math:: w = \Big( \frac{X^T X}{n} + \lambda I \Big)^{-1} \frac{X^T y}{n}, \qquad \rho_* = \|w\|

    w minimises :math:`\mathrm{mean}_i (y_i - w \cdot x_i)^2 + \lambda \|w\|^2`. For any depth this is also the
    minimum over :math:`f = \rho V_L \cdots V_1`, :math:`\|V_k\|_F = 1`, of the same loss with
    :math:`\lambda \rho^2`: a bound :math:`\|V_L \cdots V_1\| \le 1` is attained by aligned layers of rank one.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs, one sample per row.
    y : array_like, shape (n,) or (n, 1)
        The targets.
    decay : float
        lambda, not negative; 0 gives the least-squares solution of least norm.

    Returns
    -------
    np.ndarray, shape (d,)
        The minimiser w.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the decay is negative.

    References
    ----------
    Xu et al. 2023, Research 6; Poggio, Liao 2020, arXiv:2101.00072 (the normalised flow).

    Examples
    --------
    >>> ridge(x=[[1.0, 0.0], [0.0, 2.0]], y=[1.0, -1.0], decay=0.5).round(4)
    array([ 0.5, -0.4])
    """
    decay = float(not_negative("decay", decay))
    x, y = samples(x, y)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    kept = values > 1e-13 * values.max(initial=0.0)
    left, values, right = left[:, kept], values[kept], right[kept]
    return right.T @ (values / (values**2 + len(x) * decay) * (left.T @ y))


def neural_collapse(decay: float, classes: int, per_class: int, depth: int, centred: bool = False) -> NeuralCollapse:
    r"""Collapsed equilibrium of a deep linear network on orthonormal inputs under the square loss.

    .. math:: \rho f_V(x_i) = s \, y_i, \qquad s = \frac{1}{1 + \lambda n C^L}, \quad \rho = s \, C^{L/2} \sqrt{n},
        \quad \mathrm{loss} = 1 - s

    The inputs are the rows of the identity, n of them in each of C classes, the loss is
    :math:`\mathrm{mean}_i \|y_i - \rho V_L \cdots V_1 x_i\|^2 + \lambda \rho^2` with :math:`\|V_k\|_F = 1`, the
    targets are one-hot. With centred targets (one-hot minus 1/C), :math:`s = 1 / (1 + \lambda n C (C-1)^{L-1})`,
    :math:`\rho = s (C-1)^{L/2} \sqrt{n}` and the loss is :math:`(1 - s)(C - 1) / C`.

    Parameters
    ----------
    decay : float
        lambda, not negative.
    classes : int
        The number C of classes, at least 2.
    per_class : int
        The number n of samples in each class.
    depth : int
        The number L of layers.
    centred : bool
        Whether the mean 1/C is taken off the one-hot targets.

    Returns
    -------
    NeuralCollapse
        ``gain`` s, ``rho`` and ``loss`` (with the decay term).

    Raises
    ------
    ValueError
        If a count is too small, or the decay is negative.

    References
    ----------
    Xu et al. 2023, Research 6; Poggio, Liao 2020, arXiv:2101.00072 (neural collapse under the square loss).

    Examples
    --------
    >>> equilibrium = neural_collapse(decay=1e-3, classes=3, per_class=6, depth=2)
    >>> round(equilibrium.gain, 6), round(equilibrium.rho, 6)
    (0.948767, 6.971982)
    """
    decay = float(not_negative("decay", decay))
    classes = count("classes", classes, minimum=2)
    per_class, depth = count("per_class", per_class), count("depth", depth)
    modes = classes - 1 if centred else classes
    penalty = decay * per_class * classes * modes ** (depth - 1)
    gain = 1 / (1 + penalty)
    return NeuralCollapse(gain, gain * modes ** (depth / 2) * per_class**0.5, penalty * gain * modes / classes)
