"""One separable datum: exponential and logistic losses whose infimum 0 is not attained."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import finite, positive, times
from gradflow.exact.inversion import invert_increasing


def exponential_linear(t: ArrayLike, start: ArrayLike, x: ArrayLike = 1.0) -> np.ndarray:
    r"""Linear model, one datum, exponential loss.

    .. math:: L = e^{-w \cdot x}, \quad m = w \cdot x: \qquad m(t) = \log(\|x\|^2 t + e^{m_0}), \qquad
        w(t) = w_0 + x \frac{m(t) - m_0}{\|x\|^2}

    Parameters
    ----------
    t : array_like, shape (T,)
        Times, not negative.
    start : float or array_like, shape (d,)
        The weights at time 0.
    x : float or array_like, shape (d,)
        The input times its label, not zero.

    Returns
    -------
    np.ndarray, shape (T,) or (T, d)
        The weights w(t).

    Raises
    ------
    ValueError
        If start and x differ in shape, x is zero, or a time is negative.

    Examples
    --------
    >>> exponential_linear([1.0, 1e3, 1e6], start=0.3).round(6)
    array([ 0.854355,  6.909104, 13.815512])
    """
    t, start, x, square, margin = _datum(t, start, x)
    with np.errstate(divide="ignore"):
        gain = np.logaddexp(0.0, np.log(square * t) - margin)
    return _weights(start, x, gain / square)


def logistic_linear(t: ArrayLike, start: ArrayLike, x: ArrayLike = 1.0) -> np.ndarray:
    r"""Linear model, one datum, logistic loss.

    .. math:: L = \log(1 + e^{-w \cdot x}), \quad m = w \cdot x: \qquad
        m + e^m = \|x\|^2 t + m_0 + e^{m_0} = C, \qquad m(t) = \log \omega(C)

    Here omega is the Wright omega function, and :math:`w(t) = w_0 + x (m(t) - m_0) / \|x\|^2`.

    Parameters
    ----------
    t : array_like, shape (T,)
        Times, not negative.
    start : float or array_like, shape (d,)
        The weights at time 0.
    x : float or array_like, shape (d,)
        The input times its label, not zero.

    Returns
    -------
    np.ndarray, shape (T,) or (T, d)
        The weights w(t).

    Raises
    ------
    ValueError
        If start and x differ in shape, x is zero, a time is negative, or the first margin is above 700.

    Examples
    --------
    >>> logistic_linear([1.0, 1e3, 1e6], start=0.3).round(6)
    array([ 0.678648,  6.902489, 13.815498])
    """
    from scipy.special import wrightomega

    t, start, x, square, margin = _datum(t, start, x)
    if margin > 700:
        raise ValueError(f"the margin at time 0 is {margin:.6g}: its exponential overflows; start below 700")
    constant = square * t + margin + np.exp(margin)
    # For C < -1 the logarithm of omega is C - omega without cancellation; above, omega keeps all digits.
    omega = wrightomega(constant)
    margins = np.where(constant < -1, constant - omega, np.log(np.where(constant < -1, 1.0, omega)))
    return _weights(start, x, (margins - margin) / square)


def two_layer_exponential(t: ArrayLike, start: ArrayLike) -> np.ndarray:
    r"""Balanced product of two scalar weights, one datum, exponential loss.

    .. math:: L = e^{-u}, \quad u = a b, \; a = b: \qquad u' = 2 u e^{-u}, \qquad
        \mathrm{Ei}(u) - \mathrm{Ei}(u_0) = 2 t

    Parameters
    ----------
    t : array_like
        Times, not negative, below 1e300.
    start : array_like
        u at time 0, positive and below 700; broadcast against t.

    Returns
    -------
    np.ndarray
        u(t), of the broadcast shape of the arguments.

    Raises
    ------
    ValueError
        If a time is negative or too large, or a start is outside (0, 700).

    Examples
    --------
    >>> two_layer_exponential([2.0, 50.0, 1e4], start=0.04).round(6)
    array([ 0.818498,  6.158689, 12.319641])
    """
    from scipy.special import expi

    t, start = np.broadcast_arrays(times(t), positive("start", start))
    if (t >= 1e300).any() or (start >= 700).any():
        raise ValueError(
            f"t up to {t.max():.3g} and start up to {start.max():.3g}: the exponential integral overflows; give "
            "t < 1e300 and start < 700, or use two_layer_exponential_log_time"
        )
    first = expi(start)

    def log_time_and_slope(log_u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        passed = expi(np.exp(log_u)) - first
        return np.log1p(passed), np.exp(np.exp(log_u)) / (1 + passed)

    # Ei(u) >= exp(u/2) for u >= 1, and u' <= 2/e.
    high = np.minimum(start + t, np.maximum(start, np.maximum(1.0, 2 * np.log(2 * t + np.maximum(first, 1.0)))))
    log_high = np.log(high)
    return np.exp(invert_increasing(log_time_and_slope, np.log1p(2 * t), np.log(start), log_high, log_high))[()]


def two_layer_exponential_log_time(product: ArrayLike, start: ArrayLike) -> np.ndarray:
    r"""Logarithm of the time at which the two-layer product of `two_layer_exponential` reaches a value.

    .. math:: \log t = \log \frac{\mathrm{Ei}(u) - \mathrm{Ei}(u_0)}{2}

    Parameters
    ----------
    product : array_like
        The value u, above the start; it may be so large that the time itself overflows.
    start : array_like
        u at time 0, positive.

    Returns
    -------
    np.ndarray
        log t, of the broadcast shape of the arguments.

    Raises
    ------
    ValueError
        If the start is not positive, or the value is not above it.

    Examples
    --------
    >>> round(float(two_layer_exponential_log_time(10000 * np.log(10), start=0.04)), 7)
    23015.1134534
    """
    from scipy.special import expi

    product, start = np.broadcast_arrays(positive("product", product), positive("start", start))
    if (product <= start).any():
        wrong = np.flatnonzero((product <= start).reshape(-1))[0]
        raise ValueError(
            f"product = {product.flat[wrong]} with start = {start.flat[wrong]}: the product grows; give product > start"
        )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        direct = np.log(expi(product) - expi(start))
    small = np.where(product > 100, 0.0, direct)
    # Beyond 100 both integrals are kept as logarithms.
    log_end, log_start = _log_expi(product), _log_expi(start)
    with np.errstate(divide="ignore", invalid="ignore"):
        large = log_end + np.log(-np.expm1(np.where(start > 1, log_start, -np.inf) - log_end))
        large = np.where(start > 1, large, log_end - expi(np.minimum(start, 1.0)) * np.exp(-log_end))
    return (np.where(product > 100, large, small) - np.log(2))[()]


def _log_expi(u: np.ndarray) -> np.ndarray:
    """Logarithm of Ei(u) for u >= 1 (0 below)."""
    from scipy.special import expi

    inverse = 1 / np.maximum(u, 100.0)
    series = np.ones_like(inverse)
    for order in range(30, 0, -1):
        series = 1 + order * inverse * series
    asymptotic = u - np.log(u) + np.log(series)
    return np.where(u > 100, asymptotic, np.log(expi(np.clip(u, 1.0, 100.0))))


def _datum(t: ArrayLike, start: ArrayLike, x: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Return the checked arguments, the squared norm of x and the margin at time 0."""
    t, start, x = times(t), finite("start", start), finite("x", x)
    if start.shape != x.shape or start.ndim > 1:
        raise ValueError(
            f"start has shape {start.shape} and x has shape {x.shape}: give two numbers, or two vectors of shape (d,)"
        )
    square = float((x**2).sum())
    if square == 0:
        raise ValueError("x is zero: the loss does not depend on the weights; give an input that is not zero")
    return t, start, x, square, float((start * x).sum())


def _weights(start: np.ndarray, x: np.ndarray, travelled: np.ndarray) -> np.ndarray:
    """Return start + travelled x, with a last axis if x is a vector."""
    return (start + x * (travelled[..., None] if x.ndim else travelled))[()]
