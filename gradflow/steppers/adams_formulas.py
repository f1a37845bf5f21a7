"""Weights of the Adams formulas on uneven points: integrals and divided differences of interpolating polynomials.

All are products of gaps between points. Integrals are sums over Gauss points, exact up to degree 11. They are compiled
apart from the loop, whose code would not fit into the processor's cache of instructions with them.
"""

import numpy as np
from numba import njit, types

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import EXACT, address_of, matrix, procedure, view

_LEGENDRE = np.polynomial.legendre.leggauss(6)
GAUSS_POINTS, GAUSS_SHARES = 0.5 + 0.5 * _LEGENDRE[0], 0.5 * _LEGENDRE[1]
MOST_POINTS = 13
"""Points that a formula can use."""
ROWS = 6
"""Rows of a table of weights."""


@njit(**EXACT)
def inverse_gaps(points, count, out):
    r"""Write :math:`1/\prod_{m \ne l}(x_l - x_m)`, l < count, to out: the weights of the values in their difference."""
    for l in range(count):
        product = 1.0
        for m in range(count):
            product *= points[l] - points[m] if m != l else 1.0
        out[l] = 1.0 / product


@njit(**EXACT)
def gauss_products(points, count, end, out):
    r"""Write share times :math:`\prod_{l < count}(x - x_l)` at the Gauss points x from 0 to end to out."""
    for q in range(GAUSS_POINTS.size):
        product = end * GAUSS_SHARES[q]
        for l in range(count):
            product *= end * GAUSS_POINTS[q] - points[l]
        out[q] = product


@njit(**EXACT)
def integral_weights(points, count, end, inverses, products, out):
    """Write the weights of the values at points in the integral from 0 to end of their polynomial to out.

    `inverses` and `products` are those of the two functions above.
    """
    for l in range(count):
        total = 0.0
        for q in range(GAUSS_POINTS.size):
            total += products[q] / (end * GAUSS_POINTS[q] - points[l])
        out[l] = inverses[l] * total


@njit(**EXACT)
def correction_integrals(points, k, products):
    r"""Integrals from 0 to 1 of :math:`\prod_{l<k}(x - x_l)` and of :math:`(x - 1)\prod_{l<k-1}(x - x_l)`."""
    first = second = 0.0
    for q in range(GAUSS_POINTS.size):
        x = GAUSS_POINTS[q]
        first += products[q]
        second += products[q] * (x - 1.0) / (x - points[k - 1])
    return first, second


@njit(**EXACT)
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


_INT, _FLOAT = types.int64, types.float64


@procedure(types.void(_INT, _INT, _FLOAT, _INT, _INT, _INT), exact=True)
def _step_weights(k, known, h, points, spare, weights):
    """Write the weights of the prediction to row 3 of weights, those of the differences to rows 0 to 2.

    The prediction integrates the polynomial through the first k points over a step of length h, from 0 to 1 on the
    scale of the points. Rows 4 and 5, first column: the two integrals of the correction, times h.
    """
    points, weights = view(points, MOST_POINTS), matrix(weights, ROWS, MOST_POINTS)
    inverses, products = view(spare, MOST_POINTS), view(spare + 8 * MOST_POINTS, GAUSS_POINTS.size)
    inverse_gaps(points, k, inverses)
    gauss_products(points, k, 1.0, products)
    integral_weights(points, k, 1.0, inverses, products, weights[3])
    for l in range(k):
        weights[3, l] *= h
    first, second = correction_integrals(points, k, products)
    weights[4, 0], weights[5, 0] = h * first, h * second
    difference_weights(points, k, known, inverses, weights)


@procedure(types.void(_INT, _FLOAT, _FLOAT, _FLOAT, _INT, _INT, _INT), exact=True)
def _inside_weights(count, x, h, bend, points, spare, weights):
    """Write the weights of a state inside a step to row 3 of weights.

    They are those of the integral from 0 to x, less `bend` times those of the integral from 0 to 1, times h.
    """
    points, weights = view(points, MOST_POINTS), matrix(weights, ROWS, MOST_POINTS)
    inverses, products = view(spare, MOST_POINTS), view(spare + 8 * MOST_POINTS, GAUSS_POINTS.size)
    inverse_gaps(points, count, inverses)
    gauss_products(points, count, 1.0, products)
    integral_weights(points, count, 1.0, inverses, products, weights[3])
    gauss_products(points, count, x, products)
    integral_weights(points, count, x, inverses, products, weights[4])
    for l in range(count):
        weights[3, l] = h * (weights[4, l] - bend * weights[3, l])


@entry("void(i8, i8, f8, f8[::1], f8[::1], f8[:, ::1])")
def step_weights(k, known, h, points, spare, weights):
    """Write the weights of a step of length h from k of the known points."""
    _step_weights(k, known, h, address_of(points), address_of(spare), address_of(weights))


@entry("void(i8, f8, f8, f8, f8[::1], f8[::1], f8[:, ::1])")
def inside_weights(count, x, h, bend, points, spare, weights):
    """Write the weights of the state at a part x of a step of length h."""
    _inside_weights(count, x, h, bend, address_of(points), address_of(spare), address_of(weights))
