r"""Value, gradient and Hessian-vector product of diagonal linear networks, w = u^D - v^D or w = u^D, compiled."""

import numpy as np
from numba import njit

from gradflow import losses
from gradflow.kernels.calls import GRADIENT, PRODUCT
from gradflow.kernels.entries import entry
from gradflow.kernels.kernel import LINE, Kernel, aligned
from gradflow.kernels.loss_terms import SPARE_PER_SAMPLE, differentiate, differentiate_twice
from gradflow.kernels.matrices import add_penalty, multiply, multiply_nt
from gradflow.kernels.procedures import OPTIONS, address_of, view

SAMPLES, DIM, SIZE, POWER, LOSS, X, Y, CAPACITY, HEAD = range(9)
DECAY, FACTOR, CONSTANT, DATA = 0, 1, 2, LINE


@njit(**OPTIONS)
def _powers(theta, exponent, out):
    """theta^exponent entry by entry, for an exponent >= 0."""
    for i in range(theta.size):
        out[i] = 1.0 if exponent == 0 else theta[i]
    for _ in range(exponent - 1):
        for i in range(theta.size):
            out[i] *= theta[i]


@njit(**OPTIONS)
def _difference(a, b, out):
    """out = a b in the first half, minus a b in the second half if there is one."""
    d = out.size
    for i in range(d):
        out[i] = a[i] * b[i]
    if a.size > d:
        for i in range(d):
            out[i] -= a[d + i] * b[d + i]


@entry(GRADIENT)
def gradient(theta, out, numbers, layout, work):
    """Value and gradient."""
    n, d, size, room = layout[SAMPLES], layout[DIM], layout[SIZE], layout[CAPACITY]
    power, data, place = layout[POWER], address_of(numbers), address_of(work)
    theta, out = view(address_of(theta), size), view(address_of(out), size)
    x, y = data + 8 * layout[X], data + 8 * layout[Y]
    f, df, spare = place, place + 8 * room, place + 16 * room
    powers = view(spare + 8 * SPARE_PER_SAMPLE * room, size)
    weights = view(address_of(powers) + 8 * size, d)
    pull = view(address_of(weights) + 8 * d, d)
    _powers(theta, power - 1, powers)
    _difference(powers, theta, weights)
    multiply(1, n, d, address_of(weights), x, f, 0, 0, 0)
    value = numbers[CONSTANT] + differentiate(layout[LOSS], numbers[FACTOR], n, 1, f, y, df, spare)
    multiply_nt(1, d, n, df, x, address_of(pull), 0, 0, 0)
    for i in range(d):
        out[i] = power * powers[i] * pull[i]
    if size > d:
        for i in range(d):
            out[d + i] = -power * powers[d + i] * pull[i]
    return value + add_penalty(size, numbers[DECAY], address_of(theta), address_of(theta), address_of(out))


@entry(PRODUCT)
def product(theta, v, out, numbers, layout, work):
    """Value and Hessian-vector product."""
    n, d, size, room = layout[SAMPLES], layout[DIM], layout[SIZE], layout[CAPACITY]
    power, data, place = layout[POWER], address_of(numbers), address_of(work)
    theta, v, out = view(address_of(theta), size), view(address_of(v), size), view(address_of(out), size)
    x, y = data + 8 * layout[X], data + 8 * layout[Y]
    f, df, spare = place, place + 8 * room, place + 16 * room
    powers = view(spare + 8 * SPARE_PER_SAMPLE * room, size)
    weights = view(address_of(powers) + 8 * size, d)
    pull = view(address_of(weights) + 8 * d, d)
    change = view(address_of(pull) + 8 * d, d)
    bend = view(address_of(change) + 8 * d, size)
    df_tangent = address_of(bend) + 8 * size
    f_tangent = df_tangent + 8 * room
    _powers(theta, power - 1, powers)
    _powers(theta, max(power - 2, 0), bend)
    _difference(powers, theta, weights)
    multiply(1, n, d, address_of(weights), x, f, 0, 0, 0)
    value = numbers[CONSTANT] + differentiate(layout[LOSS], numbers[FACTOR], n, 1, f, y, df, spare)
    multiply_nt(1, d, n, df, x, address_of(pull), 0, 0, 0)
    _difference(powers, v, weights)
    multiply(1, n, d, address_of(weights), x, f_tangent, 0, 0, 0)
    differentiate_twice(layout[LOSS], numbers[FACTOR], n, 1, y, df, f_tangent, df_tangent, spare)
    multiply_nt(1, d, n, df_tangent, x, address_of(change), 0, 0, 0)
    for i in range(d):
        out[i] = power * (power * powers[i] * change[i] + (power - 1) * bend[i] * v[i] * pull[i])
    if size > d:
        for i in range(d):
            j = d + i
            out[j] = -power * (power * powers[j] * change[i] + (power - 1) * bend[j] * v[j] * pull[i])
    return value + add_penalty(size, numbers[DECAY], address_of(theta), address_of(v), address_of(out))


def flops(network, n: int) -> float:
    """Operations of one gradient."""
    return float(4 * n * network.dim + network.size * (network.depth + 4))


def build(network, loss, x, y, decay=0.0, *, factor=None, constant=0.0) -> Kernel:
    """Kernel of a diagonal network on samples x (n, d), y (n, 1); loss = factor times a sum, plus a constant."""
    n, d = x.shape
    layout = np.zeros(HEAD, dtype=np.int64)
    layout[[SAMPLES, CAPACITY, DIM, SIZE, POWER]] = n, n, d, network.size, network.depth
    layout[LOSS] = losses.CODES[loss.name]
    layout[[X, Y]] = DATA, DATA + n * d
    numbers = aligned(DATA + n * (d + 1))
    numbers[: CONSTANT + 1] = decay, loss.factor(n) if factor is None else factor, constant
    write_samples(numbers, layout, x, y)
    work_size = (4 + SPARE_PER_SAMPLE) * n + 3 * d + 2 * network.size
    return Kernel("diagonal", gradient, product, numbers, layout, work_size, compiled=True, flops=flops(network, n))


def write_samples(numbers, layout, x, y) -> None:
    """Put samples x (n, d), y (n, 1) in place of the old ones; not more than the kernel was built for."""
    layout[SAMPLES] = x.shape[0]
    for samples, place in ((x, layout[X]), (y, layout[Y])):
        numbers[place : place + samples.size].reshape(samples.shape[::-1])[:] = samples.T
