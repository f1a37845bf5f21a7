"""Losses with their first and second derivatives in the outputs.

Outputs, targets and derivatives are vectors: all samples of output 1, then all of output 2, and so on. The target of
cross-entropy is one class number per sample. Margins of any size keep their relative accuracy.
"""

import math

from numba import njit, types

from gradflow.kernels.elementwise import exponentials, logarithms_of_one_plus
from gradflow.kernels.log_domain_terms import LOG_DOMAIN, differentiate_log, differentiate_log_twice
from gradflow.kernels.procedures import OPTIONS, address_of, procedure, view
from gradflow.losses import CODES

SQUARE, EXPONENTIAL, LOGISTIC = CODES["square"], CODES["exponential"], CODES["logistic"]
CROSS_ENTROPY = CODES["cross-entropy"]
SPARE_PER_SAMPLE = 3
INT, FLOAT = types.int64, types.float64


@njit(**OPTIONS)
def _square(factor, f, y, d):
    total = 0.0
    for i in range(f.size):
        residual = f[i] - y[i]
        total += residual * residual
        d[i] = 2.0 * factor * residual
    return factor * total


@njit(**OPTIONS)
def _exponential(factor, f, y, d):
    for i in range(f.size):
        d[i] = -y[i] * f[i]
    exponentials(f.size, address_of(d))
    total = 0.0
    for i in range(f.size):
        total += d[i]
        d[i] *= -factor * y[i]
    return factor * total


@njit(**OPTIONS)
def _logistic(factor, f, y, d, e, log):
    for i in range(f.size):
        e[i] = -abs(f[i])
    exponentials(f.size, address_of(e))
    logarithms_of_one_plus(f.size, address_of(e), address_of(log))
    total = 0.0
    for i in range(f.size):
        margin = y[i] * f[i]
        total += log[i] + (0.0 if margin > 0.0 else -margin)
        d[i] = -factor * y[i] * (e[i] if margin > 0.0 else 1.0) / (1.0 + e[i])
    return factor * total


@procedure(FLOAT(FLOAT, INT, INT, INT, INT, INT, INT))
def _cross_entropy(factor, n, classes, f, label, d, spare):
    """Through f_j - f_label, so that the sum over the other classes never meets the 1 of the label."""
    own, top, total = view(spare, n), view(spare + 8 * n, n), view(spare + 16 * n, n)
    f, d, label = view(f, classes * n), view(d, classes * n), view(label, n)
    for i in range(n):
        own[i] = f[int(label[i]) * n + i]
        top[i] = total[i] = 0.0
    for j in range(classes):
        row = f[j * n : (j + 1) * n]
        for i in range(n):
            top[i] = top[i] if row[i] - own[i] <= top[i] else row[i] - own[i]
    for j in range(classes):
        row, out = f[j * n : (j + 1) * n], d[j * n : (j + 1) * n]
        for i in range(n):
            out[i] = (row[i] - own[i]) - top[i]
    exponentials(f.size, address_of(d))
    for j in range(classes):
        out = d[j * n : (j + 1) * n]
        for i in range(n):
            out[i] = 0.0 if label[i] == j else out[i]
            total[i] += out[i]
            own[i] = -top[i]
    exponentials(n, address_of(own))
    value = 0.0
    for i in range(n):
        excess = total[i] if top[i] == 0.0 else (total[i] - 1.0) + own[i]
        value += top[i] + math.log1p(excess)
        top[i] = factor / (own[i] + total[i])
        own[i] = own[i] * top[i] / factor
    for j in range(classes):
        out = d[j * n : (j + 1) * n]
        for i in range(n):
            out[i] = (-total[i] if label[i] == j else out[i]) * top[i]
    return factor * value


@procedure(FLOAT(INT, FLOAT, INT, INT, INT, INT, INT, INT))
def differentiate(code, factor, n, outputs, f, y, d, spare):
    """Loss of the outputs f; d = its derivative in f; spare keeps what `differentiate_twice` needs."""
    if code >= LOG_DOMAIN:
        return differentiate_log(code - LOG_DOMAIN, factor, n, outputs, f, y, d, spare)
    if code == CROSS_ENTROPY:
        return _cross_entropy(factor, n, outputs, f, y, d, spare)
    size = outputs * n
    f, d, y = view(f, size), view(d, size), view(y, size)
    if code == SQUARE:
        return _square(factor, f, y, d)
    if code == EXPONENTIAL:
        return _exponential(factor, f, y, d)
    return _logistic(factor, f, y, d, view(spare, n), view(spare + 8 * n, n))


@procedure(types.void(FLOAT, INT, INT, INT, INT, INT, INT, INT))
def _cross_entropy_twice(factor, n, classes, label, d, df, out, spare):
    """From d_j = factor p_j of the other classes, and rest = p of the label."""
    rest, own, mean = view(spare, n), view(spare + 8 * n, n), view(spare + 16 * n, n)
    d, df, out, label = view(d, classes * n), view(df, classes * n), view(out, classes * n), view(label, n)
    for i in range(n):
        own[i] = df[int(label[i]) * n + i]
        mean[i] = 0.0
    for j in range(classes):
        row, weight = df[j * n : (j + 1) * n], d[j * n : (j + 1) * n]
        for i in range(n):
            mean[i] += (row[i] - own[i]) * (0.0 if label[i] == j else weight[i])
    for j in range(classes):
        row, weight, result = df[j * n : (j + 1) * n], d[j * n : (j + 1) * n], out[j * n : (j + 1) * n]
        for i in range(n):
            other = weight[i] * ((row[i] - own[i]) - mean[i] / factor)
            result[i] = -mean[i] * rest[i] if label[i] == j else other


@procedure(types.void(INT, FLOAT, INT, INT, INT, INT, INT, INT, INT))
def differentiate_twice(code, factor, n, outputs, y, d, df, out, spare):
    """out = second derivative of the loss times df; d and spare as `differentiate` left them."""
    if code >= LOG_DOMAIN:
        differentiate_log_twice(code - LOG_DOMAIN, factor, n, outputs, y, d, df, out, spare)
        return
    if code == CROSS_ENTROPY:
        _cross_entropy_twice(factor, n, outputs, y, d, df, out, spare)
        return
    size = outputs * n
    d, df, out, y, spare = view(d, size), view(df, size), view(out, size), view(y, size), view(spare, n)
    if code == SQUARE:
        for i in range(size):
            out[i] = 2.0 * factor * df[i]
    elif code == EXPONENTIAL:
        for i in range(size):
            out[i] = -y[i] * d[i] * df[i]
    else:
        for i in range(size):
            out[i] = factor * spare[i] / ((1.0 + spare[i]) * (1.0 + spare[i])) * df[i]
