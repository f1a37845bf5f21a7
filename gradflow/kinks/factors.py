r"""Normals of kinks as products, layer by layer: never written out, since their Gram matrix needs only the factors.

The gradient of the pre-activation of kink a, with sample i, by the weights of layer l is :math:`s_a\,h_i^T`: s the
slopes by the layer's own pre-activations, h the values below, with 1 appended if there are biases. Hence
:math:`n_a\cdot n_b = \sum_l (s_a\cdot s_b)(h_a\cdot h_b)`. `room` holds s (outputs, count) and h (inputs, count) of
each layer, from the first to that of the highest kink.
"""

import numpy as np
from numba import njit, types

from gradflow.kernels.matrices import multiply, multiply_nt, multiply_tn
from gradflow.kernels.procedures import OPTIONS, address_of, integers_at, keep, numbers_at, procedure
from gradflow.kinks.passes import BIAS, DEPTH, HEAD, INPUTS, LAYER, OUTPUTS, UNIT, UNITS, WEIGHT, X

INT, FLOAT = types.int64, types.float64


@njit(**OPTIONS)
def _row(layout, l):
    """Entries of the layout that belong to a layer."""
    return integers_at(layout + 8 * (HEAD + LAYER * l))


@njit(**OPTIONS)
def _layer_of(layout, kink):
    """Layer of a kink."""
    l = integers_at(layout)[DEPTH] - 2
    while kink < _row(layout, l)[UNIT]:
        l -= 1
    return l


@njit(**OPTIONS)
def _top(layout, count, kinks):
    """Layer of the highest kink."""
    kinks, most = integers_at(kinks), 0
    for a in range(count):
        most = max(most, kinks[a])
    return _layer_of(layout, most)


@njit(**OPTIONS)
def room_for(layout, count):
    """Numbers that the factors of some kinks need."""
    total = 0
    for l in range(integers_at(layout)[DEPTH] - 1):
        total += _row(layout, l)[OUTPUTS] + _row(layout, l)[INPUTS]
    return total * count


@njit(**OPTIONS)
def _next(layout, l, count, room):
    """Where the factors of the next layer begin."""
    return room + 8 * count * (_row(layout, l)[OUTPUTS] + _row(layout, l)[INPUTS])


@procedure(INT(*[INT] * 7))
def factor_normals(layout, numbers, theta, units, count, kinks, room):
    """Fill the room from slopes and values in `units`; returns the layer of the highest kink."""
    head, top = integers_at(layout), _top(layout, count, kinks)
    size, names = 8 * head[UNITS], integers_at(kinks)
    samples, layers, place = np.empty(count, np.int64), np.empty(count, np.int64), room
    for a in range(count):
        layers[a] = _layer_of(layout, names[a])
        row = _row(layout, layers[a])
        samples[a] = (names[a] - row[UNIT]) // row[OUTPUTS]
    for l in range(top):
        place = _next(layout, l, count, place)
    for l in range(top, -1, -1):
        row = _row(layout, l)
        inputs, outputs = row[INPUTS], row[OUTPUTS]
        own, heads = numbers_at(place), numbers_at(place + 8 * count * outputs)
        for i in range(count * outputs if l == top else 0):
            own[i] = 0.0
        for a in range(count):
            if layers[a] == l:
                own[(names[a] - row[UNIT] - samples[a] * outputs) * count + a] = 1.0
        values = numbers + 8 * head[X] if l == 0 else units + 2 * size + 8 * _row(layout, l - 1)[UNIT]
        values = numbers_at(values)
        for p in range(inputs):
            for a in range(count):
                heads[p * count + a] = values[samples[a] * inputs + p]
        if l > 0:
            below = place - 8 * count * (_row(layout, l - 1)[OUTPUTS] + _row(layout, l - 1)[INPUTS])
            multiply_tn(inputs, count, outputs, theta + 8 * row[WEIGHT], place, below, 0, 0, 0)
            lower, slopes = numbers_at(below), numbers_at(units + size + 8 * _row(layout, l - 1)[UNIT])
            for p in range(inputs):
                for a in range(count):
                    lower[p * count + a] *= slopes[samples[a] * inputs + p]
            place = below
    return top


@procedure(INT(*[INT] * 5))
def gram_of(layout, count, top, room, gram):
    """Inner products of the normals."""
    square, bias = count * count, float(integers_at(layout)[BIAS])
    spare, total, place = np.empty(2 * square), numbers_at(gram), room
    first, second = numbers_at(address_of(spare)), numbers_at(address_of(spare) + 8 * square)
    for i in range(square):
        total[i] = 0.0
    for l in range(top + 1):
        row = _row(layout, l)
        heads = place + 8 * count * row[OUTPUTS]
        multiply_tn(count, count, row[OUTPUTS], place, place, address_of(spare), 0, 0, 0)
        multiply_tn(count, count, row[INPUTS], heads, heads, address_of(spare) + 8 * square, 0, 0, 0)
        for i in range(square):
            total[i] += first[i] * (second[i] + bias)
        place = _next(layout, l, count, place)
    keep(spare)
    return 0


@procedure(INT(*[INT] * 6))
def along_normals(layout, count, top, room, vector, out):
    """Inner products of the normals with a vector of the size of theta."""
    found, bias, place = numbers_at(out), integers_at(layout)[BIAS], room
    for a in range(count):
        found[a] = 0.0
    for l in range(top + 1):
        row = _row(layout, l)
        inputs, outputs, block = row[INPUTS], row[OUTPUTS], vector + 8 * row[WEIGHT]
        turned, own = np.empty(count * outputs), numbers_at(place)
        multiply(outputs, count, inputs, block, place + 8 * count * outputs, address_of(turned), 0, 0, 0)
        shifts = numbers_at(block + 8 * outputs * inputs)
        for c in range(outputs):
            shift = shifts[c] if bias else 0.0
            for a in range(count):
                found[a] += own[c * count + a] * (turned[c * count + a] + shift)
        keep(turned)
        place = _next(layout, l, count, place)
    return 0


@procedure(INT(*[INT] * 6))
def remove_normals(layout, count, top, room, weights, vector):
    """Vector minus the weighted sum of the normals."""
    weights, bias, place = numbers_at(weights), integers_at(layout)[BIAS], room
    for l in range(top + 1):
        row = _row(layout, l)
        inputs, outputs, block = row[INPUTS], row[OUTPUTS], vector + 8 * row[WEIGHT]
        scaled, sums, own = np.empty(count * outputs), np.empty(outputs * inputs), numbers_at(place)
        for c in range(outputs):
            for a in range(count):
                scaled[c * count + a] = weights[a] * own[c * count + a]
        heads = place + 8 * count * outputs
        multiply_nt(outputs, inputs, count, address_of(scaled), heads, address_of(sums), 0, 0, 0)
        target = numbers_at(block)
        for i in range(outputs * inputs):
            target[i] -= sums[i]
        if bias:
            shift = numbers_at(block + 8 * outputs * inputs)
            for c in range(outputs):
                total = 0.0
                for a in range(count):
                    total += scaled[c * count + a]
                shift[c] -= total
        keep(scaled)
        keep(sums)
        place = _next(layout, l, count, place)
    return 0
