"""Two-layer scalar products u = a b under the loss (s - u)^2 / 2, and the two-layer net with one output."""

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import finite, positive, times


def two_layer_mode(t: ArrayLike, strength: ArrayLike, start: ArrayLike) -> np.ndarray:
    r"""Strength of one mode of a balanced two-layer linear network.

    .. math:: u' = 2 |u| (s - u), \qquad u(t) = \frac{s}{1 + (s / u_0 - 1) e^{-2 s t}}

    This is u = a b with :math:`|a| = |b|` under the loss :math:`(s - a b)^2 / 2`. A loss without the 1/2 runs twice
    as fast: give 2 t.

    Parameters
    ----------
    t : array_like
        Times, not negative.
    strength : array_like
        The target s, of any sign; broadcast against t.
    start : array_like
        u at time 0, of any sign (the sign is kept for ever); broadcast against t.

    Returns
    -------
    np.ndarray
        u(t), of the broadcast shape of the three arguments.

    Raises
    ------
    ValueError
        If a time is negative, or a number is not finite.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    Examples
    --------
    >>> two_layer_mode([0.5, 1.0, 4.0], strength=2.0, start=0.01).round(6)
    array([0.071603, 0.430588, 1.999955])
    """
    t, strength, start = np.broadcast_arrays(times(t), finite("strength", strength), finite("start", start))
    sign = np.where(start < 0, -1.0, 1.0)
    strength, start = sign * strength, np.abs(start)
    exponent = 2 * np.abs(strength) * t
    decay = np.exp(-exponent)
    filled = 2 * t * np.divide(-np.expm1(-exponent), exponent, out=np.ones_like(exponent), where=exponent > 0)
    numerator = np.where(strength >= 0, start, start * decay)
    denominator = np.where(strength >= 0, decay, 1.0) + start * filled
    return (sign * np.divide(numerator, denominator, out=np.zeros_like(numerator), where=start > 0))[()]


def two_layer_time(start: ArrayLike, end: ArrayLike, strength: ArrayLike) -> np.ndarray:
    r"""Time in which a balanced two-layer mode moves from one strength to another.

    .. math:: t = \frac{1}{2 s} \log \frac{u_1 (s - u_0)}{u_0 (s - u_1)}

    Parameters
    ----------
    start, end : array_like
        Strengths :math:`u_0 > 0` and :math:`u_1 > 0`; the end must lie between the start and the limit max(s, 0).
    strength : array_like
        The target s.

    Returns
    -------
    np.ndarray
        The time, of the broadcast shape of the three arguments.

    Raises
    ------
    ValueError
        If the end is not on the way from the start.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, arXiv:1312.6120.

    Examples
    --------
    >>> two_layer_time(start=[0.01, 0.02], end=[1.5, 0.5], strength=[3.0, 1.0]).round(4)
    array([0.9501, 1.9459])
    """
    start, end, strength = np.broadcast_arrays(
        positive("start", start), positive("end", end), finite("strength", strength)
    )
    require_on_the_way(start, end, np.maximum(strength, 0.0))
    growth = log_ratio(end, start)
    with np.errstate(divide="ignore", invalid="ignore"):
        approach = log_ratio(np.abs(strength - start), np.abs(strength - end))
        moving = (growth + approach) / (2 * strength)
        return np.where(start == end, 0.0, np.where(strength == 0, (1 / end - 1 / start) / 2, moving))[()]


def require_on_the_way(start: np.ndarray, end: np.ndarray, limit: np.ndarray) -> None:
    """Raise unless every end is the start itself or lies strictly between it and the limit."""
    passed = (end == start) | ((start < end) & (end < limit)) | ((limit < end) & (end < start))
    if not passed.all():
        wrong = np.flatnonzero(~passed.reshape(-1))[0]
        raise ValueError(
            f"end = {end.flat[wrong]}: the flow from start = {start.flat[wrong]} runs towards "
            f"{limit.flat[wrong]} and does not reach it in finite time; give an end strictly between the two"
        )


def log_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Logarithm of a ratio of positive numbers, accurate when they are close."""
    difference = numerator - denominator
    close = np.abs(difference) < 0.5 * denominator
    relative = np.divide(difference, denominator, out=np.zeros_like(difference), where=close)
    return np.where(close, np.log1p(relative), np.log(numerator) - np.log(denominator))


def two_layer_unbalanced(t: ArrayLike, strength: ArrayLike, start: ArrayLike, gap: ArrayLike) -> np.ndarray:
    r"""Product of two scalar weights whose squares differ.

    .. math:: u' = \sqrt{c^2 + 4 u^2} (s - u), \qquad c = b^2 - a^2

    With :math:`X = u + \sqrt{u^2 + c^2/4}`, :math:`\delta = \sqrt{s^2 + c^2/4}`, :math:`h = \tanh(\delta t)`:

    .. math:: X(t) = \frac{\delta X_0 + (s X_0 + c^2/4) h}{\delta + (X_0 - s) h}, \qquad u = (X - c^2 / (4 X)) / 2

    This is u = a b under the loss :math:`(s - a b)^2 / 2`. The rate towards s is :math:`2 \delta`. For c = 0 this is
    `two_layer_mode`.

    Parameters
    ----------
    t : array_like
        Times, not negative.
    strength : array_like
        The target s, of any sign.
    start : array_like
        u at time 0, of any sign.
    gap : array_like
        The conserved difference c = b^2 - a^2, of any sign; below 1e-140 in absolute value it counts as 0.

    Returns
    -------
    np.ndarray
        u(t), of the broadcast shape of the arguments.

    Raises
    ------
    ValueError
        If a time is negative, or a number is not finite.

    Examples
    --------
    >>> a, b = 0.3, -0.8
    >>> two_layer_unbalanced([0.3, 1.0, 3.0], strength=2.0, start=a * b, gap=b**2 - a**2).round(6)
    array([0.12472 , 1.342964, 1.999699])
    """
    t, strength, start, gap = np.broadcast_arrays(
        times(t), finite("strength", strength), finite("start", start), finite("gap", gap)
    )
    balanced = np.abs(gap) < 1e-140
    sign = np.where(strength < 0, -1.0, 1.0)
    target, u0 = sign * strength, sign * start
    half = np.where(balanced, 1.0, np.abs(gap) / 2)
    rate = np.hypot(target, half)
    root = np.hypot(u0, half)
    x0 = np.where(u0 >= 0, u0 + root, half / (root - np.minimum(u0, 0.0)) * half)
    decay = np.exp(-2 * rate * t)
    rest = 2 * decay / (1 + decay)
    tanh = -np.expm1(-2 * rate * t) / (1 + decay)
    # rate - target, and 1 - tanh, are written so that nothing is subtracted: every term is positive.
    numerator = rate * x0 + (target * x0 + half**2) * tanh
    denominator = half / (rate + target) * half + target * rest + x0 * tanh
    x = numerator / denominator
    unbalanced = sign * (x - half / x * half) / 2
    return np.where(balanced, two_layer_mode(t, strength, start), unbalanced)[()]


def two_layer_scalar_output(
    t: ArrayLike, radius: ArrayLike, cosine: ArrayLike, strength: ArrayLike = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Norm and alignment of a balanced two-layer linear network with one output.

    .. math:: r' = 2 r (\ell c - r), \qquad c' = \ell (1 - c^2)

    Here :math:`w = W_2 W_1` is the end-to-end row vector, the loss is :math:`\|w - \Lambda\|^2 / 2`,
    :math:`r = \|w\|`, :math:`\ell = \|\Lambda\|` and c is the cosine of the angle between them. With
    :math:`\ell = 1` and :math:`\tau = \mathrm{artanh}\, c_0`:

    .. math:: c = \tanh(t + \tau), \qquad \frac{1}{r} = \frac{\cosh^2 \tau / r_0 + t + \sinh t \cosh(t + 2 \tau)}
        {\cosh^2(t + \tau)}

    Parameters
    ----------
    t : array_like
        Times, not negative.
    radius : array_like
        r at time 0, positive.
    cosine : array_like
        c at time 0, between -1 and 1.
    strength : array_like
        The norm of the target, positive.

    Returns
    -------
    radius : np.ndarray
        The norm r(t), of the broadcast shape of the arguments.
    cosine : np.ndarray
        The cosine c(t), of the same shape.

    Raises
    ------
    ValueError
        If the radius or the strength is not positive, or the cosine is outside [-1, 1].

    References
    ----------
    Elkabetz, Cohen 2021, arXiv:2107.06608 (the setting).

    Examples
    --------
    >>> radius, cosine = two_layer_scalar_output([0.0, 2.0, 8.0], radius=0.05, cosine=-0.2)
    >>> radius.round(4), cosine.round(4)
    (array([0.05  , 0.2989, 1.    ]), array([-0.2   ,  0.9465,  1.    ]))
    """
    t, r0, c0, strength = np.broadcast_arrays(
        times(t), positive("radius", radius), finite("cosine", cosine), positive("strength", strength)
    )
    if (np.abs(c0) > 1).any():
        raise ValueError(f"cosine contains {c0[np.abs(c0) > 1].flat[0]}: a cosine lies between -1 and 1")
    frozen = np.abs(c0) == 1
    tau = np.arctanh(np.where(frozen, 0.0, c0))
    time = strength * t
    now, middle = np.abs(time + tau), np.abs(time + 2 * tau)
    # cosh and sinh are written with their largest exponential taken out, so that no time overflows; the one of
    # the last term, time + middle - 2 now, is simplified by hand because its parts cancel.
    excess = np.minimum(2 * time, np.maximum(0.0, -2 * (time + 2 * tau)))
    spread = (1 + np.exp(-2 * now)) ** 2
    start_part = np.exp(2 * np.abs(tau) - 2 * now) * (1 + np.exp(-2 * np.abs(tau))) ** 2 / spread
    line_part = 4 * time * np.exp(-2 * now) / spread
    grown_part = np.exp(excess) * -np.expm1(-2 * time) * (1 + np.exp(-2 * middle)) / spread
    moving = strength / (start_part * strength / r0 + line_part + grown_part)
    aligned = two_layer_mode(t, np.where(c0 > 0, strength, -strength), r0)
    return np.where(frozen, aligned, moving)[()], np.where(frozen, c0, np.tanh(time + tau))[()]
