"""Modes of deep linear networks of any depth: chains of equal weights, aligned starts, half times."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import count, finite, not_negative, positive, times
from gradflow.exact.inversion import invert_increasing
from gradflow.exact.two_layer import log_ratio, require_on_the_way, two_layer_mode, two_layer_time

SERIES_TERMS = 64


def chain(t: ArrayLike, strength: ArrayLike, start: ArrayLike, depth: int) -> np.ndarray:
    r"""Weight of a chain of L equal scalar weights.

    .. math:: a' = a^{L-1} (s - a^L)

    This is the flow of the loss :math:`(s - a_L \cdots a_1)^2 / 2` from equal weights; `chain_time` gives its
    inverse in closed form. Starts above :math:`s^{1/L}` come down to it.

    Parameters
    ----------
    t : array_like
        Times, not negative.
    strength : array_like
        The target s, not negative.
    start : array_like
        Every weight at time 0, not negative.
    depth : int
        The number L of weights, at least 1.

    Returns
    -------
    np.ndarray
        a(t), of the broadcast shape of the first three arguments; the product of the chain is a(t)**depth.

    Raises
    ------
    ValueError
        If a time, the target or the start is negative, or the depth is below 1.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    Examples
    --------
    >>> chain([1.0, 2.0], strength=2.0, start=0.3, depth=3).round(6)
    array([0.694319, 1.256705])
    """
    depth = count("depth", depth)
    t, strength, start = np.broadcast_arrays(times(t), not_negative("strength", strength), not_negative("start", start))
    if depth == 1:
        return (start * np.exp(-t) - strength * np.expm1(-t))[()]
    if depth == 2:
        return np.sqrt(two_layer_mode(t, strength, start**2))
    weight = np.array(start)
    vanishing = (strength == 0) & (start > 0)
    power = 2 * depth - 2
    weight[vanishing] *= (1 + power * start[vanishing] ** power * t[vanishing]) ** (-1 / power)
    limit = strength ** (1 / depth)
    speed = strength ** (2 - 2 / depth)
    for below, moving in ((True, start < limit), (False, start > limit)):
        moving = moving & (start > 0) & (strength > 0)
        relative = start[moving] / limit[moving]
        weight[moving] = limit[moving] * _relaxed(relative, speed[moving] * t[moving], depth, below)
    return weight[()]


def chain_time(start: ArrayLike, end: ArrayLike, strength: ArrayLike, depth: int) -> np.ndarray:
    r"""Time in which a chain of L equal scalar weights moves from one weight to another.

    .. math:: t = \int_{a_0}^{a_1} \frac{da}{a^{L-1} (s - a^L)}

    For s = 1 and a < 1 the integral is :math:`-a^{2-L}/(L-2) + a^2/2 \; {}_2F_1(1, 2/L; 1 + 2/L; a^L)`; other
    targets follow by scaling. It is evaluated in the logarithm of 1 - a^L near the fixed point.

    Parameters
    ----------
    start, end : array_like
        The weights :math:`a_0 > 0` and :math:`a_1 > 0`; the end must lie between the start and :math:`s^{1/L}`.
    strength : array_like
        The target s, positive.
    depth : int
        The number L of weights, at least 1.

    Returns
    -------
    np.ndarray
        The time, of the broadcast shape of the first three arguments.

    Raises
    ------
    ValueError
        If the end is not on the way from the start, or an argument is not positive.

    Examples
    --------
    >>> round(float(chain_time(start=0.05, end=1.0, strength=2.0, depth=4)), 6)
    99.905494
    """
    depth = count("depth", depth)
    start, end, strength = np.broadcast_arrays(
        positive("start", start), positive("end", end), positive("strength", strength)
    )
    if depth == 1:
        require_on_the_way(start, end, strength)
        return log_ratio(np.abs(strength - start), np.abs(strength - end))[()]
    if depth == 2:
        return two_layer_time(start**2, end**2, strength)
    limit = strength ** (1 / depth)
    require_on_the_way(start, end, limit)
    elapsed = np.zeros(start.shape)
    for below in (True, False):
        moving = (end != start) & ((start < limit) == below)
        gain = log_ratio(end[moving], start[moving])
        relative = start[moving] / limit[moving]
        log_start, log_end = (log_ratio(weight[moving], limit[moving]) for weight in (start, end))
        first, last = (_log_odds(log_weight, depth, below) for log_weight in (log_start, log_end))
        elapsed[moving] = _elapsed(last, first, gain, relative, depth, below)
    return (elapsed / strength ** (2 - 2 / depth))[()]


def deep_linear_modes(t: ArrayLike, strengths: ArrayLike, start: ArrayLike, depth: int = 2) -> np.ndarray:
    r"""Mode strengths of a deep linear network from an aligned, balanced start.

    .. math:: u_k' = L \, u_k^{2 - 2/L} (s_k - u_k)

    The singular modes of the end-to-end matrix under :math:`\|\Sigma - W_L \cdots W_1\|_F^2 / 2` (whitened inputs,
    ``Square(half=True)``). A loss without the 1/2 runs twice as fast: give 2 t.

    Parameters
    ----------
    t : array_like, shape (T,)
        Times, not negative.
    strengths : array_like, shape (m,)
        The singular values :math:`s_k` of the target, not negative.
    start : float or array_like, shape (m,)
        The strengths :math:`u_k` at time 0, not negative: each is the L-th power of the layers' singular values.
    depth : int
        The number L of layers, at least 1.

    Returns
    -------
    np.ndarray, shape (T, m)
        :math:`u_k(t)`; a single time gives shape (m,).

    Raises
    ------
    ValueError
        If a time, a strength or a start is negative, or the depth is below 1.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    Examples
    --------
    >>> deep_linear_modes([0.95, 1.95, 6.0], strengths=(3.0, 1.0), start=(0.01, 0.02)).round(3)
    array([[1.5  , 0.12 ],
           [2.993, 0.502],
           [3.   , 1.   ]])
    """
    depth = count("depth", depth)
    strengths = not_negative("strengths", strengths)
    start = not_negative("start", start)
    if strengths.ndim != 1:
        raise ValueError(f"strengths has shape {strengths.shape}: give one number per mode, shape (m,)")
    if start.ndim and start.shape != strengths.shape:
        raise ValueError(f"start has shape {start.shape} for {len(strengths)} modes: give one number, or one per mode")
    column = times(t)[..., None]
    if depth == 2:
        return two_layer_mode(column, strengths, start)
    return chain(column, strengths, start ** (1 / depth), depth) ** depth


def deep_linear_half_time(starts: ArrayLike, depth: int = 2, strength: ArrayLike = 1.0) -> np.ndarray:
    r"""Time at which a mode of a deep linear network reaches half of its target.

    .. math:: t_{1/2} = \frac{1}{2 s} \log(s / u_0 - 1) \; (L = 2), \qquad
        t_{1/2} \sim \frac{u_0^{2/L - 1}}{s (L - 2)} \; (L > 2, u_0 \to 0)

    Parameters
    ----------
    starts : array_like
        The strengths :math:`u_0` at time 0, positive and at most s / 2.
    depth : int
        The number L of layers, at least 1.
    strength : array_like
        The target s, positive.

    Returns
    -------
    np.ndarray
        The half times, of the broadcast shape of starts and strength.

    Raises
    ------
    ValueError
        If a start is not between 0 and s / 2.

    Examples
    --------
    >>> deep_linear_half_time([1e-2, 1e-4], depth=3).round(3)
    array([ 3.768, 20.693])
    """
    depth = count("depth", depth)
    starts, strength = np.broadcast_arrays(positive("starts", starts), positive("strength", strength))
    if (starts > strength / 2).any():
        raise ValueError(
            f"starts contains {starts[starts > strength / 2].flat[0]}: it is above half of the strength; "
            "give starts <= strength / 2"
        )
    if depth == 2:
        return two_layer_time(starts, strength / 2, strength)
    return chain_time(starts ** (1 / depth), (strength / 2) ** (1 / depth), strength, depth)


def aligned_deep_linear(t: ArrayLike, sigma: ArrayLike, start: ArrayLike, depth: int = 2) -> np.ndarray:
    r"""End-to-end matrix of a deep linear network from an aligned, balanced start.

    .. math:: W_L \cdots W_1(t) = U \, \mathrm{diag}(u_k(t)) \, V^T, \qquad \Sigma = U \, \mathrm{diag}(s_k) \, V^T

    The layers start as :math:`W_1 = R_1 \mathrm{diag}(u_k^{1/L}) V^T`, ...,
    :math:`W_L = U \mathrm{diag}(u_k^{1/L}) R_{L-1}^T` with orthonormal :math:`R_l`; the strengths follow
    `deep_linear_modes`. The loss is :math:`\|\Sigma - W_L \cdots W_1\|_F^2 / 2`.

    Parameters
    ----------
    t : array_like, shape (T,)
        Times, not negative.
    sigma : array_like, shape (k, d)
        The target, outputs by inputs.
    start : float or array_like, shape (min(k, d),)
        The strengths at time 0, not negative, in the order of the singular values (largest first).
    depth : int
        The number L of layers, at least 1.

    Returns
    -------
    np.ndarray, shape (T, k, d)
        The end-to-end matrix; a single time gives shape (k, d).

    Raises
    ------
    ValueError
        If sigma is not a finite matrix, or a start is negative.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    Examples
    --------
    >>> aligned_deep_linear(1.0, sigma=[[0.0, 2.0], [1.0, 0.0]], start=0.01).round(4)
    array([[0.    , 0.4306],
           [0.0695, 0.    ]])
    """
    sigma = finite("sigma", sigma)
    if sigma.ndim != 2:
        raise ValueError(f"sigma has shape {sigma.shape}: it must be a matrix, outputs by inputs; give shape (k, d)")
    left, strengths, right = np.linalg.svd(sigma, full_matrices=False)
    modes = deep_linear_modes(t, strengths, start, depth)
    return (left * modes[..., None, :]) @ right


def _log_odds(log_weight: np.ndarray, depth: int, below: bool) -> np.ndarray:
    """Log odds log(z / (1 - z)) of z = b^L below the fixed point b = 1, and of z = b^-L above it."""
    log_z = depth * log_weight if below else -depth * log_weight
    return log_z - np.log(-np.expm1(log_z))


def _elapsed(
    odds: np.ndarray, start_odds: np.ndarray, gain: np.ndarray, start: np.ndarray, depth: int, below: bool
) -> np.ndarray:
    """Time from the start b0 to the weight b = b0 exp(gain), target 1, the log odds of both being known."""
    exponent = 2 / depth if below else 2 - 2 / depth
    approach = (_approach(odds, exponent) - _approach(start_odds, exponent)) / depth
    if not below:
        return approach
    with np.errstate(over="ignore"):
        return start ** (2.0 - depth) * -np.expm1((2 - depth) * gain) / (depth - 2) + approach


def _approach(odds: np.ndarray, exponent: float) -> np.ndarray:
    r"""Sum over k of :math:`z^{k + p} / (k + p)`, p the exponent, z given by its log odds."""
    from scipy.special import digamma

    order = np.arange(SERIES_TERMS)
    log_z, log_rest = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    near_zero = np.polynomial.polynomial.polyval(np.exp(np.minimum(log_z, -np.log(2))), 1 / (order + exponent))
    rising = np.cumprod(np.concatenate(([1.0], (exponent + order[:-1]) / (order[:-1] + 1.0))))
    coefficients = rising * (digamma(order + 1.0) - digamma(order + exponent))
    near_one = np.polynomial.polynomial.polyval(np.exp(np.minimum(log_rest, -np.log(2))), coefficients)
    return np.where(odds <= 0, np.exp(exponent * log_z) * near_zero, np.exp(exponent * log_z) * near_one - log_rest)


def _relaxed(start: np.ndarray, elapsed: np.ndarray, depth: int, below: bool) -> np.ndarray:
    """Weight b after the given time from the start b0, target 1."""
    direction = 1 if below else -1
    exponent = 2 / depth - 1 if below else 2 - 2 / depth
    log_start = np.log(start)
    start_odds = _log_odds(log_start, depth, below)

    def time_and_slope(odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_z = -np.logaddexp(0, -odds)
        gain = direction * log_z / depth - log_start
        return _elapsed(odds, start_odds, gain, start, depth, below), np.exp(exponent * log_z) / depth

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if below:
            high = start_odds + depth * elapsed
            plateau = start ** (2.0 - depth) - (depth - 2) * elapsed
            guess = np.where(plateau > 1, depth / (2 - depth) * np.log(plateau), np.minimum(high, 0.0))
        else:
            high = start_odds + depth * elapsed * start ** (2.0 * depth - 2)
            guess = high
    odds = invert_increasing(time_and_slope, elapsed, start_odds, high, guess)
    return np.exp(direction * -np.logaddexp(0, -odds) / depth)
