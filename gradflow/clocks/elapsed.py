r"""Physical time along a run, in logs: quadrature of each accepted step, never a state of the solver.

From :math:`dt = e^{s + q}\,ds/L_0` with :math:`q = -\log` of the descent: the weight :math:`e^s` is exact and only the
slow q is interpolated. Where s stands still, on a plateau, :math:`\log(dt/d\tau)` is interpolated in the clock's
variable instead.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from gradflow.clocks.kinds import Normalised, log_difference

GAUSS_X, GAUSS_W = np.polynomial.legendre.leggauss(8)
FINE_X, FINE_W = np.polynomial.legendre.leggauss(16)
CHEBYSHEV = np.cos(np.pi * np.arange(7, -1, -1) / 7)
WEIGHTS = np.array([0.5, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -0.5])
LAST_COEFFICIENTS = np.linalg.inv(np.polynomial.chebyshev.chebvander(CHEBYSHEV, 7))[-2:]
MOST_HALVINGS = 6
MOST_SPLITS = 7
BENT = 8.0
"""Change of the slope of q over a step, over the root of the tolerance, from which the cubic is looked at closely."""

ROUNDED = 1e-11
"""Fall of log L over a step below which its digits are few: slopes in s are then noise, and T tells the time."""

REACH = 45.0


class Interval:
    """Time within one accepted step, as a function of the clock's variable tau."""

    def __init__(self, clock, base, left, right, dense, begin, tolerance):
        self.clock, self.base, self.left, self.right, self._dense, self._begin = clock, base, left, right, dense, begin
        self.tolerance = tolerance
        self._pieces: list = []
        if clock.exact_time:
            self.kind = "exact"
        elif clock.by_descent:
            self.kind = "descent"
            self._nodes = [left, *self._between(left, right, 0), right]
        else:
            self.kind = "rate"
            self._interpolate()

    def timed(self, moment):
        """A moment of the step with its times, and with s as the clock counts it."""
        increment = self.log_time(self.left, moment)
        if self.kind == "exact":
            log_elapsed = float(np.logaddexp(self._begin, self.clock.log_elapsed(moment.tau)))
        else:
            log_elapsed = float(np.logaddexp(self.left.log_elapsed, increment))
        return replace(
            moment,
            log_elapsed=log_elapsed,
            log_since=float(np.logaddexp(self.left.log_since, increment)),
            s_counted=self.left.s_counted + self._fall(moment),
        )

    def log_time(self, a, b) -> float:
        """Log of the time from one moment of the step to a later one."""
        if self.kind == "exact":
            return log_difference(self.clock.log_elapsed(b.tau), self.clock.log_elapsed(a.tau))
        if self.kind == "rate":
            return self._log_time_between(a.tau, b.tau)
        if isinstance(self.clock, Normalised) and abs(b.s - a.s) < ROUNDED:
            return float(np.log(b.tau - a.tau)) - 0.5 * (a.log_loss + b.log_loss) if b.tau > a.tau else -np.inf
        nodes = [a, *(node for node in self._nodes if a.s < node.s < b.s), b]
        pieces = [log_time_of_descent(one, next_one, self.base) for one, next_one in itertools.pairwise(nodes)]
        return float(np.logaddexp.reduce(pieces))

    def _fall(self, moment) -> float:
        """Fall of log L from the left end to a moment, as the clock counts it: by T = int ds/descent, or tau."""
        left = self.left
        if not isinstance(self.clock, Normalised) or not moment.s > left.s:
            return self.clock.fall(left, moment)
        if moment.s - left.s < ROUNDED:
            return 0.5 * (np.exp(left.log_descent) + np.exp(moment.log_descent)) * (moment.tau - left.tau)
        (x0, x1), _, _ = ends = _hermite_data(left, moment, self.base)
        x = 0.5 * (x0 + x1) + 0.5 * (x1 - x0) * GAUSS_X
        expected = 0.5 * (x1 - x0) * float(np.sum(GAUSS_W * np.exp(x + _hermite(ends, x))))
        return (moment.s - left.s) * (moment.tau - left.tau) / expected

    def tau_at_time(self, log_elapsed: float) -> float | None:
        """The clock's variable at a time; None where it takes the descent to tell."""
        if self.kind == "descent":
            return None
        from scipy.optimize import brentq

        def beyond(tau):
            if self.kind == "exact":
                here = np.logaddexp(self._begin, self.clock.log_elapsed(tau))
            else:
                here = np.logaddexp(self.left.log_elapsed, self._log_time_between(self.left.tau, tau))
            return max(here, -1e6) - log_elapsed

        a, b = self.left.tau, self.right.tau
        if self.left.log_elapsed == -np.inf:  # the first step, of which the time asked for may be a part in 1e300
            while a < (nearer := a + 1e-3 * (b - a)) and beyond(nearer) > 0.0:
                b = nearer
        return float(brentq(beyond, a, b, xtol=1e-300, rtol=1e-15))  # pyright: ignore[reportArgumentType]

    def s_at_time(self, log_elapsed: float) -> float:
        """s at a time, where s moves through the step."""
        from scipy.optimize import brentq

        left, right, base = self.left, self.right, self.base

        def beyond(s):
            nodes = [node for node in self._nodes if node.s < s] or [left]
            after = self._nodes[len(nodes)]
            pieces = [log_time_of_descent(a, b, base) for a, b in itertools.pairwise(nodes)]
            last = _log_integral(_hermite_data(nodes[-1], after, base), nodes[-1].s, s) - base.log_start
            return np.logaddexp.reduce([left.log_elapsed, *pieces, last]) - log_elapsed

        low = max(left.s, right.s - 1.0) if beyond(max(left.s, right.s - 1.0)) < 0.0 else left.s
        if beyond(low) > 0.0 or beyond(right.s) < 0.0:
            return right.s if beyond(right.s) < 0.0 else left.s
        return float(brentq(beyond, low, right.s, xtol=1e-14, rtol=1e-15))  # pyright: ignore[reportArgumentType]

    def _between(self, left, right, depth) -> list:
        """Moments within a step between which the cubic of q is good enough."""
        ends, bound = _hermite_data(left, right, self.base), 10.0 * self.tolerance
        (x0, x1), _, (d0, d1) = ends
        if depth == MOST_SPLITS or not right.s > left.s or not abs((x1 - x0) * (d1 - d0)) > BENT * bound**0.5:
            return []
        middle = 0.5 * (left.tau + right.tau)
        middle = self.base.look(middle, self._dense(middle))
        if not left.s < middle.s < right.s:
            return []
        if not abs(_hermite(ends, np.log1p(middle.s)) + middle.log_descent) > bound:
            return [middle]
        before, after = self._between(left, middle, depth + 1), self._between(middle, right, depth + 1)
        return [*before, middle, *after]

    def _interpolate(self):
        """Values of log(dt/dtau) at Chebyshev points of pieces, halved until the polynomials have converged."""
        left, right = self.left, self.right
        ends = [self.clock.log_rate(m.tau, m) for m in (left, right)]
        waiting = [(left.tau, right.tau, *ends, 0)]
        while waiting:
            a, b, first, last, depth = waiting.pop()
            inner = [self._rate(tau) for tau in (0.5 * (a + b) + 0.5 * (b - a) * CHEBYSHEV)[1:-1]]
            rates = np.array([first, *inner, last])
            middle = 0.5 * (a + b)
            between = self._rate(middle)
            if depth == MOST_HALVINGS or not _unsettled(rates, between) > self.tolerance:
                self._pieces.append((a, b, rates))
                continue
            waiting += [(middle, b, between, last, depth + 1), (a, middle, first, between, depth + 1)]

    def _rate(self, tau) -> float:
        return self.clock.log_rate(tau, self.base.look(tau, self._dense(tau)))

    def _log_time_between(self, start, stop) -> float:
        """Log of the time from one tau to a later one."""
        logs = []
        for a, b, rates in self._pieces:
            begin, end = max(a, start), min(b, stop)
            if end <= begin:
                continue
            count = int(np.ceil(min(np.ptp(rates), 1e4) / 3.0)) + 1
            edges = np.linspace(begin, end, count + 1)
            middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * (end - begin) / count
            x = (middle[:, None] + half * FINE_X).ravel()
            logs.append(_log_sum(_barycentric((2.0 * x - a - b) / (b - a), rates), np.tile(FINE_W * half, count)))
        return float(np.logaddexp.reduce(logs)) if logs else -np.inf


def _unsettled(rates, between) -> float:
    """Error of a polynomial in the middle, or the size of its last two Chebyshev coefficients."""
    return float(max(np.abs(LAST_COEFFICIENTS @ rates).max(), abs(_barycentric([0.0], rates)[0] - between)))


def log_time_of_descent(left, right, base) -> float:
    """Log of the time from one moment to a later one between which s grows."""
    if not right.s > left.s:
        return -np.inf
    return _log_integral(_hermite_data(left, right, base), left.s, right.s) - base.log_start


def _hermite_data(left, right, base):
    """Ends of q as a function of log(1 + s): places, values, slopes."""
    ends = [(np.log1p(m.s), -m.log_descent, (1.0 + m.s) * base.slope(m)) for m in (left, right)]
    return tuple(np.array(column) for column in zip(*ends, strict=True))


def _log_integral(ends, s0: float, s1: float) -> float:
    """log of the integral of exp(s + q(s)) from s0 to s1."""
    low = max(s0, s1 - REACH)
    if not s1 > low:
        return -np.inf
    edges = np.linspace(low, s1, int(np.ceil((s1 - low) / 2.0)) + 1)
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    s = (middle[:, None] + half[:, None] * GAUSS_X).ravel()
    return _log_sum(s + _hermite(ends, np.log1p(s)), (half[:, None] * GAUSS_W).ravel())


def _hermite(ends, x):
    """Cubic through values and slopes at both ends; the first value where rounding leaves no length between them."""
    (x0, x1), (q0, q1), (d0, d1) = ends
    h = x1 - x0
    if not h > 0.0:
        return np.full_like(x, q0)
    if h < ROUNDED:
        d0 = d1 = (q1 - q0) / h
    z = (x - x0) / h
    return q0 + z * (h * d0 + z * (3.0 * (q1 - q0) - h * (2.0 * d0 + d1) + z * (h * (d0 + d1) - 2.0 * (q1 - q0))))


def _log_sum(exponents, weights) -> float:
    """log of the sum of weights times exponentials."""
    top = exponents.max()
    if not np.isfinite(top):
        return float(top)
    return float(top + np.log(np.sum(weights * np.exp(exponents - top))))


def _barycentric(x, values):
    """Polynomial through values at the Chebyshev points, at places in [-1, 1]."""
    gaps = np.asarray(x)[:, None] - CHEBYSHEV
    exact = gaps == 0.0
    gaps[exact] = 1.0
    shares = WEIGHTS / gaps
    result = shares @ values / shares.sum(1)
    rows, columns = np.nonzero(exact)
    result[rows] = values[columns]
    return result
