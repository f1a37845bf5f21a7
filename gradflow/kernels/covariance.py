r"""Linear networks through their end-to-end matrix M = W_L ... W_1, and data compressed to their covariance.

The data enter only as :math:`M x`, and the gradient only needs :math:`G = \partial F/\partial M`, so that products of
layers have as many rows as the network has outputs, whatever the number of samples. Under the square loss a QR
factorisation of the inputs, R^T R = X^T X, replaces n samples by d of them, exactly and without cancellation.
"""

import numpy as np
from numba import njit

from gradflow import losses
from gradflow.kernels.calls import GRADIENT, PRODUCT
from gradflow.kernels.entries import entry
from gradflow.kernels.kernel import Kernel
from gradflow.kernels.loss_terms import SPARE_PER_SAMPLE, differentiate, differentiate_twice
from gradflow.kernels.matrices import add, add_penalty, multiply, multiply_nt, multiply_tn
from gradflow.kernels.procedures import COUNTED, OPTIONS, address_of, integer_view, view

SAMPLES, SIZE, DEPTH, LOSS, X, Y, TARGETS, SPARE, F, D, DF, DD, HEAD = range(13)
INPUTS, OUTPUTS, WEIGHT, FIXED, RESIDUAL, ABOVE, BELOW, ABOVE_TANGENT, BELOW_TANGENT, STAGE = range(10)
DECAY, FACTOR, CONSTANT, MATRICES = range(4)


@njit(**COUNTED)
def _row(layout, stage):
    """Entries of the layout that belong to a stage."""
    return integer_view(layout + 8 * (HEAD + STAGE * stage), STAGE)


@njit(**OPTIONS)
def _weight(row, theta, numbers):
    return numbers + 8 * row[FIXED] if row[FIXED] >= 0 else theta + 8 * row[WEIGHT]


@njit(**OPTIONS)
def _above(row, depth, stage, theta, numbers, work):
    """Address of the product of this and all later layers, outputs by inputs of this layer."""
    if stage == depth - 1 and not row[RESIDUAL]:
        return _weight(row, theta, numbers)
    return work + 8 * row[ABOVE]


@njit(**OPTIONS)
def _above_tangent(row, depth, stage, v, work):
    """Address of the change of that product along v; 0 if there is none."""
    if stage == depth - 1:
        return 0 if row[FIXED] >= 0 else v + 8 * row[WEIGHT]
    return work + 8 * row[ABOVE_TANGENT]


@njit(**OPTIONS)
def _multiply_up(depth, theta, numbers, layout, work):
    """Products of the last layers, from the last one to all of them; the address of the end-to-end matrix."""
    row = _row(layout, depth - 1)
    k, above = row[OUTPUTS], _above(row, depth, depth - 1, theta, numbers, work)
    if row[RESIDUAL]:
        matrix, weight = view(above, k * k), view(_weight(row, theta, numbers), k * k)
        for i in range(k * k):
            matrix[i] = weight[i]
        for i in range(k):
            matrix[i * (k + 1)] += 1.0
    for stage in range(depth - 2, -1, -1):
        row = _row(layout, stage)
        target = work + 8 * row[ABOVE]
        multiply(k, row[INPUTS], row[OUTPUTS], above, _weight(row, theta, numbers), target, 0, 0, 0)
        if row[RESIDUAL]:
            add(k * row[INPUTS], target, above)
        above = target
    return above


@njit(**OPTIONS)
def _multiply_up_tangent(depth, theta, v, numbers, layout, work, spare):
    """Changes of those products along v; the address of the change of the end-to-end matrix."""
    row = _row(layout, depth - 1)
    k = row[OUTPUTS]
    above = _above(row, depth, depth - 1, theta, numbers, work)
    tangent = _above_tangent(row, depth, depth - 1, v, work)
    for stage in range(depth - 2, -1, -1):
        row = _row(layout, stage)
        target, weight, change = work + 8 * row[ABOVE_TANGENT], theta + 8 * row[WEIGHT], v + 8 * row[WEIGHT]
        multiply(k, row[INPUTS], row[OUTPUTS], above, change, target, tangent, weight, spare)
        if row[RESIDUAL] and tangent:
            add(k * row[INPUTS], target, tangent)
        above, tangent = work + 8 * row[ABOVE], target
    return tangent


@njit(**OPTIONS)
def _gradients(depth, theta, out, numbers, layout, work, below):
    """All layers' gradients from G at address `below`, which is `out` itself for a single trained layer."""
    k = _row(layout, depth - 1)[OUTPUTS]
    for stage in range(depth - 1):
        row, later = _row(layout, stage), _row(layout, stage + 1)
        above, weight = _above(later, depth, stage + 1, theta, numbers, work), theta + 8 * row[WEIGHT]
        multiply_tn(row[OUTPUTS], row[INPUTS], k, above, below, out + 8 * row[WEIGHT], 0, 0, 0)
        last = stage == depth - 2
        if last and later[FIXED] >= 0:
            return
        target = out + 8 * later[WEIGHT] if last else work + 8 * later[BELOW]
        multiply_nt(k, row[OUTPUTS], row[INPUTS], below, weight, target, 0, 0, 0)
        if row[RESIDUAL]:
            add(k * row[OUTPUTS], target, below)
        below = target


@njit(**OPTIONS)
def _gradient_tangents(depth, theta, v, out, numbers, layout, work, spare, below, tangent):
    """Changes of all layers' gradients from G and its change, at the addresses `below` and `tangent`."""
    k = _row(layout, depth - 1)[OUTPUTS]
    for stage in range(depth - 1):
        row, later = _row(layout, stage), _row(layout, stage + 1)
        above = _above(later, depth, stage + 1, theta, numbers, work)
        above_tangent = _above_tangent(later, depth, stage + 1, v, work)
        rows, cols, place = row[OUTPUTS], row[INPUTS], 8 * row[WEIGHT]
        multiply_tn(rows, cols, k, above, tangent, out + place, above_tangent, below, spare)
        last = stage == depth - 2
        if last and later[FIXED] >= 0:
            return
        target = out + 8 * later[WEIGHT] if last else work + 8 * later[BELOW_TANGENT]
        multiply_nt(k, rows, cols, tangent, theta + place, target, below, v + place, spare)
        if row[RESIDUAL]:
            add(k * rows, target, tangent)
        tangent = target
        if not last:
            target = work + 8 * later[BELOW]
            multiply_nt(k, rows, cols, below, theta + place, target, 0, 0, 0)
            if row[RESIDUAL]:
                add(k * rows, target, below)
            below = target


@entry(GRADIENT)
def gradient(theta, out, numbers, layout, work):
    """Value and gradient."""
    parameters, result, data = address_of(theta), address_of(out), address_of(numbers)
    places, work_start = address_of(layout), address_of(work)
    depth, n, first = layout[DEPTH], layout[SAMPLES], _row(places, 0)
    d, k = first[INPUTS], _row(places, depth - 1)[OUTPUTS]
    x, y, spare = data + 8 * layout[X], data + 8 * layout[Y], work_start + 8 * layout[SPARE]
    f, df = work_start + 8 * layout[F], work_start + 8 * layout[D]
    matrix = _multiply_up(depth, parameters, data, places, work_start)
    multiply(k, n, d, matrix, x, f, 0, 0, 0)
    value = numbers[CONSTANT] + differentiate(layout[LOSS], numbers[FACTOR], n, k, f, y, df, spare)
    below = result if depth == 1 else work_start + 8 * first[BELOW]
    multiply_nt(k, d, n, df, x, below, 0, 0, 0)
    _gradients(depth, parameters, result, data, places, work_start, below)
    return value + add_penalty(layout[SIZE], numbers[DECAY], parameters, parameters, result)


@entry(PRODUCT)
def product(theta, v, out, numbers, layout, work):
    """Value and Hessian-vector product."""
    parameters, vector, result, data = address_of(theta), address_of(v), address_of(out), address_of(numbers)
    places, work_start = address_of(layout), address_of(work)
    depth, n, first = layout[DEPTH], layout[SAMPLES], _row(places, 0)
    d, k = first[INPUTS], _row(places, depth - 1)[OUTPUTS]
    x, y, spare = data + 8 * layout[X], data + 8 * layout[Y], work_start + 8 * layout[SPARE]
    f, df = work_start + 8 * layout[F], work_start + 8 * layout[D]
    change, ddf = work_start + 8 * layout[DF], work_start + 8 * layout[DD]
    matrix = _multiply_up(depth, parameters, data, places, work_start)
    multiply(k, n, d, matrix, x, f, 0, 0, 0)
    value = numbers[CONSTANT] + differentiate(layout[LOSS], numbers[FACTOR], n, k, f, y, df, spare)
    tangent = _multiply_up_tangent(depth, parameters, vector, data, places, work_start, work_start)
    multiply(k, n, d, tangent, x, change, 0, 0, 0)
    differentiate_twice(layout[LOSS], numbers[FACTOR], n, k, y, df, change, ddf, spare)
    below, tangent = work_start + 8 * first[BELOW], work_start + 8 * first[BELOW_TANGENT]
    multiply_nt(k, d, n, df, x, below, 0, 0, 0)
    multiply_nt(k, d, n, ddf, x, result if depth == 1 else tangent, 0, 0, 0)
    _gradient_tangents(depth, parameters, vector, result, data, places, work_start, work_start, below, tangent)
    return value + add_penalty(layout[SIZE], numbers[DECAY], parameters, vector, result)


def flops(network, n: int) -> float:
    """Operations of one gradient."""
    stages = network.stages
    inner = sum(stage.inputs * stage.outputs for stage in stages[:-1])
    return 2.0 * network.output_size * (3 * inner + 2 * n * network.input_size)


def compress(x, y):
    """R (d, d), Q^T y (d, k) and the irreducible sum of squares, for the inputs x = Q R of n > d samples.

    The sum of squares of x M^T - y is that of R M^T - Q^T y plus the irreducible part, which is 0 if it is below the
    rounding error of y.
    """
    q, r = np.linalg.qr(x)
    targets = q.T @ y
    rest = y - q @ targets
    rounding = max(x.shape) * np.finfo(float).eps * np.linalg.norm(y, axis=0)
    norms = np.linalg.norm(rest, axis=0)
    return r, targets, float(np.sum(np.where(norms > rounding, norms, 0.0) ** 2))


def build(network, loss, x, y, decay=0.0, *, factor=None, constant=0.0) -> Kernel:
    """Kernel of a linear network on samples x (n, d), y (n, k); loss = factor times a sum, plus a constant."""
    (n, d), k, stages = x.shape, network.output_size, network.stages
    table = np.full((len(stages), STAGE), -1, dtype=np.int64)
    fixed = [np.asarray(network.fixed[name], dtype=np.float64).ravel() for name in network.fixed]
    largest = max(stage.inputs * stage.outputs for stage in stages)
    place, used = 0, max(largest, k * max(stage.inputs for stage in stages))
    for number, (stage, row) in enumerate(zip(stages, table, strict=True)):
        row[[INPUTS, OUTPUTS, RESIDUAL]] = stage.inputs, stage.outputs, stage.identity_from == number
        if stage.trained:
            row[WEIGHT], place = place, place + stage.inputs * stage.outputs
        else:
            row[FIXED] = MATRICES
        for array in (ABOVE, BELOW, ABOVE_TANGENT, BELOW_TANGENT):
            row[array], used = used, used + k * stage.inputs
    head = np.zeros(HEAD, dtype=np.int64)
    head[[SAMPLES, SIZE, DEPTH]] = n, network.size, len(stages)
    head[[LOSS, TARGETS]] = losses.CODES[loss.name], 1 if loss.labels == "class" else k
    head[X] = MATRICES + sum(matrix.size for matrix in fixed)
    head[Y] = head[X] + n * d
    head[[F, D, DF, DD]] = used + k * n * np.arange(4)
    head[SPARE] = used + 4 * k * n
    numbers = np.zeros(head[Y] + n * head[TARGETS])
    numbers[:MATRICES] = decay, loss.factor(n) if factor is None else factor, constant
    numbers[MATRICES : head[X]] = np.concatenate([*fixed, []])
    layout = np.concatenate([head, table.ravel()])
    write_samples(numbers, layout, x, y)
    work_size = int(head[SPARE]) + SPARE_PER_SAMPLE * n
    return Kernel("covariance", gradient, product, numbers, layout, work_size, compiled=True, flops=flops(network, n))


def write_samples(numbers, layout, x, y) -> None:
    """Put samples x (n, d), y (n, k) in place of the old ones; not more than the kernel was built for."""
    layout[SAMPLES] = x.shape[0]
    labels = y.argmax(1)[:, None] if layout[LOSS] == losses.CODES["cross-entropy"] else y
    for samples, place in ((x, layout[X]), (labels, layout[Y])):
        numbers[place : place + samples.size].reshape(samples.shape[::-1])[:] = samples.T
