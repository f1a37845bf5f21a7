r"""Logarithm of a loss with its first and second derivatives in the outputs: no sum of tiny numbers is ever formed.

From the per-sample :math:`\lambda_i = \log \ell_i`: :math:`\log L = \log c + \mathrm{logsumexp}\,\lambda`, with softmax
weights p and :math:`\nabla \log L = \sum_i p_i \nabla\lambda_i`. Vectors are laid out as in `loss_terms`.
"""

import math

from numba import njit, types

from gradflow.kernels.elementwise import exponentials
from gradflow.kernels.procedures import EXACT, OPTIONS, address_of, procedure, view
from gradflow.losses import CODES

SQUARE, EXPONENTIAL, LOGISTIC = CODES["square"], CODES["exponential"], CODES["logistic"]
CROSS_ENTROPY = CODES["cross-entropy"]
LOG_DOMAIN = 8
"""Added to the code of a loss: its logarithm is meant."""

LARGE_MARGIN = 30.0
NEGLIGIBLE = 1e-290
"""Weight of a sample below which quotients by it are left out: its reciprocal could overflow."""
INT, FLOAT = types.int64, types.float64


@njit(**EXACT)
def _square(factor, f, y, d, spare):
    """Through the largest residual, so that no square underflows; spare[0] becomes 2 over the sum of squares."""
    top = 0.0
    for i in range(f.size):
        d[i] = f[i] - y[i]
        top = top if abs(d[i]) <= top else abs(d[i])
    if top == 0.0:
        spare[0] = spare[1] = 0.0
        return -math.inf
    total = 0.0
    for i in range(f.size):
        total += (d[i] / top) * (d[i] / top)
    for i in range(f.size):
        d[i] = 2.0 * (d[i] / top) / total / top
    spare[0], spare[1] = 2.0 / total / top, top
    return math.log(factor * total) + 2.0 * math.log(top)


@njit(**OPTIONS)
def _logistic_slopes(margin, slope, bend):
    """Margins become log log(1 + e^-m); the first and second derivatives in m."""
    for i in range(margin.size):
        m = margin[i]
        if m > LARGE_MARGIN:
            half = 0.5 * math.exp(-m)
            margin[i], slope[i], bend[i] = -m - half, half - 1.0, -half
        else:
            e = math.exp(-abs(m))
            loss = math.log1p(e) + (0.0 if m > 0.0 else -m)
            wrong, right = (e if m > 0.0 else 1.0) / (1.0 + e), (1.0 if m > 0.0 else e) / (1.0 + e)
            margin[i], slope[i] = math.log(loss), -wrong / loss
            bend[i] = wrong / loss * (right - wrong / loss)


@njit(**OPTIONS)
def _soft_margins(n, f, label, d, margin):
    """margin = -logsumexp of f_k - f_label over the other classes; d = softmax of those, 0 at the label."""
    classes = f.size // n
    for i in range(n):
        own, top = f[int(label[i]) * n + i], -math.inf
        for j in range(classes):
            if j != label[i]:
                gap = f[j * n + i] - own
                top = top if gap <= top else gap
        total = 0.0
        for j in range(classes):
            d[j * n + i] = 0.0 if j == label[i] else math.exp((f[j * n + i] - own) - top)
            total += d[j * n + i]
        for j in range(classes):
            d[j * n + i] /= total
        margin[i] = -(top + math.log(total))


@njit(**OPTIONS)
def _weights(factor, p):
    """Softmax of p in its own place; log of factor times the sum of exponentials."""
    top = -math.inf
    for i in range(p.size):
        top = top if p[i] <= top else p[i]
    for i in range(p.size):
        p[i] -= top
    exponentials(p.size, address_of(p))
    total = 0.0
    for i in range(p.size):
        total += p[i]
    for i in range(p.size):
        p[i] /= total
    return top + math.log(factor * total)


@procedure(FLOAT(INT, FLOAT, INT, INT, INT, INT, INT, INT))
def differentiate_log(code, factor, n, outputs, f, y, d, spare):
    """Log of the loss of the outputs f; d = its derivative in f; spare keeps what `differentiate_log_twice` needs."""
    size = outputs * n
    f, d, y = view(f, size), view(d, size), view(y, n if code == CROSS_ENTROPY else size)
    spare = view(spare, 3 * n)
    p, slope, bend = spare[:n], spare[n : 2 * n], spare[2 * n : 3 * n]
    if code == SQUARE:
        return _square(factor, f, y, d, spare)
    if code == CROSS_ENTROPY:
        _soft_margins(n, f, y, d, p)
    else:
        for i in range(n):
            p[i] = y[i] * f[i]
    if code == EXPONENTIAL:
        for i in range(n):
            p[i], slope[i], bend[i] = -p[i], -1.0, 0.0
    else:
        _logistic_slopes(p, slope, bend)
    value = _weights(factor, p)
    if code == CROSS_ENTROPY:
        for j in range(outputs):
            for i in range(n):
                weight = p[i] * slope[i]
                d[j * n + i] = weight if y[i] == j else -weight * d[j * n + i]
    else:
        for i in range(n):
            d[i] = p[i] * slope[i] * y[i]
    return value


@njit(**EXACT)
def _square_twice(d, df, out, inverse, top):
    """2 df / S - d (d . df), with S = the sum of squares."""
    along = 0.0
    for i in range(d.size):
        along += (d[i] * top) * df[i]
    for i in range(d.size):
        out[i] = (inverse * df[i] - d[i] * along) / top if top > 0.0 else 0.0


@njit(**OPTIONS)
def _change_of_weights(moved, p, slope, bend):
    """Change of p slope where the margins change by `moved`, in place."""
    mean = 0.0
    for i in range(moved.size):
        mean += p[i] * slope[i] * moved[i]
    for i in range(moved.size):
        moved[i] = p[i] * (bend[i] * moved[i] + slope[i] * (slope[i] * moved[i] - mean))


@njit(**OPTIONS)
def _cross_entropy_twice(n, label, d, df, out, p, slope, bend):
    """Through the changes of the soft margins, of which d_j / d_label are the derivatives."""
    classes = d.size // n
    moved = out[:n]
    for i in range(n):
        own, weight = df[int(label[i]) * n + i], d[int(label[i]) * n + i]
        moved[i] = 0.0
        for j in range(classes):
            if j != label[i] and -weight > NEGLIGIBLE:
                moved[i] += d[j * n + i] / weight * (df[j * n + i] - own)
    mean = 0.0
    for i in range(n):
        mean += p[i] * slope[i] * moved[i]
    for i in range(n):
        own, weight, step = df[int(label[i]) * n + i], d[int(label[i]) * n + i], moved[i]
        change = p[i] * (bend[i] * step + slope[i] * (slope[i] * step - mean))
        for j in range(classes):
            if j == label[i]:
                out[j * n + i] = change
            else:
                share = d[j * n + i] / weight if -weight > NEGLIGIBLE else 0.0
                out[j * n + i] = share * (change + weight * (df[j * n + i] - own + step))


@procedure(types.void(INT, FLOAT, INT, INT, INT, INT, INT, INT, INT))
def differentiate_log_twice(code, factor, n, outputs, y, d, df, out, spare):
    """out = second derivative of the log of the loss times df; d and spare as `differentiate_log` left them."""
    size = outputs * n
    d, df, out = view(d, size), view(df, size), view(out, size)
    y, spare = view(y, n if code == CROSS_ENTROPY else size), view(spare, 3 * n)
    p, slope, bend = spare[:n], spare[n : 2 * n], spare[2 * n : 3 * n]
    if code == SQUARE:
        _square_twice(d, df, out, spare[0], spare[1])
        return
    if code != CROSS_ENTROPY:
        for i in range(n):
            out[i] = y[i] * df[i]
        _change_of_weights(out, p, slope, bend)
        for i in range(n):
            out[i] *= y[i]
        return
    _cross_entropy_twice(n, y, d, df, out, p, slope, bend)
