"""Compiled passes through a network whose kinked units carry stored masks instead of comparing with zero."""

import math

import numpy as np
from numba import njit

OPTIONS = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "reassoc"}}

LINEAR, RELU, LEAKY, TANH, SIGMOID, SOFTPLUS, GELU, QUADRATIC, ABS, RELU_SQUARED = range(10)
SQUARE, EXPONENTIAL, LOGISTIC = range(3)


@njit(**OPTIONS)
def smooth(code, z):
    """Value and slope of a smooth activation."""
    if code == TANH:
        value = math.tanh(z)
        return value, 1.0 - value * value
    if code == SIGMOID or code == SOFTPLUS:
        small = math.exp(-abs(z))
        half = 1.0 / (1.0 + small)
        gate = half if z >= 0.0 else small * half
        if code == SIGMOID:
            return gate, small * half * half
        return max(z, 0.0) + math.log1p(small), gate
    if code == GELU:
        normal = 0.5 * math.erfc(-z * math.sqrt(0.5))
        return z * normal, normal + z * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    if code == QUADRATIC:
        return z * z, 2.0 * z
    if code == RELU_SQUARED:
        part = max(z, 0.0)
        return part * part, 2.0 * part
    return z, 1.0


@njit(**OPTIONS)
def kinked(code):
    """Whether an activation has a kink at 0."""
    return code == RELU or code == LEAKY or code == ABS


@njit(**OPTIONS)
def forward(theta, sigma, x, widths, codes, low, high, bias, weights_at, kinks_at, z, slope, h):
    """Fill pre-activations, slopes and values of the hidden layers; return the outputs."""
    n, before = x.shape[0], x
    for l in range(widths.size - 1):
        inputs, outputs = widths[l], widths[l + 1]
        at = weights_at[l]
        W = theta[at : at + inputs * outputs].reshape(outputs, inputs)
        result = np.dot(before, W.T)
        if bias:
            result += theta[at + inputs * outputs : at + inputs * outputs + outputs]
        if l == widths.size - 2:
            return result
        start, stop = kinks_at[l], kinks_at[l + 1]
        flat = result.ravel()
        if kinked(codes[l]):
            gap = high[l] - low[l]
            for i in range(stop - start):
                z[start + i] = flat[i]
                slope[start + i] = low[l] + gap * sigma[start + i]
                h[start + i] = slope[start + i] * flat[i]
        else:
            for i in range(stop - start):
                z[start + i] = flat[i]
                h[start + i], slope[start + i] = smooth(codes[l], flat[i])
        before = h[start:stop].reshape(n, outputs)
    return before


@njit(**OPTIONS)
def loss_slope(outputs, y, code, factor):
    """Loss, and its slope by the outputs (written over them)."""
    total = 0.0
    n, k = outputs.shape
    for i in range(n):
        if code == SQUARE:
            for c in range(k):
                gap = outputs[i, c] - y[i, c]
                total += gap * gap
                outputs[i, c] = 2.0 * factor * gap
        elif code == EXPONENTIAL:
            weight = math.exp(-y[i, 0] * outputs[i, 0])
            total += weight
            outputs[i, 0] = -factor * y[i, 0] * weight
        elif code == LOGISTIC:
            margin = y[i, 0] * outputs[i, 0]
            small = math.exp(-abs(margin))
            total += max(-margin, 0.0) + math.log1p(small)
            outputs[i, 0] = -factor * y[i, 0] * (small if margin >= 0.0 else 1.0) / (1.0 + small)
        else:
            top = outputs[i, 0]
            for c in range(1, k):
                top = max(top, outputs[i, c])
            norm = 0.0
            for c in range(k):
                total -= y[i, c] * (outputs[i, c] - top)
                outputs[i, c] = math.exp(outputs[i, c] - top)
                norm += outputs[i, c]
            total += math.log(norm)
            for c in range(k):
                outputs[i, c] = factor * (outputs[i, c] / norm - y[i, c])
    return factor * total


@njit(**OPTIONS)
def gradient(
    theta, sigma, x, y, widths, codes, low, high, bias, weights_at, kinks_at, loss, factor, decay,
    z, slope, h, delta, out,
):  # fmt: skip
    """Objective; fills pre-activations, slopes, values, adjoints of the values and the gradient under the masks."""
    n = x.shape[0]
    errors = forward(theta, sigma, x, widths, codes, low, high, bias, weights_at, kinks_at, z, slope, h)
    value = loss_slope(errors, y, loss, factor)
    for l in range(widths.size - 2, -1, -1):
        inputs, outputs = widths[l], widths[l + 1]
        at = weights_at[l]
        before = x if l == 0 else h[kinks_at[l - 1] : kinks_at[l]].reshape(n, inputs)
        out[at : at + inputs * outputs].reshape(outputs, inputs)[:, :] = np.dot(errors.T, before)
        if bias:
            for c in range(outputs):
                total = 0.0
                for i in range(n):
                    total += errors[i, c]
                out[at + inputs * outputs + c] = total
        if l > 0:
            adjoint = np.dot(errors, theta[at : at + inputs * outputs].reshape(outputs, inputs))
            flat, start = adjoint.ravel(), kinks_at[l - 1]
            for i in range(flat.size):
                delta[start + i] = flat[i]
                flat[i] *= slope[start + i]
            errors = adjoint
    if decay > 0.0:
        for p in range(theta.size):
            value += decay * theta[p] * theta[p]
            out[p] += 2.0 * decay * theta[p]
    return value


@njit(**OPTIONS)
def normals(theta, x, widths, bias, weights_at, kinks_at, slope, h, layers, samples, neurons, out):
    """Rows of `out`: gradient of the pre-activation of each kink by theta."""
    widest = widths.max()
    seed, lower = np.empty(widest), np.empty(widest)
    out[:] = 0.0
    for a in range(layers.size):
        l, i = layers[a], samples[a]
        seed[: widths[l + 1]] = 0.0
        seed[neurons[a]] = 1.0
        first, last = neurons[a], neurons[a] + 1
        while True:
            inputs, outputs, at = widths[l], widths[l + 1], weights_at[l]
            start = kinks_at[l - 1] + i * inputs if l > 0 else 0
            lower[:inputs] = 0.0
            for c in range(first, last):
                if seed[c] == 0.0:
                    continue
                for p in range(inputs):
                    value = x[i, p] if l == 0 else h[start + p]
                    out[a, at + c * inputs + p] = seed[c] * value
                    lower[p] += seed[c] * theta[at + c * inputs + p]
                if bias:
                    out[a, at + inputs * outputs + c] = seed[c]
            if l == 0:
                break
            for p in range(inputs):
                seed[p] = lower[p] * slope[start + p]
            first, last = 0, inputs
            l -= 1


@njit(**OPTIONS)
def project_rows(vector, rows, neurons, inputs, weights_at, bias_at):
    """Remove from the blocks (weights, bias) of the given neurons of the first layer the orthonormal rows."""
    for r in range(neurons.size):
        at, b = weights_at + neurons[r] * inputs, bias_at + neurons[r]
        total = 0.0
        for p in range(inputs):
            total += rows[r, p] * vector[at + p]
        if rows.shape[1] > inputs:
            total += rows[r, inputs] * vector[b]
        for p in range(inputs):
            vector[at + p] -= total * rows[r, p]
        if rows.shape[1] > inputs:
            vector[b] -= total * rows[r, inputs]


@njit(**OPTIONS)
def first_below_zero(bernstein, depth):
    """First x in [0, 1] from which a polynomial in Bernstein form is negative; 2 if it never is."""
    size = bernstein.size
    pieces = np.empty((depth + 2, size))
    ends = np.empty((depth + 2, 2))
    pieces[0], ends[0, 0], ends[0, 1] = bernstein, 0.0, 1.0
    top = 0
    while top >= 0:
        low, high = ends[top]
        if pieces[top, 0] < 0.0:
            return low
        least = pieces[top, 0]
        for p in range(1, size):
            least = min(least, pieces[top, p])
        if least >= 0.0:
            top -= 1
            continue
        middle = 0.5 * (low + high)
        if top == depth or not (low < middle < high):
            if pieces[top, size - 1] < 0.0:
                return high
            top -= 1
            continue
        right = pieces[top]
        left = pieces[top + 1]
        for level in range(size):
            left[level] = right[0]
            for p in range(size - 1 - level):
                right[p] = 0.5 * (right[p] + right[p + 1])
        ends[top, 0], ends[top, 1] = middle, high
        ends[top + 1, 0], ends[top + 1, 1] = low, middle
        top += 1
    return 2.0


@njit(**OPTIONS)
def suspects(bernstein, signs, slack, out):
    """Mark the columns (kinks with sign +-1; 0 is passed over) with a coefficient below -slack; return their number."""
    count = 0
    degree, size = bernstein.shape
    out[:] = False
    for p in range(degree):
        for a in range(size):
            if signs[a] * bernstein[p, a] < -slack:
                out[a] = True
    for a in range(size):
        count += out[a]
    return count


@njit(**OPTIONS)
def cholesky_solution(gram, right, least, out):
    """Solve gram out = right after scaling to unit diagonal; False if a pivot falls below `least` (dependent rows)."""
    m = right.size
    factor, scale = np.empty((m, m)), np.empty(m)
    for a in range(m):
        if not gram[a, a] > 0.0:
            return False
        scale[a] = 1.0 / math.sqrt(gram[a, a])
    for a in range(m):
        for b in range(a + 1):
            total = gram[a, b] * scale[a] * scale[b]
            for c in range(b):
                total -= factor[a, c] * factor[b, c]
            if b < a:
                factor[a, b] = total / factor[b, b]
            elif not total > least:
                return False
            else:
                factor[a, a] = math.sqrt(total)
    for a in range(m):
        total = right[a] * scale[a]
        for c in range(a):
            total -= factor[a, c] * out[c]
        out[a] = total / factor[a, a]
    for a in range(m - 1, -1, -1):
        total = out[a]
        for c in range(a + 1, m):
            total -= factor[c, a] * out[c]
        out[a] = total / factor[a, a]
    for a in range(m):
        out[a] *= scale[a]
    return True
