"""Matrices as unevaluated sums of two doubles, about 31 digits: exact sums, and products by exact slices."""

from __future__ import annotations

import numpy as np

BITS = 105
"""Bits of a matrix that a product takes in."""

Pair = tuple[np.ndarray, np.ndarray]


def paired(a: np.ndarray) -> Pair:
    """A matrix of doubles as a pair."""
    return a, np.zeros_like(a)


def two_sum(a, b) -> Pair:
    """Rounded sum of doubles, and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add(a: Pair, b: Pair) -> Pair:
    """Sum of two pairs."""
    high, error = two_sum(a[0], b[0])
    return two_sum(high, error + (a[1] + b[1]))


def product(a: Pair, b: Pair) -> Pair:
    """Matrix product of pairs: slices of so few bits that the products of slices are exact in floating point.

    The error is about 2^-100 times the largest entries of the row and the column, times the inner dimension.

    References
    ----------
    K. Ozaki, T. Ogita, S. Oishi, S. Rump, Error-free transformations of matrix multiplication by using fast routines
    of matrix multiplication and its applications, Numerical Algorithms 59 (2012).
    """
    bits = int((51 - np.ceil(np.log2(a[0].shape[1]))) // 2)
    left, right = _slices(a, 1, bits), _slices(b, 0, bits)
    high, low = paired(np.zeros((a[0].shape[0], b[0].shape[1])))
    for order in range(len(left)):
        for first in range(order + 1):
            high, error = two_sum(high, left[first] @ right[order - first])
            low += error
    return two_sum(high, low)


def _slices(a: Pair, axis: int, bits: int) -> list[np.ndarray]:
    """Matrices of few bits that add up to a pair, scaled to the largest entries along an axis."""
    rest, slices = a[0], []
    for number in range(-(-BITS // bits)):
        if number == 3:
            rest = rest + a[1]
        top = np.abs(rest).max(axis, keepdims=True)
        unit = np.ldexp(1.0, np.frexp(top)[1] + 53 - bits)
        part = (rest + unit) - unit
        slices.append(part)
        rest = rest - part
    return slices
