"""Weights of the Adams formulas on uneven points: integrals and divided differences of interpolating polynomials.

All are products of gaps between points. Integrals are sums over Gauss points, exact up to degree 11.
"""

import numpy as np

_LEGENDRE = np.polynomial.legendre.leggauss(6)
GAUSS_POINTS, GAUSS_SHARES = 0.5 + 0.5 * _LEGENDRE[0], 0.5 * _LEGENDRE[1]


def inverse_gaps(points, count, out):
    r"""Write :math:`1/\prod_{m \ne l}(x_l - x_m)`, l < count, to out: the weights of the values in their difference."""
    for l in range(count):
        product = 1.0
        for m in range(count):
            product *= points[l] - points[m] if m != l else 1.0
        out[l] = 1.0 / product


def gauss_products(points, count, end, out):
    r"""Write share times :math:`\prod_{l < count}(x - x_l)` at the Gauss points x from 0 to end to out."""
    for q in range(GAUSS_POINTS.size):
        product = end * GAUSS_SHARES[q]
        for l in range(count):
            product *= end * GAUSS_POINTS[q] - points[l]
        out[q] = product


def integral_weights(points, count, end, inverses, products, out):
    """Write the weights of the values at points in the integral from 0 to end of their polynomial to out.

    `inverses` and `products` are those of the two functions above.
    """
    for l in range(count):
        total = 0.0
        for q in range(GAUSS_POINTS.size):
            total += products[q] / (end * GAUSS_POINTS[q] - points[l])
        out[l] = inverses[l] * total


def correction_integrals(points, k, products):
    r"""Integrals from 0 to 1 of :math:`\prod_{l<k}(x - x_l)` and of :math:`(x - 1)\prod_{l<k-1}(x - x_l)`."""
    first = second = 0.0
    for q in range(GAUSS_POINTS.size):
        x = GAUSS_POINTS[q]
        first += products[q]
        second += products[q] * (x - 1.0) / (x - points[k - 1])
    return first, second


def difference_weights(points, k, known, inverses, out):
    """Write the weights in the divided differences of k - 1, k and k + 1 points together with x = 1 to the rows of out.

    The value at 1 has the first column. `inverses` are those of the first k points; a difference of no points, or of
    more than are known, gets zeros.
    """
    end = 1.0
    for l in range(k):
        end *= 1.0 - points[l]
    out[0, 0], out[1, 0], out[2, 0] = (1.0 - points[k - 1]) / end if k > 1 else 0.0, 1.0 / end, 0.0
    for l in range(k):
        weight = inverses[l] / (points[l] - 1.0)
        out[0, l + 1], out[1, l + 1] = weight * (points[l] - points[k - 1]) if k > 1 else 0.0, weight
        out[2, l + 1] = weight / (points[l] - points[k]) if known > k else 0.0
    out[0, k + 1] = out[1, k + 1] = out[2, k + 1] = 0.0
    if known > k:
        product = points[k] - 1.0
        for l in range(k):
            product *= points[k] - points[l]
        out[2, 0], out[2, k + 1] = 1.0 / (end * (1.0 - points[k])), 1.0 / product


HELPERS = (inverse_gaps, gauss_products, integral_weights, correction_integrals, difference_weights)
