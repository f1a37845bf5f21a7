"""Margin problems of diagonal networks, and their path on one sample."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import count, finite, positive
from gradflow.exact.inversion import invert_increasing


def diagonal_at_margin(margin: ArrayLike, x: ArrayLike, alpha: float, depth: int = 2) -> np.ndarray:
    r"""Effective weights of a diagonal network on one sample at the point of its path where the margin is m.

    .. math:: w = 2 \alpha^2 \sinh(4 \nu x) \quad (D = 2), \qquad
        w = \alpha^D \big( (1 - \kappa x)^{-D/(D-2)} - (1 + \kappa x)^{-D/(D-2)} \big) \quad (D > 2), \qquad
        w \cdot x = m

    The flow of w = u^D - v^D from :math:`u_0 = v_0 = \alpha` goes along this curve under any loss of the margin; the
    exponential loss is :math:`e^{-m}` on it. The dual variable (:math:`\nu` or :math:`\kappa`) is found by bisection.

    Parameters
    ----------
    margin : array_like, shape (...)
        The margins m, not negative.
    x : array_like, shape (d,)
        The sample times its label, not zero.
    alpha : float
        Scale of both weight vectors at time 0, positive.
    depth : int
        The power D, at least 2.

    Returns
    -------
    np.ndarray, shape (..., d)
        The effective weights w.

    Raises
    ------
    ValueError
        If a margin is negative, x is zero, alpha is not positive or the depth is below 2.

    References
    ----------
    Moroshko et al. 2020, arXiv:2007.06738 (the setting).

    Examples
    --------
    >>> diagonal_at_margin(100.0, [1.0, 0.3], alpha=1.0).round(3)
    array([98.885,  3.716])
    >>> diagonal_at_margin(100.0, [1.0, 0.3], alpha=1.0, depth=3).round(3)
    array([99.488,  1.706])
    """
    m, x = finite("margin", margin), finite("x", x)
    depth, alpha = count("depth", depth, 2), float(positive("alpha", alpha))
    if (m < 0).any():
        raise ValueError(f"margin contains {m.min():.3g}: the margins on the path are not negative")
    if x.ndim != 1 or not x.any():
        raise ValueError(f"x = {x}: it must be one sample, a vector that is not zero")
    share, scale = np.abs(x) / np.abs(x).max(), alpha**depth
    power = 1.0 if depth == 2 else depth / (depth - 2)
    first = 2 * power * scale * (np.abs(x) @ share)

    @np.errstate(divide="ignore", over="ignore", invalid="ignore")
    def sizes(dual):
        """Absolute weights and their derivatives by the dual, -log(1 - kappa |x|_max) for D > 2: no cancellation."""
        dual = dual[..., None]
        if depth == 2:
            return 2 * scale * np.sinh(share * dual), 2 * scale * share * np.cosh(share * dual)
        shift = share * np.expm1(-dual)
        log_far, log_near = np.log1p(-shift), np.where(share == 1, -dual, np.log1p(shift))
        size = scale * np.exp(-power * log_far) * np.expm1(power * (log_far - log_near))
        slope = np.exp(-(power + 1) * log_near) + np.exp(-(power + 1) * log_far)
        return size, scale * power * share * np.exp(-dual) * slope

    def margin_of(log_dual):
        dual = np.exp(log_dual)
        size, slope = sizes(dual)
        return size @ np.abs(x), slope @ np.abs(x) * dual

    reached = np.where(m > 0, m, 1.0)
    low, high = (np.log(np.log1p(reached / least) / power) for least in (first / power, scale * np.abs(x).max()))
    dual = np.exp(invert_increasing(margin_of, reached, low, high, low))
    return np.sign(x) * np.where(m > 0, 1.0, 0.0)[..., None] * sizes(dual)[0]


def diagonal_max_margin(z: ArrayLike, mu: ArrayLike) -> np.ndarray:
    r"""Separator of least :math:`Q_\mu` with all margins at least one.

    .. math:: \min_w \sum_j q\Big(\frac{w_j}{2\mu}\Big) \;\text{with}\; Z w \ge 1, \qquad
        q(t) = t \,\mathrm{asinh}\, t - \sqrt{1 + t^2} + 1; \qquad w = 2\mu \sinh(Z^T \lambda), \; \lambda \ge 0

    For :math:`\mu \to \infty` the separator of largest l2 margin, for :math:`\mu \to 0` that of largest l1 margin
    (slowly). A diagonal network of depth two that starts at :math:`u_0 = v_0 = \alpha` is near :math:`\gamma w` where
    its exponential loss (a sum) is :math:`e^{-\gamma}` and :math:`\mu = \alpha^2/\gamma`. Newton's method on the
    multipliers, with mu coming down from 100 or more.

    Parameters
    ----------
    z : array_like, shape (n, d)
        Samples times their labels, one per row; separable.
    mu : float or array_like, shape (...)
        Positive.

    Returns
    -------
    np.ndarray, shape (d,) or (..., d)
        The separator w of each mu.

    Raises
    ------
    ValueError
        If mu is not positive, z is not a matrix, or the rows of z are not separable.

    References
    ----------
    Moroshko et al. 2020, arXiv:2007.06738.

    Examples
    --------
    >>> z = [[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]]
    >>> diagonal_max_margin(z, 1.0).round(6)
    array([0.784615, 0.239317, 0.32906 ])
    >>> diagonal_max_margin(z, 1e-12).round(6)
    array([1., 0., 0.])
    """
    z, mu = finite("z", z), np.asarray(positive("mu", mu))
    if z.ndim != 2:
        raise ValueError(f"z has shape {z.shape}: give samples times labels, one per row")
    return np.array([_separator(z, float(one)) for one in mu.ravel()]).reshape(*mu.shape, z.shape[1])


def _separator(z: np.ndarray, mu: float) -> np.ndarray:
    """The separator of one mu, from those of larger ones."""
    level = max(100.0, mu)
    levels = [level]
    while level > mu:
        levels.append(level := max(level / 3.0, mu))
    multipliers = np.zeros(len(z))
    for level in levels:
        multipliers = _multipliers(z, level, multipliers)
    return 2 * mu * np.sinh(multipliers @ z)


def _multipliers(z: np.ndarray, mu: float, start: np.ndarray) -> np.ndarray:
    """Multipliers of the Q_mu problem from others: Newton steps, each a least-distance problem with inequalities."""
    from scipy.optimize import nnls

    current, active = start, slice(None)
    for _ in range(1000):
        exponent = current @ z
        w, curvature = 2 * mu * np.sinh(exponent), 2 * mu * np.cosh(exponent)
        missing = 1 - z @ (w - curvature * exponent)
        rows = z * np.sqrt(curvature)
        shares, residual = nnls(np.vstack([rows.T, missing]), np.append(np.zeros(z.shape[1]), 1.0))
        if residual < 1e-10:
            raise ValueError("Z w >= 1 has no solution: give samples times labels that a vector w separates")
        step = shares / (1 - shares @ missing) - current
        move, active = np.abs(step @ z).max(), shares > 0
        current = current + step / max(1.0, 2 * move)
        if move < 1e-6:
            break
    for _ in range(10):
        rows, exponent = z[active], current[active] @ z[active]
        missing = 1 - rows @ (2 * mu * np.sinh(exponent))
        current[active] += np.linalg.lstsq((rows * (2 * mu * np.cosh(exponent))) @ rows.T, missing, rcond=1e-15)[0]
    return current
