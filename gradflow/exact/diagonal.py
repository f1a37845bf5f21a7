"""Diagonal linear networks: limits of the flow, and the scalar network in time."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from gradflow.exact.checks import finite, positive, samples
from gradflow.exact.two_layer import two_layer_unbalanced

Potential = tuple[float, np.ndarray, np.ndarray]


def diagonal_scalar(t: ArrayLike, target: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Weight of a scalar diagonal network of depth two that starts at zero.

    .. math:: w = u^2 - v^2, \quad u_0 = v_0 = \alpha, \qquad w' = 4 \sqrt{w^2 + 4 \alpha^4} \, (y - w)

    The loss is :math:`(w - y)^2 / 2`; a loss without the 1/2 runs twice as fast: give 2 t.

    Parameters
    ----------
    t : array_like
        Times, not negative.
    target : array_like
        The target y, of any sign.
    alpha : array_like
        Scale of both weights at time 0, positive.

    Returns
    -------
    np.ndarray
        w(t), of the broadcast shape of the arguments.

    Raises
    ------
    ValueError
        If a time is negative or alpha is not positive.

    References
    ----------
    Woodworth et al. 2020, arXiv:2002.09277 (the setting).

    Examples
    --------
    >>> diagonal_scalar([0.3, 1.0], target=1.5, alpha=0.2).round(6)
    array([0.210361, 1.37912 ])
    """
    alpha = positive("alpha", alpha)
    return two_layer_unbalanced(2 * np.asarray(t, dtype=np.float64), target, 0.0, 4 * alpha**2)


def diagonal_from_residual(residual_integral: ArrayLike, x: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Effective weights of a diagonal network of depth two from the integral of its residual.

    .. math:: w(t) = 2 \alpha^2 \circ \sinh\Big( -4 X^T \int_0^t r(\tau) \, d\tau \Big), \qquad r = X w - y

    This holds for w = u o u - v o v with :math:`u_0 = v_0 = \alpha` under the loss :math:`\|X w - y\|^2 / 2` (a sum
    over samples), at every time. For the mean of the squares without the 1/2, multiply the integral by 2 / n.

    Parameters
    ----------
    residual_integral : array_like, shape (..., n)
        The integral of the residual over time.
    x : array_like, shape (n, d)
        The inputs, one sample per row.
    alpha : float or array_like, shape (d,)
        Scale of both weight vectors at time 0, positive.

    Returns
    -------
    np.ndarray, shape (..., d)
        The effective weights w.

    Raises
    ------
    ValueError
        If the shapes do not fit or alpha is not positive.

    References
    ----------
    Woodworth et al. 2020, arXiv:2002.09277.

    Examples
    --------
    >>> diagonal_from_residual([-1.0], x=[[1.0, -0.5]], alpha=0.1).round(4)
    array([ 0.5458, -0.0725])
    """
    x, alpha, integral = finite("x", x), positive("alpha", alpha), finite("residual_integral", residual_integral)
    if x.ndim != 2 or integral.ndim == 0 or integral.shape[-1] != len(x):
        raise ValueError(
            f"residual_integral has shape {integral.shape} for x of shape {x.shape}: its last axis must have one "
            "entry per row of x; give x of shape (n, d) and residual_integral of shape (..., n)"
        )
    _require_scale(alpha, x.shape[1])
    return 2 * alpha**2 * np.sinh(-4 * integral @ x)


def diagonal_limit(x: ArrayLike, y: ArrayLike, alpha: ArrayLike) -> np.ndarray:
    r"""Interpolating limit of the flow of a diagonal network of depth two.

    .. math:: w_\infty = 2 \alpha^2 \circ \sinh(X^T \nu), \qquad X w_\infty = y

    The flow of w = u o u - v o v from :math:`u_0 = v_0 = \alpha` under a squared loss, mean or sum, ends here: the
    l1 interpolant for small alpha, the l2 interpolant for large alpha. The dual vector nu is found by Newton's method.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs, one sample per row.
    y : array_like, shape (n,) or (n, 1)
        The targets; x w = y must have a solution.
    alpha : float or array_like, shape (d,)
        Scale of both weight vectors at time 0, positive.

    Returns
    -------
    np.ndarray, shape (d,)
        The limit of the effective weights.

    Raises
    ------
    ValueError
        If the shapes do not fit, alpha is not positive, or x w = y has no solution.

    References
    ----------
    Woodworth et al. 2020, arXiv:2002.09277.

    Examples
    --------
    >>> diagonal_limit(x=[[1.0, -0.5, 0.25]], y=[1.0], alpha=0.1).round(6)
    array([ 0.944915, -0.096184,  0.027972])
    """
    alpha = positive("alpha", alpha)
    x, y = samples(x, y)
    _require_scale(alpha, x.shape[1])
    rows, targets = _independent_rows(x, y)

    def potential(dual: np.ndarray, scale: np.ndarray) -> Potential:
        exponent = dual @ rows
        curvature = 2 * scale**2 * np.cosh(exponent)
        return curvature.sum(), 2 * scale**2 * np.sinh(exponent), np.diag(curvature)

    # From small scales Newton's method does not start well, so the scale comes down from one in steps of 100.
    dual, weights = np.zeros(len(targets)), np.zeros(x.shape[1])
    for power in range(max(0, int(-np.log10(alpha.max()) / 2)), -1, -1):
        scale = np.broadcast_to(alpha * 100.0**power, x.shape[1:])
        dual, weights = _interpolate(rows, targets, partial(potential, scale=scale), dual)
    return weights


def polar_diagonal_limit(x: ArrayLike, y: ArrayLike, start: ArrayLike, ratio: float) -> np.ndarray:
    r"""Zero-loss limit of the polar flow of a diagonal network of depth two with positive weights.

    .. math:: b = 2 \log u_0 + \eta r_0^2 + X^T \nu, \qquad w_\infty^2 = \frac{\mathrm{logsumexp}(b)}{\eta}
        \, \mathrm{softmax}(b), \qquad X w_\infty^2 = y

    The polar flow moves the norm r and the direction u of the weights w = r u (one sphere for the whole network) at
    the rates 1 and eta. The output is X w^2, entrywise square. The formula is the limit of a flow that reaches zero
    loss; a flow that starts with a loss below that of w = 0 is kept away from r = 0. For a signed network
    :math:`w_+^2 - w_-^2` give ``np.hstack([x, -x])`` and the stacked start.

    Parameters
    ----------
    x : array_like, shape (n, d)
        The inputs, one sample per row.
    y : array_like, shape (n,) or (n, 1)
        The targets; x p = y must have a positive solution p.
    start : array_like, shape (d,)
        The weights w at time 0, positive: r0 is their norm, u0 their direction.
    ratio : float
        The angular rate eta divided by the radial rate, positive.

    Returns
    -------
    np.ndarray, shape (d,)
        The limit of w^2.

    Raises
    ------
    ValueError
        If the shapes do not fit, a start or the ratio is not positive, or x p = y has no positive solution.

    References
    ----------
    Chou, Rauhut, Ward 2024, arXiv:2305.05448 (the flow).

    Examples
    --------
    >>> polar_diagonal_limit(x=[[1.0, 0.5, 0.2]], y=[1.0], start=[0.1, 0.1, 0.1], ratio=10.0).round(4)
    array([9.977e-01, 4.500e-03, 2.000e-04])
    """
    start = positive("start", start)
    eta = float(positive("ratio", ratio))
    x, y = samples(x, y)
    if start.shape != (x.shape[1],):
        raise ValueError(f"start has shape {start.shape} for x of shape {x.shape}: give shape ({x.shape[1]},)")
    rows, targets = _independent_rows(x, y)
    radius = np.linalg.norm(start)
    offset = 2 * np.log(start / radius) + eta * radius**2

    def potential(dual: np.ndarray) -> Potential:
        exponent = offset + dual @ rows
        largest = exponent.max()
        share = np.exp(exponent - largest)
        total = share.sum()
        share, size = share / total, max((largest + np.log(total)) / eta, 0.0)
        jacobian = size * np.diag(share) + (float(size > 0) / eta - size) * np.outer(share, share)
        return eta * size**2 / 2, size * share, jacobian

    return _interpolate(rows, targets, potential, np.zeros(len(targets)))[1]


def _require_scale(alpha: np.ndarray, dim: int) -> None:
    """Raise unless alpha is one number or one per weight."""
    if alpha.shape not in {(), (dim,)}:
        raise ValueError(f"alpha has shape {alpha.shape} for {dim} weights: give one number, or shape ({dim},)")


def _independent_rows(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal rows and targets of an equivalent system, after checking that it has a solution."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    kept = values > 1e-12 * values.max(initial=0.0)
    coordinates = left[:, kept].T @ y
    missed = np.linalg.norm(y - left[:, kept] @ coordinates)
    if missed > 1e-9 * np.linalg.norm(y):
        raise ValueError(
            f"x w = y has no solution: y is {missed:.3g} away from the range of x; give targets that some w attains"
        )
    return right[kept], coordinates / values[kept]


def _interpolate(
    rows: np.ndarray, targets: np.ndarray, potential: Callable[[np.ndarray], Potential], dual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dual vector and the weights with rows @ weights = targets, by damped Newton steps from a dual vector.

    The potential gives, at a dual vector nu, a convex function of rows^T nu with its gradient, the weights, and its
    Hessian; the dual problem minimises potential - nu . targets.
    """
    height, weights, hessian = potential(dual)
    residual = rows @ weights - targets
    scale = np.linalg.norm(targets)
    for _ in range(2000):
        error = np.linalg.norm(residual)
        if error <= 1e-15 * scale:
            break
        step = np.linalg.lstsq(rows @ hessian @ rows.T, -residual, rcond=1e-15)[0]
        # The exponentials leave float64 beyond 700.
        step *= min(1.0, 700 / max(np.abs(step @ rows).max(), 1e-300))
        for halvings in range(60):
            move = 0.5**halvings * step
            with np.errstate(over="ignore", invalid="ignore"):
                trial = potential(dual + move)
                trial_residual = rows @ trial[1] - targets
                descends = trial[0] - height - move @ targets <= 1e-4 * move @ residual
            closer = np.abs(trial_residual).max() < 0.9 * np.abs(residual).max()
            # Near the solution the height no longer resolves progress.
            if np.isfinite(trial[0]) and (closer or (descends and error > 1e-12 * scale)):
                break
        else:
            break
        dual, residual = dual + move, trial_residual
        height, weights, hessian = trial
    error = np.linalg.norm(residual)
    if not error <= 1e-10 * scale:
        raise ValueError(
            f"no weights of this network give y exactly: the residual stays at {error:.3g}; "
            "give targets that the network can attain"
        )
    return dual, weights
