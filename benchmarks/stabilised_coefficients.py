"""Recompute the coefficients of the stabilised method of order 4 and write them to the package.

    python benchmarks/stabilised_coefficients.py

Construction (Abdulle, SIAM J. Sci. Comput. 23 (2002) 2041, https://doi.org/10.1137/S1064827500379549). For s stages the
stability polynomial is R(z) = w(z) P(z), w a quartic with two pairs of complex zeros, P of degree s - 4 from the
polynomials orthogonal on [-1, 1] with respect to w^2 / sqrt(1 - x^2), x = 1 + 2 z / l. The zeros of w make R agree with
exp(z) to order 4; l is the longest interval [-l, 0] on which |R| <= DAMPING beyond z = -1. The recurrence of the
orthogonal polynomials makes the first s - 4 stages; four more, with w as their stability polynomial, make all eight
order conditions hold for the composition.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq, root

STAGES = (*range(5, 31), 33, 36, 39, 42, 46, 50, 55, 60, 66, 72, 79, 86, 94, 103)
DAMPING = 0.9
NODES = (0.2, 0.6)
"""Second and third node of the last four stages, in units of their span: near the least error of order 5."""
ESTIMATE = 0.5
"""Norm of the estimate on the trees of order 4, relative to that of the error on those of order 5."""

DENSITY = np.array([1, 2, 3, 6, 4, 8, 12, 24, 5, 10, 15, 30, 20, 20, 40, 60, 120.0])
SYMMETRY = np.array([1, 1, 2, 1, 6, 1, 2, 1, 24, 2, 2, 1, 2, 6, 1, 2, 1.0])
"""Of the rooted trees up to order 5: t, [t], [tt], [[t]], [ttt], [t[t]], [[tt]], [[[t]]], then the nine of order 5."""

_FIRST_ZEROS = np.array([-0.3, 3.0, -2.1, 1.4])
_TAYLOR = np.array([1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120])


class Recurrence(NamedTuple):
    """First s - 4 stages: g_j = kappa_j g_(j-1) + (1 - kappa_j) g_(j-2) + mu_j h f(g_(j-1)), for order and interval."""

    zeros: np.ndarray
    extent: float
    mu: np.ndarray
    kappa: np.ndarray


class Finish(NamedTuple):
    """Last four stages from g_(s-4): weights, matrix, and estimate e[0] (g_(s-4) - y) + h sum of e[1:] k."""

    weights: np.ndarray
    matrix: np.ndarray
    estimate: np.ndarray


def quartic(zeros):
    """Coefficients of w, lowest first, from (Re, Im) of a zero of either pair; w(0) = 1."""
    a, b, c, d = zeros
    w = np.convolve([a * a + b * b, -2 * a, 1], [c * c + d * d, -2 * c, 1])
    return w / w[0]


def recurrence(zeros, extent, degree):
    """Normalised three-term recurrence (mu, kappa), by Stieltjes's procedure on Chebyshev nodes (exact here)."""
    count = degree + 6
    x = np.cos((np.arange(count) + 0.5) * np.pi / count)
    w = np.polynomial.polynomial.polyval((x - 1.0) * extent / 2.0, quartic(zeros))
    weight = (w / np.abs(w).max()) ** 2
    before, now = np.zeros(count), np.full(count, 1.0 / np.sqrt(weight.sum()))
    mu, kappa = np.empty(degree), np.ones(degree)
    norm, ratio = 0.0, np.inf
    for j in range(degree):
        centre = np.sum(weight * x * now * now)
        ratio = 1.0 - centre - norm**2 / ratio
        mu[j] = 2.0 / (extent * ratio)
        kappa[j] = (1.0 - centre) / ratio
        following = (x - centre) * now - norm * before
        norm = np.sqrt(np.sum(weight * following**2))
        before, now = now, following / norm
    kappa[0] = 1.0
    return mu, kappa


def taylor(zeros, mu, kappa):
    """Coefficients of R up to z^5."""
    before, now = np.zeros(6), np.zeros(6)
    before[0] = now[0] = 1.0
    for j in range(mu.size):
        following = kappa[j] * now + (1.0 - kappa[j]) * before
        following[1:] += mu[j] * now[:-1]
        before, now = now, following
    return np.convolve(now, quartic(zeros))[:6]


def stability(z, zeros, mu, kappa):
    """R(z)."""
    before = now = np.ones_like(z)
    for j in range(mu.size):
        before, now = now, (kappa[j] + mu[j] * z) * now + (1.0 - kappa[j]) * before
    return now * np.polynomial.polynomial.polyval(z, quartic(zeros))


def fit(extent, degree, guess):
    """Zeros of w for order 4 on an interval, and the largest |R| on it beyond z = -1; infinite where there are none."""

    def defect(zeros):
        return (taylor(zeros, *recurrence(zeros, extent, degree)) / _TAYLOR - 1.0)[1:5]

    zeros = root(defect, guess, tol=1e-14).x
    if not np.abs(defect(zeros)).max() < 1e-10:
        return zeros, np.inf
    z = (np.cos(np.linspace(0.0, np.pi, 40 * degree + 400)) - 1.0) * extent / 2.0
    return zeros, np.abs(stability(z[z < -1.0], zeros, *recurrence(zeros, extent, degree))).max()


def longest(stages, guess=_FIRST_ZEROS, damping=DAMPING):
    """Recurrence of the longest interval."""
    degree = stages - 4
    fraction, step, zeros = 0.0, 0.16, np.asarray(guess)
    while step > 1e-9:
        trial, ripple = fit((fraction + step) * stages**2, degree, zeros)
        if ripple <= damping:
            fraction, zeros = fraction + step, trial
        else:
            step *= 0.5
    extent = fraction * stages**2
    return Recurrence(zeros, extent, *recurrence(zeros, extent, degree))


def slope(stage):
    """B-series of h f(stage) up to order 5, from that of the stage up to order 4; as coefficients on the trees."""
    t, tt, bush2, tall3, bush3, mixed, forked, tall4 = stage[:8]
    third = [t * t, tt, t**3, t * tt, bush2, tall3]
    return np.array([1.0, t, *third, t**4, t * t * tt, t * bush2, t * tall3, tt * tt, bush3, mixed, forked, tall4])


def chebyshev_stages(mu, kappa):
    """B-series of g_0, ..., g_(s-4)."""
    series = [np.zeros(17)]
    for j in range(mu.size):
        before = series[-2] if j else series[-1]
        series.append(kappa[j] * series[-1] + (1.0 - kappa[j]) * before + mu[j] * slope(series[-1]))
    return np.array(series)


def remaining(start):
    """Elementary weights, on the trees up to order 4, of a method that goes on from ``start`` to order 4."""
    a1, a2, a3, a4, a5, a6, a7, a8 = start[:8]
    b1 = 1 - a1
    b2 = 1 / 2 - a2 - a1 * b1
    b3 = 1 / 3 - a3 - 2 * a1 * b2 - a1**2 * b1
    b4 = 1 / 6 - a4 - a2 * b1 - a1 * b2
    b5 = 1 / 4 - a5 - 3 * a1 * b3 - 3 * a1**2 * b2 - a1**3 * b1
    b6 = 1 / 8 - a6 - a1 * a2 * b1 - a1**2 * b2 - a1 * b4 - a2 * b2 - a1 * b3
    b7 = 1 / 12 - a7 - a3 * b1 - a1**2 * b2 - 2 * a1 * b4
    b8 = 1 / 24 - a8 - a4 * b1 - a2 * b2 - a1 * b4
    return np.array([b1, b2, b3, b4, b5, b6, b7, b8])


def four_stages(c2, c3, c4, wanted):
    """Weights and matrix of four stages with the elementary weights wanted but the last; and the defect of that one."""
    b1, b2, b3, b4, b5, b6, b7, b8 = wanted
    w2 = (b5 - (c3 + c4) * b3 + c3 * c4 * b2) / (c2 * (c2 - c3) * (c2 - c4))
    w3 = (b5 - (c2 + c4) * b3 + c2 * c4 * b2) / (c3 * (c3 - c2) * (c3 - c4))
    w4 = (b5 - (c2 + c3) * b3 + c2 * c3 * b2) / (c4 * (c4 - c2) * (c4 - c3))
    bend3 = (b4 * c4 - b6) / (w3 * (c4 - c3))
    bend4 = (b6 - b4 * c3) / (w4 * (c4 - c3))
    a43 = (b7 - c2 * b4) / (w4 * c3 * (c3 - c2))
    a32, a42 = bend3 / c2, (bend4 - a43 * c3) / c2
    matrix = np.zeros((4, 4))
    matrix[1, 0] = c2
    matrix[2, :2] = c3 - a32, a32
    matrix[3, :3] = c4 - a42 - a43, a42, a43
    return np.array([b1 - w2 - w3 - w4, w2, w3, w4]), matrix, w4 * a43 * bend3 - b8


def last_stages(start, weights, matrix):
    """B-series of h f at the last four stages, and of the new state."""
    slopes = np.zeros((4, 17))
    for i in range(4):
        slopes[i] = slope(start + matrix[i] @ slopes)
    return slopes, start + weights @ slopes


def finish(start):
    """Last four stages: all conditions of order 4, and the one estimate that vanishes to order 3."""
    wanted = remaining(start)
    c2, c3 = NODES[0] * wanted[0], NODES[1] * wanted[0]
    c4 = brentq(lambda c: four_stages(c2, c3, c, wanted)[2], 0.95 * wanted[0], 1.15 * wanted[0], xtol=1e-16)
    weights, matrix, _ = four_stages(c2, c3, c4, wanted)
    slopes, end = last_stages(start, weights, matrix)
    basis = np.vstack([start, slopes])
    estimate = np.linalg.svd(basis[:, :4].T)[2][-1]
    leading = estimate @ basis[:, 4:8] / SYMMETRY[4:8]
    error = (end[8:] - 1.0 / DENSITY[8:]) / SYMMETRY[8:]
    size = ESTIMATE * np.linalg.norm(error) / np.linalg.norm(leading)
    return Finish(weights, matrix, np.copysign(size, leading[-1]) * estimate)


def table(stages=STAGES):
    """Arrays of the data file, one row per number of stages; those of the recurrences one after the other."""
    zeros, rows = _FIRST_ZEROS, []
    for s in stages:
        chain = longest(s, zeros)
        zeros = chain.zeros
        series = chebyshev_stages(chain.mu, chain.kappa)
        end = finish(series[-1])
        nodes = series[-1][0] + end.matrix.sum(axis=1)
        rows.append((s, chain.extent, chain.mu, chain.kappa, series[:-1, 0], end, nodes))
    return {
        "stages": np.array([row[0] for row in rows]),
        "extent": np.array([row[1] for row in rows]),
        "mu": np.concatenate([row[2] for row in rows]),
        "kappa": np.concatenate([row[3] for row in rows]),
        "times": np.concatenate([row[4] for row in rows]),
        "weights": np.array([row[5].weights for row in rows]),
        "matrix": np.array([row[5].matrix for row in rows]),
        "nodes": np.array([row[6] for row in rows]),
        "estimate": np.array([row[5].estimate for row in rows]),
    }


if __name__ == "__main__":
    from gradflow.steppers.stabilised_coefficients import FILE

    arrays = table()
    Path(FILE).parent.mkdir(exist_ok=True)
    np.savez(FILE, **arrays)
    for s, extent in zip(arrays["stages"], arrays["extent"], strict=True):
        print(f"{s:4d} stages: stable on [-{extent:.6g}, 0] = {extent / s**2:.4f} s^2")
