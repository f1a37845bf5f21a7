"""Compiled dense output of a step: theta at fractions x of its length, a polynomial in x."""

from numba import types

from gradflow.kernels.entries import entry
from gradflow.kernels.procedures import address_of, numbers_at, procedure
from gradflow.kernels.sums import add_rows, sum_rows

INT, FLOAT = types.int64, types.float64


@procedure(INT(INT, INT, INT, INT, INT, INT, INT, FLOAT, INT))
def step_coefficients(size, rows, degree, powers, places, stages, bend, length, out):
    """Rows of `out`: coefficients of x, x^2, ...; `bend` (none if 0) is what the return to a wall has moved the end."""
    for p in range(degree):
        sum_rows(size, rows, powers + 8 * p * rows, places, stages, size, 0, out + 8 * p * size, length)
    if bend:
        bend, first, second = numbers_at(bend), numbers_at(out), numbers_at(out + 8 * size)
        for p in range(size):
            first[p] += 3.0 * bend[p]
            second[p] -= 2.0 * bend[p]
    return 0


@procedure(INT(INT, INT, INT, INT, INT, INT, FLOAT, INT))
def state_at(size, degree, coefficients, places, weights, theta, x, out):
    """Theta at the fraction x; `weights` is room for the powers of x."""
    powers, total = numbers_at(weights), 1.0
    for p in range(degree):
        total *= x
        powers[p] = total
    add_rows(size, degree, weights, places, coefficients, size, theta, out, 1.0)
    return 0


@entry("void(f8[:, ::1], f8[:, ::1], f8[::1], i8[::1], f8, f8[:, ::1])")
def fill_coefficients(powers, stages, bend, places, length, out):
    """The same for arrays; an empty `bend` is none."""
    (degree, size), rows = out.shape, len(stages)
    bent = address_of(bend) if bend.size else 0
    step_coefficients(
        size, rows, degree, address_of(powers), address_of(places), address_of(stages), bent, length, address_of(out)
    )


@entry("void(f8[:, ::1], i8[::1], f8[::1], f8[::1], f8, f8[::1])")
def fill_state(coefficients, places, weights, theta, x, out):
    """The same for arrays."""
    degree, size = coefficients.shape
    state_at(
        size, degree, address_of(coefficients), address_of(places), address_of(weights), address_of(theta), x,
        address_of(out),
    )  # fmt: skip
