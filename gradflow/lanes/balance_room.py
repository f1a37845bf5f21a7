"""What puts eight states of a small linear network back on their balance: where its numbers stand."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit

from gradflow.kernels.balance import FULL, GROUP, INNER, OFFSET, OUTER, OUTER_STEP, UNIT_STEP, UNITS
from gradflow.kernels.kernel import aligned
from gradflow.kernels.procedures import EXACT, address_of, view
from gradflow.lanes.vectors import BYTES, LANES

LARGEST = 256
"""Most constraints: the factor costs the third power of their number."""
STRIPE = 10
"""Unknowns of the triangular systems that are solved together."""
NO_FACTOR = 2**62


class Lanes(NamedTuple):
    """Vectors of eight states side by side, the factor, and what is common to all.

    `age` counts the steps with the factor beyond one for each eight states: what a new one would have saved. `way` is
    the square of the longest move so far along the normals, `gain` the length of the last step by own matrices over
    what was missing.
    """

    theta: np.ndarray
    change: np.ndarray
    scratch: np.ndarray
    target: np.ndarray
    missing: np.ndarray
    sizes: np.ndarray
    multiplier: np.ndarray
    packed: np.ndarray
    solved: np.ndarray
    solved_before: np.ndarray
    step: np.ndarray
    total: np.ndarray
    sums: np.ndarray
    way: np.ndarray
    gain: np.ndarray
    factor: np.ndarray
    pivots: np.ndarray
    inverses: np.ndarray
    age: np.ndarray
    diagonals: np.ndarray
    own: np.ndarray


def suits(program) -> bool:
    """Whether the states of a program are put back here: full groups, plain matrices, few constraints."""
    terms = program.terms
    plain = (terms[:, OUTER_STEP] == 0) | (terms[:, INNER] == 1)
    return bool(program.groups[:, FULL].all() and plain.all() and constraints(program) <= LARGEST)


def constraints(program) -> int:
    """Entries in the upper triangles of all groups."""
    units = program.groups[:, UNITS]
    return int((units * (units + 1) // 2).sum())


def own_matrices(program) -> np.ndarray:
    """For each group a term whose matrix no other shares, with at least as many columns; empty if a group has none."""
    terms, found = program.terms, []
    for g, units in enumerate(program.groups[:, UNITS]):
        enough = terms[:, OUTER] * terms[:, INNER] >= units
        alone = np.array([(terms[:, OFFSET] == term[OFFSET]).sum() == 1 for term in terms])
        found.append(np.flatnonzero(enough & alone & (terms[:, GROUP] == g))[:1])
    return np.concatenate(found) if all(len(each) for each in found) else np.zeros(0, dtype=np.int64)


def room_for(program, size, diagonals) -> Lanes:
    """Vectors for states of `size` numbers; `diagonals`: where one is added, as for a matrix beside a skip."""
    m, units = constraints(program), program.groups[:, UNITS]
    values, widest = int((units**2).sum()), max(int(units.max()) ** 2, size)
    counts = [size, max(size, int(units.max())), widest, values, values, len(units), values, *[m] * 5, STRIPE + 4, 1]
    ends = LANES * np.cumsum([0, *counts])
    vectors = aligned(int(ends[-1]))
    arrays = [vectors[start:end] for start, end in pairwise(ends.tolist())]
    arrays += [np.zeros(1), np.zeros((m, m)), np.zeros(m), np.zeros((m, STRIPE)), np.full(1, NO_FACTOR)]
    return Lanes._make([*arrays, diagonals, own_matrices(program)])


@njit(**EXACT)
def shape(program, t):
    """Units of a term, the rest, the step from unit to unit, and the step along the rest."""
    term = program.terms[t]
    units, rest = program.groups[term[GROUP], UNITS], term[OUTER] * term[INNER]
    return units, rest, term[UNIT_STEP], (1 if term[OUTER] == 1 else term[OUTER_STEP])


@njit(**EXACT)
def entries(array, first, count):
    """`count` entries of eight lanes."""
    return view(address_of(array) + BYTES * first, LANES * count)


@njit(**EXACT)
def copy(target, source):
    """Target = source."""
    for i in range(target.size):
        target[i] = source[i]


@njit(**EXACT)
def add(target, factor, source):
    """Add factor * source to the target."""
    for i in range(target.size):
        target[i] += factor * source[i]
