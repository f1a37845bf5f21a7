"""Compiled passes through a network whose kinked units carry stored masks instead of comparing with zero.

`layout` holds sizes and places, `numbers` the slopes on both sides of each layer's kinks and the data. `units` has four
rows, one number per hidden unit and sample: pre-activations, slopes, values, adjoints of the values. Procedures know
their arrays by address.
"""

import math

import numpy as np
from numba import njit, types

from gradflow.activations import CODES
from gradflow.kernels.elementwise import activate, exponentials
from gradflow.kernels.entries import entry
from gradflow.kernels.matrices import add_penalty, multiply, multiply_nt, multiply_tn
from gradflow.kernels.procedures import OPTIONS, address_of, integers, integers_at, keep, numbers_at, procedure
from gradflow.kernels.sums import add_rows

SAMPLES, DEPTH, LOSS, BIAS, UNITS, SIZE, X, Y, HEAD = range(9)
INPUTS, OUTPUTS, CODE, WEIGHT, UNIT, LAYER = range(6)
FACTOR, DECAY, SLOPES = range(3)
SQUARE, EXPONENTIAL, LOGISTIC = range(3)
LANES, SHORT = 8, 64
LINEAR, RELU, LEAKY, ABS = (CODES[name] for name in ("linear", "relu", "leaky_relu", "abs"))
INT, FLOAT = types.int64, types.float64


@njit(**OPTIONS)
def _row(layout, l):
    """Entries of the layout that belong to a layer."""
    return integers_at(layout + 8 * (HEAD + LAYER * l))


@njit(**OPTIONS)
def _hidden(count, code, low, gap, sigma, z, slope, h):
    """Slopes and values of one hidden layer."""
    smooth = code != LINEAR and code != RELU and code != LEAKY and code != ABS
    if smooth:
        activate(code, low, count, z, h, slope)
        return
    sigma, z, slope, h = numbers_at(sigma), numbers_at(z), numbers_at(slope), numbers_at(h)
    for i in range(count):
        slope[i] = low + gap * sigma[i]
        h[i] = slope[i] * z[i]


@procedure(integers(6))
def multiply_rows(n, width, inputs, below, weight, z):
    """z (n, width) = below (n, inputs) times weight (width, inputs) transposed; short rows are turned first."""
    if width < LANES or inputs > SHORT:
        multiply_nt(n, width, inputs, below, weight, z, 0, 0, 0)
        return
    turned, given = np.empty(inputs * width), numbers_at(weight)
    for c in range(width):
        for p in range(inputs):
            turned[p * width + c] = given[c * inputs + p]
    multiply(n, width, inputs, below, address_of(turned), z, 0, 0, 0)
    keep(turned)


@procedure(integers(6))
def pass_forward(layout, numbers, theta, sigma, units, outputs):
    """Fill pre-activations, slopes and values of the hidden layers, and the outputs, unless their address is 0."""
    head = integers_at(layout)
    n, depth, size = head[SAMPLES], head[DEPTH], 8 * head[UNITS]
    below = numbers + 8 * head[X]
    for l in range(depth if outputs else depth - 1):
        row = _row(layout, l)
        width, inputs, weight = row[OUTPUTS], row[INPUTS], theta + 8 * row[WEIGHT]
        z = units + 8 * row[UNIT] if l < depth - 1 else outputs
        multiply_rows(n, width, inputs, below, weight, z)
        if head[BIAS]:
            block, bias = numbers_at(z), numbers_at(weight + 8 * width * inputs)
            for i in range(n):
                for c in range(width):
                    block[i * width + c] += bias[c]
        if l < depth - 1:
            slopes, h = numbers_at(numbers + 8 * (SLOPES + 2 * l)), z + 2 * size
            _hidden(n * width, row[CODE], slopes[0], slopes[1], sigma + 8 * row[UNIT], z, z + size, h)
            below = h


@procedure(FLOAT(INT, INT, INT, FLOAT))
def negative_from(bernstein, size, depth, end):
    """First x in [0, 1] from which a polynomial in Bernstein form is negative; 2 if it is not up to `end`."""
    pieces, begins, ends, top = np.empty((depth + 2) * size), np.empty(depth + 2), np.empty(depth + 2), 0
    given = numbers_at(bernstein)
    for p in range(size):
        pieces[p] = given[p]
    begins[0], ends[0] = 0.0, 1.0
    while top >= 0:
        low, high, own = begins[top], ends[top], top * size
        if low > end:
            break
        if pieces[own] < 0.0:
            return low
        least = pieces[own]
        for p in range(own + 1, own + size):
            least = min(least, pieces[p])
        if least >= 0.0:
            top -= 1
            continue
        middle = 0.5 * (low + high)
        if top == depth or not (low < middle < high):
            if pieces[own + size - 1] < 0.0:
                return high
            top -= 1
            continue
        for level in range(size):
            pieces[own + size + level] = pieces[own]
            for p in range(own, own + size - 1 - level):
                pieces[p] = 0.5 * (pieces[p] + pieces[p + 1])
        begins[top], ends[top], begins[top + 1], ends[top + 1] = middle, high, low, middle
        top += 1
    return 2.0


@entry("f8(f8[::1], i8)")
def first_below_zero(bernstein, depth):
    """First x in [0, 1] from which a polynomial in Bernstein form is negative; 2 if it never is."""
    return negative_from(address_of(bernstein), bernstein.size, depth, 1.0)


@njit(**OPTIONS)
def _loss_slope(n, k, outputs, y, code, factor):
    """Loss, and its slope by the outputs (written over them)."""
    size, total = n * k, 0.0
    f, y = numbers_at(outputs), numbers_at(y)
    if code == SQUARE:
        for i in range(size):
            gap = f[i] - y[i]
            total += gap * gap
            f[i] = 2.0 * factor * gap
    elif code == EXPONENTIAL:
        for i in range(size):
            f[i] = -y[i] * f[i]
        exponentials(size, outputs)
        for i in range(size):
            total += f[i]
            f[i] *= -factor * y[i]
    elif code == LOGISTIC:
        for i in range(size):
            margin = y[i] * f[i]
            small = math.exp(-abs(margin))
            total += max(-margin, 0.0) + math.log1p(small)
            f[i] = -factor * y[i] * (small if margin >= 0.0 else 1.0) / (1.0 + small)
    else:
        for i in range(0, size, k):
            top = f[i]
            for c in range(1, k):
                top = max(top, f[i + c])
            for c in range(k):
                f[i + c] -= top
                total -= y[i + c] * f[i + c]
        exponentials(size, outputs)
        for i in range(0, size, k):
            norm = 0.0
            for c in range(k):
                norm += f[i + c]
            total += math.log(norm)
            for c in range(k):
                f[i + c] = factor * (f[i + c] / norm - y[i + c])
    return factor * total


@procedure(types.float64(*[types.int64] * 6))
def pass_gradient(layout, numbers, theta, sigma, units, out):
    """Objective; fills `units` and the gradient under the masks."""
    head = integers_at(layout)
    n, depth, size = head[SAMPLES], head[DEPTH], 8 * head[UNITS]
    last = _row(layout, depth - 1)
    widest = last[OUTPUTS]
    for l in range(depth - 1):
        widest = max(widest, _row(layout, l)[OUTPUTS])
    spare = np.empty(n * widest)
    errors = address_of(spare)
    pass_forward(layout, numbers, theta, sigma, units, errors)
    data = numbers_at(numbers)
    value = _loss_slope(n, last[OUTPUTS], errors, numbers + 8 * head[Y], head[LOSS], data[FACTOR])
    for l in range(depth - 1, -1, -1):
        row = _row(layout, l)
        width, inputs, weight, result = row[OUTPUTS], row[INPUTS], theta + 8 * row[WEIGHT], out + 8 * row[WEIGHT]
        h = units + 2 * size + 8 * _row(layout, l - 1)[UNIT] if l > 0 else numbers + 8 * head[X]
        multiply_tn(width, inputs, n, errors, h, result, 0, 0, 0)
        if head[BIAS]:
            block, bias = numbers_at(errors), numbers_at(result + 8 * width * inputs)
            for c in range(width):
                bias[c] = 0.0
            for i in range(n):
                for c in range(width):
                    bias[c] += block[i * width + c]
        if l > 0:
            delta, slope = numbers_at(h + size), numbers_at(h - size)
            multiply(n, inputs, width, errors, weight, h + size, 0, 0, 0)
            block = numbers_at(address_of(spare))
            for i in range(n * inputs):
                block[i] = delta[i] * slope[i]
    keep(spare)
    return value + add_penalty(head[SIZE], data[DECAY], theta, theta, out)


@procedure(integers(8))
def pass_normals(layout, numbers, theta, slope, h, count, kinks, out):
    """Rows of `out`: gradient of the pre-activation of each kink by theta."""
    head = integers_at(layout)
    bias, widest = head[BIAS], 0
    parameters, data = numbers_at(theta), numbers_at(numbers + 8 * head[X])
    slope, h, kinks = numbers_at(slope), numbers_at(h), integers_at(kinks)
    for l in range(head[DEPTH]):
        widest = max(widest, max(_row(layout, l)[INPUTS], _row(layout, l)[OUTPUTS]))
    seed, lower = np.empty(widest), np.empty(widest)
    for a in range(count):
        target, l = numbers_at(out + 8 * a * head[SIZE]), head[DEPTH] - 2
        for p in range(head[SIZE]):
            target[p] = 0.0
        while kinks[a] < _row(layout, l)[UNIT]:
            l -= 1
        place = kinks[a] - _row(layout, l)[UNIT]
        i, first = place // _row(layout, l)[OUTPUTS], place % _row(layout, l)[OUTPUTS]
        last = first + 1
        seed[first] = 1.0
        while True:
            row = _row(layout, l)
            inputs, outputs, at = row[INPUTS], row[OUTPUTS], row[WEIGHT]
            start = i * inputs + (_row(layout, l - 1)[UNIT] if l > 0 else 0)
            below = data if l == 0 else h
            for p in range(inputs):
                lower[p] = 0.0
            for c in range(first, last):
                if seed[c] == 0.0:
                    continue
                for p in range(inputs):
                    target[at + c * inputs + p] = seed[c] * below[start + p]
                    lower[p] += seed[c] * parameters[at + c * inputs + p]
                if bias:
                    target[at + inputs * outputs + c] = seed[c]
            if l == 0:
                break
            for p in range(inputs):
                seed[p] = lower[p] * slope[start + p]
            first, last = 0, inputs
            l -= 1


@procedure(INT(INT, INT, FLOAT, INT, INT))
def factor_cholesky(m, gram, least, factor, scale):
    """Upper factor of a Gram matrix scaled to unit diagonal; 0 if a pivot falls below `least` (dependent rows)."""
    gram, upper, scale = numbers_at(gram), numbers_at(factor), numbers_at(scale)
    places, above, row, found = np.arange(m), np.empty(m), np.empty(m), 1
    for a in range(m):
        if not gram[a * m + a] > 0.0:
            return 0
        scale[a] = 1.0 / math.sqrt(gram[a * m + a])
    for a in range(m):
        for b in range(a):
            above[b] = upper[b * m + a]
        for c in range(m):
            row[c] = gram[a * m + c] * scale[a] * scale[c]
        first = max(min(a, m - 8), 0)
        target = factor + 8 * (a * m + first)
        add_rows(
            m - first, a, address_of(above), address_of(places), factor + 8 * first, m, address_of(row) + 8 * first,
            target, -1.0,
        )  # fmt: skip
        if not upper[a * m + a] > least:
            found = 0
            break
        root = 1.0 / math.sqrt(upper[a * m + a])
        for c in range(first, m):
            upper[a * m + c] *= root
    keep(places)
    keep(above)
    keep(row)
    return found


@procedure(FLOAT(INT, INT, INT, INT, INT))
def solve_factored(m, factor, scale, right, out):
    """Solve gram out = right; returns right' out."""
    scale, right, out, square = numbers_at(scale), numbers_at(right), numbers_at(out), 0.0
    for a in range(m):
        out[a] = right[a] * scale[a]
    for a in range(m):
        own = numbers_at(factor + 8 * a * m)
        out[a] /= own[a]
        share = out[a]
        square += share * share
        for c in range(a + 1, m):
            out[c] -= share * own[c]
    for a in range(m - 1, -1, -1):
        own, total = numbers_at(factor + 8 * a * m), out[a]
        for c in range(a + 1, m):
            total -= own[c] * out[c]
        out[a] = total / own[a]
    for a in range(m):
        out[a] *= scale[a]
    return square


@procedure(INT(INT, INT, INT, FLOAT, INT))
def solve_cholesky(m, gram, right, least, out):
    """Solve gram out = right after scaling to unit diagonal; 0 if a pivot falls below `least` (dependent rows)."""
    factor, scale = np.empty(m * m), np.empty(m)
    rows, sizes = address_of(factor), address_of(scale)
    independent = factor_cholesky(m, gram, least, rows, sizes)
    if independent:
        solve_factored(m, rows, sizes, right, out)
    keep(factor)
    keep(scale)
    return independent


@procedure(integers(7))
def remove_rows(vector, rows, neurons, count, inputs, length, bias_at):
    """Remove from the blocks (weights, bias) of the given neurons of the first layer the orthonormal rows."""
    neurons = integers_at(neurons)
    for r in range(count):
        block, row = numbers_at(vector + 8 * neurons[r] * inputs), numbers_at(rows + 8 * r * length)
        bias, total = numbers_at(vector + 8 * (bias_at + neurons[r])), 0.0
        for p in range(inputs):
            total += row[p] * block[p]
        if length > inputs:
            total += row[inputs] * bias[0]
            bias[0] -= total * row[inputs]
        for p in range(inputs):
            block[p] -= total * row[p]


@entry("void(f8[::1], f8[::1], i8[::1], f8[::1], f8[:, ::1])")
def forward(theta, sigma, layout, numbers, units):
    """Fill pre-activations, slopes and values."""
    pass_forward(address_of(layout), address_of(numbers), address_of(theta), address_of(sigma), address_of(units), 0)


@entry("void(i8, f8, f8, f8[::1], f8[::1], f8[::1], f8[::1])")
def activated(code, low, gap, sigma, z, slope, h):
    """Fill slopes and values of one hidden layer."""
    _hidden(z.size, code, low, gap, address_of(sigma), address_of(z), address_of(slope), address_of(h))


@entry("f8(f8[:, ::1], f8[::1], i8, f8)")
def loss_slope(outputs, y, code, factor):
    """Loss of outputs (n, k), which its slopes replace."""
    n, k = outputs.shape
    return _loss_slope(n, k, address_of(outputs), address_of(y), code, factor)


@entry("f8(f8[::1], f8[::1], i8[::1], f8[::1], f8[:, ::1], f8[::1])")
def gradient(theta, sigma, layout, numbers, units, out):
    """Objective; fills `units` and the gradient under the masks."""
    return pass_gradient(
        address_of(layout), address_of(numbers), address_of(theta), address_of(sigma), address_of(units),
        address_of(out),
    )  # fmt: skip


@entry("void(f8[::1], i8[::1], f8[::1], f8[::1], f8[::1], i8[::1], f8[:, ::1])")
def normals(theta, layout, numbers, slope, h, kinks, out):
    """Rows of `out`: gradient of the pre-activation of each kink by theta."""
    pass_normals(
        address_of(layout), address_of(numbers), address_of(theta), address_of(slope), address_of(h), kinks.size,
        address_of(kinks), address_of(out),
    )  # fmt: skip


@entry("b1(f8[:, ::1], f8[::1], f8, f8[::1])")
def cholesky_solution(gram, right, least, out):
    """Solve gram out = right after scaling to unit diagonal; False if a pivot falls below `least` (dependent rows)."""
    return solve_cholesky(right.size, address_of(gram), address_of(right), least, address_of(out)) == 1


@entry("void(f8[::1], f8[:, ::1], i8[::1], i8, i8)")
def project_rows(vector, rows, neurons, inputs, bias_at):
    """Remove from the blocks (weights, bias) of the given neurons of the first layer the orthonormal rows."""
    remove_rows(address_of(vector), address_of(rows), address_of(neurons), neurons.size, inputs, rows.shape[1], bias_at)


@entry("void(f8[:, ::1], f8[::1], i8[:, ::1], f8[::1])")
def row_products(rows, vector, entries, out):
    """Inner product of each row with the entries of a vector that belong to it."""
    for a in range(out.size):
        total = 0.0
        for p in range(rows.shape[1]):
            total += rows[a, p] * vector[entries[a, p]]
        out[a] = total
