"""Where a function changes sign in a bracket, point after point (Chandrupatla's method): the caller evaluates it."""

import math

from numba import types

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import address_of, numbers_at, procedure

INT, FLOAT = types.int64, types.float64
A, FA, B, FB, C, FC, OUTSIDE, NEAREST, TURNS, SEARCH = range(10)
"""Places in the record of a search, and its size. NEAREST is in the end the root: on b's side, or of small value."""

MOST_TURNS = 60


@procedure(FLOAT(INT, FLOAT, FLOAT, FLOAT, FLOAT))
def first_point(search, a, fa, b, fb):
    """First point at which to evaluate, given values of different signs at a and b; NaN if there is none between."""
    search = numbers_at(search)
    search[A], search[FA], search[B], search[FB], search[C], search[FC] = a, fa, b, fb, a, fa
    search[OUTSIDE], search[NEAREST], search[TURNS] = fb, b, 0.0
    x = a + 0.5 * (b - a)
    return math.nan if x == a or x == b else x


@procedure(FLOAT(INT, FLOAT, FLOAT, FLOAT))
def next_point(search, x, fx, small):
    """Next point after the value fx at x; NaN at the end, which a value of size <= small is."""
    search = numbers_at(search)
    a, fa, b, fb, c, fc = search[A], search[FA], search[B], search[FB], search[C], search[FC]
    if abs(fx) <= small or fx * search[OUTSIDE] > 0.0:
        search[NEAREST] = x
    search[TURNS] += 1.0
    if abs(fx) <= small or search[TURNS] >= MOST_TURNS:
        return math.nan
    if (fx > 0.0) == (fa > 0.0):
        c, fc = a, fa
    else:
        c, fc, b, fb = b, fb, a, fa
    a, fa = x, fx
    search[A], search[FA], search[B], search[FB], search[C], search[FC] = a, fa, b, fb, c, fc
    tolerance = 4e-16 / abs(b - a)
    if tolerance > 0.5:
        return math.nan
    fraction = 0.5
    if c != b and fc != fb:
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        if phi * phi < xi and (1.0 - phi) * (1.0 - phi) < 1.0 - xi:
            fraction = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    x = a + min(max(fraction, tolerance), 1.0 - tolerance) * (b - a)
    return math.nan if x == a or x == b else x


@entry("f8(f8[::1], f8, f8, f8, f8)")
def begin(search, a, fa, b, fb):
    """The first point, for a record given as an array."""
    return first_point(address_of(search), a, fa, b, fb)


@entry("f8(f8[::1], f8, f8, f8)")
def go_on(search, x, fx, small):
    """The next point, for a record given as an array."""
    return next_point(address_of(search), x, fx, small)
