"""Value, gradient and Hessian-vector product of every feedforward network under every loss, compiled once.

`layout` holds sizes and places. The values of a layer are stored unit by unit, (width, samples), so that all loops run
over samples. Samples pass through the network in chunks that fit in the cache. Arrays are known by address.
"""

import numpy as np
from numba import njit

from gradflow import losses
from gradflow.kernels.calls import GRADIENT, PRODUCT
from gradflow.kernels.elementwise import activate, curvature
from gradflow.kernels.entries import entry
from gradflow.kernels.kernel import Kernel
from gradflow.kernels.loss_terms import SPARE_PER_SAMPLE, differentiate, differentiate_twice
from gradflow.kernels.matrices import add, add_penalty, add_to_rows, multiply, multiply_nt, multiply_tn, sum_rows
from gradflow.kernels.procedures import COUNTED, OPTIONS, address_of, integer_view, view

SAMPLES, CHUNK, SIZE, DEPTH, LOSS, X, Y, TARGETS, SPARE, SUM, HEAD = range(11)
INPUTS, OUTPUTS, CODE, WEIGHT, FIXED, BIAS, IDENTITY, SKIP, SKIP_INPUTS, SKIP_WEIGHT, SHARED = range(11)
VALUES, SLOPE, DELTA, TANGENT, DELTA_TANGENT, BEND, STAGE = range(11, 18)
DECAY, FACTOR, CONSTANT, SLOPES = range(4)
CHUNK_SAMPLES = 192
CURVED = ("tanh", "sigmoid", "softplus", "gelu", "quadratic", "relu_squared")


@njit(**COUNTED)
def _row(layout, stage):
    """Entries of the layout that belong to a stage."""
    return integer_view(layout + 8 * (HEAD + STAGE * stage), STAGE)


@njit(**OPTIONS)
def _values(layout, work, layer, x):
    """Address of the output of a layer; layer 0 is the input."""
    return x if layer == 0 else work + 8 * _row(layout, layer - 1)[VALUES]


@njit(**OPTIONS)
def _tangent(layout, work, layer):
    """Address of the change of a layer's output; 0 at the input, which does not change."""
    return 0 if layer == 0 else work + 8 * _row(layout, layer - 1)[TANGENT]


@njit(**OPTIONS)
def _weight(row, theta, numbers):
    return numbers + 8 * row[FIXED] if row[FIXED] >= 0 else theta + 8 * row[WEIGHT]


@njit(**OPTIONS)
def _scale(count, target, by):
    target, by = view(target, count), view(by, count)
    for i in range(count):
        target[i] *= by[i]


@njit(**OPTIONS)
def _forward(n, depth, theta, numbers, layout, work, x, bend):
    """Values and slopes of all layers for n samples at address x; `bend`: second derivatives as well."""
    for stage in range(depth):
        row = _row(layout, stage)
        rows, size = row[OUTPUTS], row[OUTPUTS] * n
        values, z = work + 8 * row[VALUES], work + 8 * row[DELTA]
        linear = row[SLOPE] < 0
        target = values if linear else z
        multiply(rows, n, row[INPUTS], _weight(row, theta, numbers), _values(layout, work, stage, x), target, 0, 0, 0)
        if row[BIAS] >= 0:
            add_to_rows(rows, n, target, theta + 8 * row[BIAS])
        if not linear:
            slope = work + 8 * row[SLOPE]
            activate(row[CODE], view(numbers + 8 * (SLOPES + stage), 1)[0], size, z, values, slope)
            if bend and row[BEND] >= 0:
                curvature(row[CODE], size, z, values, slope, work + 8 * row[BEND])
        if row[IDENTITY] >= 0:
            add(size, values, _values(layout, work, row[IDENTITY], x))
        if row[SKIP] >= 0:
            matrix, below = theta + 8 * row[SKIP_WEIGHT], _values(layout, work, row[SKIP], x)
            multiply(rows, n, row[SKIP_INPUTS], matrix, below, z, 0, 0, 0)
            add(size, values, z)


@njit(**OPTIONS)
def _clear_shared(n, depth, layout, work, kind):
    """Zero in the derivatives of layers that several layers read, since contributions are added up there."""
    for stage in range(depth):
        row = _row(layout, stage)
        if row[SHARED]:
            view(work + 8 * row[kind], row[OUTPUTS] * n)[:] = 0.0


@njit(**OPTIONS)
def _pull(n, layout, work, spare, layer, kind, rows, matrix, delta, matrix2, delta2):
    """Derivative in a layer's output from a layer above: matrix^T delta, plus a second such product."""
    row = _row(layout, layer - 1)
    inputs, target = row[OUTPUTS], work + 8 * row[kind]
    if row[SHARED]:
        multiply_tn(inputs, n, rows, matrix, delta, spare, 0, 0, 0)
        add(inputs * n, target, spare)
        if matrix2:
            multiply_tn(inputs, n, rows, matrix2, delta2, spare, 0, 0, 0)
            add(inputs * n, target, spare)
    else:
        multiply_tn(inputs, n, rows, matrix, delta, target, matrix2, delta2, spare)


@njit(**OPTIONS)
def _backward(n, depth, theta, out, numbers, layout, work, spare, x):
    """Gradient from the derivative in the outputs, which is in DELTA of the last layer."""
    _clear_shared(n, depth, layout, work, DELTA)
    for stage in range(depth - 1, -1, -1):
        row = _row(layout, stage)
        rows, size, delta = row[OUTPUTS], row[OUTPUTS] * n, work + 8 * row[DELTA]
        if row[IDENTITY] > 0:
            add(size, work + 8 * _row(layout, row[IDENTITY] - 1)[DELTA], delta)
        if row[SKIP] >= 0:
            place, below = 8 * row[SKIP_WEIGHT], _values(layout, work, row[SKIP], x)
            multiply_nt(rows, row[SKIP_INPUTS], n, delta, below, out + place, 0, 0, 0)
            if row[SKIP] > 0:
                _pull(n, layout, work, spare, row[SKIP], DELTA, rows, theta + place, delta, 0, 0)
        if row[SLOPE] >= 0:
            _scale(size, delta, work + 8 * row[SLOPE])
        if row[BIAS] >= 0:
            sum_rows(rows, n, delta, out + 8 * row[BIAS])
        if row[FIXED] < 0:
            below = _values(layout, work, stage, x)
            multiply_nt(rows, row[INPUTS], n, delta, below, out + 8 * row[WEIGHT], 0, 0, 0)
        if stage > 0:
            _pull(n, layout, work, spare, stage, DELTA, rows, _weight(row, theta, numbers), delta, 0, 0)


@njit(**OPTIONS)
def _forward_tangent(n, depth, theta, v, numbers, layout, work, spare, x):
    """Changes of all layers' values along v; BEND becomes phi'' times the change of the argument."""
    for stage in range(depth):
        row = _row(layout, stage)
        rows, size, tangent = row[OUTPUTS], row[OUTPUTS] * n, work + 8 * row[TANGENT]
        weight, moved = _weight(row, theta, numbers), _tangent(layout, work, stage)
        if row[FIXED] < 0:
            matrix, below = v + 8 * row[WEIGHT], _values(layout, work, stage, x)
            multiply(rows, n, row[INPUTS], matrix, below, tangent, weight if moved else 0, moved, spare)
        elif moved:
            multiply(rows, n, row[INPUTS], weight, moved, tangent, 0, 0, 0)
        else:
            view(tangent, size)[:] = 0.0
        if row[BIAS] >= 0:
            add_to_rows(rows, n, tangent, v + 8 * row[BIAS])
        if row[BEND] >= 0:
            _scale(size, work + 8 * row[BEND], tangent)
        if row[SLOPE] >= 0:
            _scale(size, tangent, work + 8 * row[SLOPE])
        if row[IDENTITY] > 0:
            add(size, tangent, _tangent(layout, work, row[IDENTITY]))
        if row[SKIP] >= 0:
            place, target = 8 * row[SKIP_WEIGHT], work + 8 * row[DELTA_TANGENT]
            below, moved = _values(layout, work, row[SKIP], x), _tangent(layout, work, row[SKIP])
            matrix = theta + place if moved else 0
            multiply(rows, n, row[SKIP_INPUTS], v + place, below, target, matrix, moved, spare)
            add(size, tangent, target)


@njit(**OPTIONS)
def _scale_both(count, delta, change, slope, bend):
    """change = change slope + delta bend, delta = delta slope; no bend if it is 0."""
    delta, change, slope = view(delta, count), view(change, count), view(slope, count)
    if bend:
        bend = view(bend, count)
        for i in range(count):
            change[i] = change[i] * slope[i] + delta[i] * bend[i]
            delta[i] *= slope[i]
    else:
        for i in range(count):
            change[i] *= slope[i]
            delta[i] *= slope[i]


@njit(**OPTIONS)
def _backward_tangent(n, depth, theta, v, out, numbers, layout, work, spare, x):
    """Change along v of the gradient, from DELTA and DELTA_TANGENT of the last layer."""
    _clear_shared(n, depth, layout, work, DELTA)
    _clear_shared(n, depth, layout, work, DELTA_TANGENT)
    for stage in range(depth - 1, -1, -1):
        row = _row(layout, stage)
        rows, size = row[OUTPUTS], row[OUTPUTS] * n
        delta, change = work + 8 * row[DELTA], work + 8 * row[DELTA_TANGENT]
        if row[IDENTITY] > 0:
            source = _row(layout, row[IDENTITY] - 1)
            add(size, work + 8 * source[DELTA], delta)
            add(size, work + 8 * source[DELTA_TANGENT], change)
        if row[SKIP] >= 0:
            place, layer = 8 * row[SKIP_WEIGHT], row[SKIP]
            below, moved = _values(layout, work, layer, x), _tangent(layout, work, layer)
            multiply_nt(rows, row[SKIP_INPUTS], n, change, below, out + place, delta if moved else 0, moved, spare)
            if layer > 0:
                _pull(n, layout, work, spare, layer, DELTA, rows, theta + place, delta, 0, 0)
                _pull(n, layout, work, spare, layer, DELTA_TANGENT, rows, theta + place, change, v + place, delta)
        if row[SLOPE] >= 0:
            bend = work + 8 * row[BEND] if row[BEND] >= 0 else 0
            _scale_both(size, delta, change, work + 8 * row[SLOPE], bend)
        if row[BIAS] >= 0:
            sum_rows(rows, n, change, out + 8 * row[BIAS])
        trained, place = row[FIXED] < 0, 8 * row[WEIGHT]
        if trained:
            below, moved = _values(layout, work, stage, x), _tangent(layout, work, stage)
            multiply_nt(rows, row[INPUTS], n, change, below, out + place, delta if moved else 0, moved, spare)
        if stage > 0:
            weight, matrix = _weight(row, theta, numbers), v + place if trained else 0
            _pull(n, layout, work, spare, stage, DELTA, rows, weight, delta, 0, 0)
            _pull(n, layout, work, spare, stage, DELTA_TANGENT, rows, weight, change, matrix, delta)


@entry(GRADIENT)
def gradient(theta, out, numbers, layout, work):
    """Value and gradient."""
    parameters, result, data = address_of(theta), address_of(out), address_of(numbers)
    places, work_start = address_of(layout), address_of(work)
    depth, spare, total = layout[DEPTH], work_start + 8 * layout[SPARE], work_start + 8 * layout[SUM]
    inputs, last = layout[HEAD + INPUTS], _row(places, depth - 1)
    f, d = work_start + 8 * last[VALUES], work_start + 8 * last[DELTA]
    value = numbers[CONSTANT]
    for start in range(0, layout[SAMPLES], layout[CHUNK]):
        n = min(layout[CHUNK], layout[SAMPLES] - start)
        x, y = data + 8 * (layout[X] + start * inputs), data + 8 * (layout[Y] + start * layout[TARGETS])
        target = total if start > 0 else result
        _forward(n, depth, parameters, data, places, work_start, x, False)
        value += differentiate(layout[LOSS], numbers[FACTOR], n, last[OUTPUTS], f, y, d, spare)
        _backward(n, depth, parameters, target, data, places, work_start, spare, x)
        if start > 0:
            add(layout[SIZE], result, target)
    return value + add_penalty(layout[SIZE], numbers[DECAY], parameters, parameters, result)


@entry(PRODUCT)
def product(theta, v, out, numbers, layout, work):
    """Value and Hessian-vector product."""
    parameters, vector, result, data = address_of(theta), address_of(v), address_of(out), address_of(numbers)
    places, work_start = address_of(layout), address_of(work)
    depth, spare, total = layout[DEPTH], work_start + 8 * layout[SPARE], work_start + 8 * layout[SUM]
    inputs, last = layout[HEAD + INPUTS], _row(places, depth - 1)
    f, d = work_start + 8 * last[VALUES], work_start + 8 * last[DELTA]
    df, dd = work_start + 8 * last[TANGENT], work_start + 8 * last[DELTA_TANGENT]
    value = numbers[CONSTANT]
    for start in range(0, layout[SAMPLES], layout[CHUNK]):
        n = min(layout[CHUNK], layout[SAMPLES] - start)
        x, y = data + 8 * (layout[X] + start * inputs), data + 8 * (layout[Y] + start * layout[TARGETS])
        target = total if start > 0 else result
        _forward(n, depth, parameters, data, places, work_start, x, True)
        _forward_tangent(n, depth, parameters, vector, data, places, work_start, spare, x)
        value += differentiate(layout[LOSS], numbers[FACTOR], n, last[OUTPUTS], f, y, d, spare)
        differentiate_twice(layout[LOSS], numbers[FACTOR], n, last[OUTPUTS], y, d, df, dd, spare)
        _backward_tangent(n, depth, parameters, vector, target, data, places, work_start, spare, x)
        if start > 0:
            add(layout[SIZE], result, target)
    return value + add_penalty(layout[SIZE], numbers[DECAY], parameters, vector, result)


def _table_of_stages(network, start, chunk):
    """Rows of the stages, the numbers from `start` on (slopes, fixed matrices), and the room for all layers."""
    stages = network.stages
    shared = {source for stage in stages for source in (stage.identity_from, stage.linear_from)}
    table = np.full((len(stages), STAGE), -1, dtype=np.int64)
    numbers = [np.array([stage.activation.slope for stage in stages])]
    place, used = 0, 0
    for number, (stage, row) in enumerate(zip(stages, table, strict=True), 1):
        row[[INPUTS, OUTPUTS, CODE]] = stage.inputs, stage.outputs, stage.activation.code
        row[[IDENTITY, SKIP, SKIP_INPUTS]] = stage.identity_from, stage.linear_from, stage.linear_inputs
        row[SHARED] = number in shared
        if stage.trained:
            row[WEIGHT], place = place, place + stage.outputs * stage.inputs
        else:
            row[FIXED] = start + sum(part.size for part in numbers)
            numbers.append(np.asarray(network.fixed[f"W{number}"], dtype=np.float64).ravel())
        if stage.bias:
            row[BIAS], place = place, place + stage.outputs
        if stage.linear_from >= 0:
            row[SKIP_WEIGHT], place = place, place + stage.outputs * stage.linear_inputs
        arrays = [VALUES, DELTA, TANGENT, DELTA_TANGENT]
        arrays += [] if stage.activation.name == "linear" else [SLOPE]
        arrays += [BEND] if stage.activation.name in CURVED else []
        for array in arrays:
            row[array], used = used, used + stage.outputs * chunk
    return table, np.concatenate(numbers), used


def chunk_size(n: int) -> int:
    """Samples per chunk, so that chunks are nearly equal."""
    if n <= 3 * CHUNK_SAMPLES // 2:
        return n
    chunks = -(-n // CHUNK_SAMPLES)
    return -(-n // (8 * chunks)) * 8


def flops(network, n: int) -> float:
    """Operations of one gradient: three products a layer, less one at the input, and the activations."""
    stages = network.stages
    products = sum(3 * stage.inputs * stage.outputs for stage in stages) - stages[0].inputs * stages[0].outputs
    skips = sum(3 * stage.linear_inputs * stage.outputs for stage in stages)
    activations = sum(stage.outputs for stage in stages if stage.activation.name != "linear")
    return float(n * (2 * (products + skips) + 20 * activations))


def build(network, loss, x, y, decay=0.0, *, factor=None, constant=0.0, chunk=None) -> Kernel:
    """Kernel of a feedforward network on samples x (n, d), y (n, k); loss = factor times a sum, plus a constant."""
    n, stages = x.shape[0], network.stages
    chunk = chunk or chunk_size(n)
    table, middle, used = _table_of_stages(network, SLOPES, chunk)
    head = np.zeros(HEAD, dtype=np.int64)
    head[[SAMPLES, CHUNK, SIZE, DEPTH]] = n, chunk, network.size, len(stages)
    head[[LOSS, TARGETS]] = losses.CODES[loss.name], 1 if loss.labels == "class" else network.output_size
    head[X] = SLOPES + middle.size
    head[Y] = head[X] + n * x.shape[1]
    widest = max(max(stage.outputs, stage.inputs, stage.linear_inputs) for stage in stages)
    largest = max(stage.outputs * max(stage.inputs, stage.linear_inputs) for stage in stages)
    head[SPARE], head[SUM] = used, used + max(max(widest, SPARE_PER_SAMPLE) * chunk, largest)
    numbers = np.zeros(head[Y] + n * head[TARGETS])
    numbers[:SLOPES] = decay, loss.factor(n) if factor is None else factor, constant
    numbers[SLOPES : head[X]] = middle
    layout = np.concatenate([head, table.ravel()])
    write_samples(numbers, layout, x, y)
    work_size = int(head[SUM]) + (network.size if chunk < n else 0)
    return Kernel("feedforward", gradient, product, numbers, layout, work_size, compiled=True, flops=flops(network, n))


def write_samples(numbers, layout, x, y) -> None:
    """Put samples x (n, d), y (n, k) in place of the old ones; not more than the kernel was built for."""
    n, d = x.shape
    chunk, targets = int(layout[CHUNK]), int(layout[TARGETS])
    labels = y.argmax(1)[:, None] if layout[LOSS] == losses.CODES["cross-entropy"] else y
    layout[SAMPLES] = n
    for start in range(0, n, chunk):
        stop = min(start + chunk, n)
        for samples, place, rows in ((x, layout[X] + start * d, d), (labels, layout[Y] + start * targets, targets)):
            size = rows * (stop - start)
            numbers[place : place + size].reshape(rows, stop - start)[:] = samples[start:stop].T
