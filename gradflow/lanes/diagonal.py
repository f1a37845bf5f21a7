"""Gradient of diagonal linear networks for eight runs at a time, on the numbers of the single kernel."""

from numba import njit

from gradflow.kernels.calls import GRADIENT
from gradflow.kernels.diagonal import CAPACITY, CONSTANT, DECAY, DIM, FACTOR, LOSS, POWER, SAMPLES, SIZE, X, Y
from gradflow.kernels.entries import entry
from gradflow.kernels.kernel import Kernel
from gradflow.kernels.loss_terms import SPARE_PER_SAMPLE
from gradflow.kernels.procedures import EXACT, address_of, view
from gradflow.lanes.objective import SERVED, add_penalty, differentiate_outputs, widened
from gradflow.lanes.vectors import BYTES, LANES, multiply_shared


@njit(**EXACT)
def _powers(theta, exponent, out):
    """theta^exponent entry by entry, for an exponent >= 0."""
    for i in range(theta.size):
        out[i] = 1.0 if exponent == 0 else theta[i]
    for _ in range(exponent - 1):
        for i in range(theta.size):
            out[i] *= theta[i]


@njit(**EXACT)
def _weights(powers, theta, out):
    """u^D, minus v^D if there is a second half."""
    d = out.size
    for i in range(d):
        out[i] = powers[i] * theta[i]
    if theta.size > d:
        for i in range(d):
            out[i] -= powers[d + i] * theta[d + i]


@entry(GRADIENT, exact=True)
def gradient(theta, out, numbers, layout, work):
    """Gradients; the values come first in work."""
    n, d, size, room, power = layout[SAMPLES], layout[DIM], layout[SIZE], layout[CAPACITY], layout[POWER]
    data, values = address_of(numbers), address_of(work)
    x, y = data + 8 * layout[X], data + 8 * layout[layout.size - 1]
    f = values + BYTES
    df, spare = f + BYTES * room, f + 2 * BYTES * room
    place = spare + BYTES * SPARE_PER_SAMPLE * room
    powers, weights = view(place, LANES * size), view(place + BYTES * size, LANES * d)
    pull = view(place + BYTES * (size + d), LANES * d)
    _powers(theta, power - 1, powers)
    _weights(powers, theta, weights)
    multiply_shared(1, n, d, address_of(weights), d, 1, x, n, 1, f)
    differentiate_outputs(layout[LOSS], numbers[FACTOR], numbers[CONSTANT], 1, n, f, y, df, spare, values)
    multiply_shared(1, d, n, df, n, 1, x, 1, n, address_of(pull))
    for i in range(pull.size):
        out[i] = power * powers[i] * pull[i]
    if size > d:
        for i in range(pull.size):
            out[pull.size + i] = -power * powers[pull.size + i] * pull[i]
    add_penalty(size, numbers[DECAY], address_of(theta), address_of(out), values, spare)
    return 0.0


def widen(kernel: Kernel) -> Kernel | None:
    """Kernel of lanes beside a single one; None where it does not serve."""
    layout = kernel.layout
    if layout[LOSS] not in SERVED:
        return None
    y = kernel.numbers[layout[Y] : layout[Y] + layout[SAMPLES]]
    return widened(kernel, "diagonal in lanes", gradient, y)
