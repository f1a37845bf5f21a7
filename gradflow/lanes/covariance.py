"""Gradient of products of trained matrices for eight runs at a time, on the numbers of the single kernel."""

from numba import njit

from gradflow.kernels import covariance as single
from gradflow.kernels.calls import GRADIENT
from gradflow.kernels.covariance import (
    ABOVE,
    BELOW,
    CONSTANT,
    DECAY,
    DEPTH,
    FACTOR,
    HEAD,
    INPUTS,
    LOSS,
    OUTPUTS,
    SAMPLES,
    SIZE,
    SPARE,
    STAGE,
    TARGETS,
    WEIGHT,
    D,
    F,
    X,
    Y,
)
from gradflow.kernels.entries import entry
from gradflow.kernels.kernel import Kernel
from gradflow.kernels.procedures import EXACT, address_of, integer_view
from gradflow.lanes.objective import SERVED, add_penalty, differentiate_outputs, widened
from gradflow.lanes.vectors import BYTES, multiply, multiply_shared


@njit(**EXACT)
def _row(layout, stage):
    """Entries of the layout that belong to a stage."""
    return integer_view(layout + 8 * (HEAD + STAGE * stage), STAGE)


@njit(**EXACT)
def _above(depth, stage, layout, theta, work):
    """Address of the product of this and all later layers, outputs by inputs of this layer."""
    row = _row(layout, stage)
    return theta + BYTES * row[WEIGHT] if stage == depth - 1 else work + BYTES * row[ABOVE]


@njit(**EXACT)
def _multiply_up(depth, k, layout, theta, work):
    """Products of the last layers; the address of the end-to-end matrix."""
    above = _above(depth, depth - 1, layout, theta, work)
    for stage in range(depth - 2, -1, -1):
        row = _row(layout, stage)
        weight, target = theta + BYTES * row[WEIGHT], work + BYTES * row[ABOVE]
        inner, cols = row[OUTPUTS], row[INPUTS]
        multiply(k, cols, inner, above, inner, 1, weight, cols, 1, target)
        above = target
    return above


@njit(**EXACT)
def _gradients(depth, k, layout, theta, out, work, below):
    """All layers' gradients from that of the end-to-end matrix at the address `below`."""
    for stage in range(depth - 1):
        row, later = _row(layout, stage), _row(layout, stage + 1)
        rows, cols, weight = row[OUTPUTS], row[INPUTS], theta + BYTES * row[WEIGHT]
        above = _above(depth, stage + 1, layout, theta, work)
        multiply(rows, cols, k, above, 1, rows, below, cols, 1, out + BYTES * row[WEIGHT])
        target = out + BYTES * later[WEIGHT] if stage == depth - 2 else work + BYTES * later[BELOW]
        multiply(k, rows, cols, below, cols, 1, weight, 1, cols, target)
        below = target


@entry(GRADIENT, exact=True)
def gradient(theta, out, numbers, layout, work):
    """Gradients; the values come first in work."""
    parameters, result, data = address_of(theta), address_of(out), address_of(numbers)
    places, values = address_of(layout), address_of(work)
    place = values + BYTES
    depth, n, size = layout[DEPTH], layout[SAMPLES], layout[SIZE]
    first, last = _row(places, 0), _row(places, depth - 1)
    d, k = first[INPUTS], last[OUTPUTS]
    x, y, spare = data + 8 * layout[X], data + 8 * layout[layout.size - 1], place + BYTES * layout[SPARE]
    f, df = place + BYTES * layout[F], place + BYTES * layout[D]
    matrix = _multiply_up(depth, k, places, parameters, place)
    multiply_shared(k, n, d, matrix, d, 1, x, n, 1, f)
    differentiate_outputs(layout[LOSS], numbers[FACTOR], numbers[CONSTANT], k, n, f, y, df, spare, values)
    below = result if depth == 1 else place + BYTES * first[BELOW]
    multiply_shared(k, d, n, df, n, 1, x, 1, n, below)
    _gradients(depth, k, places, parameters, result, place, below)
    add_penalty(size, numbers[DECAY], parameters, result, values, spare)
    return 0.0


def widen(kernel: Kernel) -> Kernel | None:
    """Kernel of lanes beside a single one; None where it does not serve."""
    layout = kernel.layout
    rows = layout[HEAD:].reshape(-1, STAGE)
    if layout[LOSS] not in SERVED or (rows[:, single.RESIDUAL] > 0).any() or (rows[:, single.FIXED] >= 0).any():
        return None
    count = layout[SAMPLES] * layout[TARGETS]
    return widened(kernel, "covariance in lanes", gradient, kernel.numbers[layout[Y] : layout[Y] + count])
