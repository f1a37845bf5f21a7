r"""Activations with two derivatives, as loops over vectors that the compiler turns into vector instructions.

Exponentials are polynomials with exponent bits set by an integer shift. NaN, infinities and denormal results come out
as from the mathematical library.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types

from gradflow.activations import CODES
from gradflow.kernels.procedures import EXACT, intrinsic, procedure, view

INT = types.int64
RELU, TANH, SIGMOID, SOFTPLUS = CODES["relu"], CODES["tanh"], CODES["sigmoid"], CODES["softplus"]
GELU, QUADRATIC, ABS, RELU_SQUARED = CODES["gelu"], CODES["quadratic"], CODES["abs"], CODES["relu_squared"]

LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
LARGEST, SMALLEST = 710.0, -746.0
ROOT_2PI = math.sqrt(2.0 * math.pi)
MILLS = (
    0.7552851304157514,
    -0.607896641971893,
    0.3871374007422266,
    -0.1865218579595787,
    0.06039657489036092,
    -0.007540188968891619,
    -0.0034796923566515025,
    0.0016308184854735856,
    0.00013334420916014778,
    -0.00023109513778728935,
    -1.907676030719098e-06,
    3.514560235904452e-05,
    7.146021531267462e-07,
    -5.922893777541928e-06,
    -6.249551077565178e-07,
    1.026984070143193e-06,
    2.647337281979868e-07,
    -1.622316320853567e-07,
    -7.878360342693638e-08,
    1.9569608939974048e-08,
    1.60673869573294e-08,
    -1.277235143295772e-09,
    -1.6886576966786735e-09,
)
r"""Chebyshev fit of :math:`(a+4)\,e^{a^2/2}\,\Phi(-a)` in t = (a-4)/(a+4), relative error 4e-16."""


def _polynomial(coefficients):
    """Intrinsic: the polynomial by Horner's rule, without a loop."""

    @intrinsic
    def horner(typing_context, x):
        def generate(context, builder, signature, values):
            total = ir.Constant(ir.DoubleType(), coefficients[-1])
            for c in coefficients[-2::-1]:
                product = builder.fmul(total, values[0], flags=("contract",))
                total = builder.fadd(product, ir.Constant(ir.DoubleType(), c), flags=("contract",))
            return total

        return types.float64(types.float64), generate

    return horner


@intrinsic
def _power_of_two(typing_context, k):
    """2^k for a whole number k in -1022..1023, by writing the exponent bits."""

    def generate(context, builder, signature, values):
        shift = ir.Constant(ir.DoubleType(), 1.5 * 2.0**52 + 1023.0)
        bits = builder.bitcast(builder.fadd(values[0], shift), ir.IntType(64))
        return builder.bitcast(builder.shl(bits, ir.IntType(64)(52)), ir.DoubleType())

    return types.float64(types.float64), generate


_exp_minus_1_minus_r = _polynomial([1.0 / math.factorial(k) for k in range(2, 14)])
_atanh_ratio = _polynomial([1.0 / (2 * k + 1) for k in range(17)])
_mills = _polynomial(MILLS)


@njit(**EXACT)
def _exp(x):
    """e^x."""
    x = LARGEST if x > LARGEST else x
    x = SMALLEST if x < SMALLEST else x
    k = np.rint(x * LOG2_E)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    half = np.rint(0.5 * k)
    return ((1.0 + (r + r * r * _exp_minus_1_minus_r(r))) * _power_of_two(half)) * _power_of_two(k - half)


@njit(**EXACT)
def _log1p_unit(t):
    """log(1 + t) for t in 0..1."""
    u = t / (2.0 + t)
    return 2.0 * u * _atanh_ratio(u * u)


@procedure(types.void(INT, INT), exact=True)
def exponentials(count, x):
    """e^x in place of x."""
    x = view(x, count)
    for i in range(count):
        x[i] = _exp(x[i])


@procedure(types.void(INT, INT, INT), exact=True)
def logarithms_of_one_plus(count, t, out):
    """log(1 + t) for t in 0..1."""
    t, out = view(t, count), view(out, count)
    for i in range(count):
        out[i] = _log1p_unit(t[i])


@njit(**EXACT)
def _expm1_negative(x):
    """e^x - 1 and e^x for x <= 0; e^x is not below 1e-304."""
    x = -700.0 if x < -700.0 else x
    k = np.rint(x * LOG2_E)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    p = r + r * r * _exp_minus_1_minus_r(r)
    scale = _power_of_two(k)
    return scale * p + (scale - 1.0), scale * p + scale


@njit(**EXACT)
def _tanh(z, a, s):
    for i in range(z.size):
        below, e = _expm1_negative(-2.0 * abs(z[i]))
        q = 1.0 / (below + 2.0)
        a[i] = math.copysign(below * q, z[i])
        s[i] = 4.0 * e * q * q


@njit(**EXACT)
def _sigmoid(z, a, s):
    for i in range(z.size):
        e = _exp(-abs(z[i]))
        q = 1.0 / (1.0 + e)
        a[i] = e * q if z[i] < 0.0 else q
        s[i] = e * q * q


@njit(**EXACT)
def _softplus(z, a, s):
    for i in range(z.size):
        e = _exp(-abs(z[i]))
        q = 1.0 / (1.0 + e)
        a[i] = _log1p_unit(e) + (0.0 if z[i] < 0.0 else z[i])
        s[i] = e * q if z[i] < 0.0 else q


@njit(**EXACT)
def _gelu(z, a, s):
    for i in range(z.size):
        x = abs(z[i])
        x = 40.0 if x > 40.0 else x
        bell = _exp(-0.5 * x * x)
        q = 1.0 / (x + 4.0)
        tail = bell * _mills((x - 4.0) * q) * q
        below = tail if z[i] < 0.0 else 1.0 - tail
        a[i] = z[i] * below
        s[i] = below + z[i] * bell / ROOT_2PI


@procedure(types.void(INT, types.float64, INT, INT, INT, INT), exact=True)
def activate(code, slope, count, z, a, s):
    """a = phi(z), s = phi'(z); at a kink the derivative from the left."""
    z, a, s = view(z, count), view(a, count), view(s, count)
    if code == TANH:
        _tanh(z, a, s)
    elif code == SIGMOID:
        _sigmoid(z, a, s)
    elif code == SOFTPLUS:
        _softplus(z, a, s)
    elif code == GELU:
        _gelu(z, a, s)
    elif code == QUADRATIC:
        for i in range(count):
            a[i] = z[i] * z[i]
            s[i] = 2.0 * z[i]
    elif code == RELU_SQUARED:
        for i in range(count):
            part = 0.0 if z[i] <= 0.0 else z[i]
            a[i] = part * part
            s[i] = 2.0 * part
    else:
        below = 0.0 if code == RELU else -1.0 if code == ABS else slope
        for i in range(count):
            s[i] = below if z[i] <= 0.0 else 1.0
            a[i] = 0.0 if below == 0.0 and z[i] <= 0.0 else s[i] * z[i]


@procedure(types.void(INT, INT, INT, INT, INT, INT), exact=True)
def curvature(code, count, z, a, s, c):
    """c = phi''(z), from phi(z) and phi'(z)."""
    z, a, s, c = view(z, count), view(a, count), view(s, count), view(c, count)
    if code == TANH:
        for i in range(count):
            c[i] = -2.0 * a[i] * s[i]
    elif code == SIGMOID:
        for i in range(count):
            c[i] = s[i] * (1.0 - 2.0 * a[i])
    elif code == SOFTPLUS:
        for i in range(count):
            c[i] = s[i] * (1.0 - s[i])
    elif code == GELU:
        for i in range(count):
            square = 1600.0 if z[i] * z[i] > 1600.0 else z[i] * z[i]
            c[i] = (2.0 - square) * _exp(-0.5 * square) / ROOT_2PI
    elif code == QUADRATIC:
        for i in range(count):
            c[i] = 2.0
    else:
        for i in range(count):
            c[i] = 2.0 if code == RELU_SQUARED and not z[i] <= 0.0 else 0.0
