"""Dense output of the stabilised stepper; one source, compiled for compiled fields and interpreted for others."""

import numpy as np

from gradflow.kernels.calls import call

_ARM = 1e-5
"""Arm of the difference quotient for the second derivative, relative to the step."""
_LEAST_RATIO = 0.1
"""Least ratio of a step to the next at which the interpolant uses the slope from before both."""


def add(out, a, factor, b):
    """Write a + factor b to out."""
    np.add(a, factor * b, out=out)


def add_loops(out, a, factor, b):
    """The same for compiled code."""
    for i in range(out.size):
        out[i] = a[i] + factor * b[i]


def blend(out, y, y_new, first, last, third, change, slopes):
    """Write y + change (y_new - y) + slopes . (first, last, third) to out."""
    out[:] = y + change * (y_new - y) + (slopes[0] * first + slopes[1] * last + slopes[2] * third)


def blend_loops(out, y, y_new, first, last, third, change, slopes):
    """The same for compiled code."""
    for i in range(out.size):
        slope = slopes[0] * first[i] + slopes[1] * last[i] + slopes[2] * third[i]
        out[i] = y[i] + change * (y_new[i] - y[i]) + slope


def evaluate(rhs, t, state, out):
    """One evaluation of the right-hand side."""
    velocity, chain, numbers, layout, work, coefficients = rhs
    return call(velocity, t, state, out, chain, numbers, layout, work, coefficients)


def interpolate(rhs, memory, now, time, out):
    """State at a time inside the last step.

    The cubic through both ends with their slopes, and the multiple of x^2 (1-x)^2 that makes the slope right at the
    start of the step before; if there is none, or it was short, the second derivative at the start of the last step.
    """
    m, length, before = memory, now["length"], now["t_before"]
    x = (time - before) / length
    rest = 1.0 - x
    lift = x * x * rest * rest
    r = (before - now["t_older"]) / length
    if r > _LEAST_RATIO:
        third, scale = m.velocities[2], lift / (2.0 * r * (1.0 + r) * (1.0 + 2.0 * r))
        change, first, last = (
            -6.0 * r * (1.0 + r) * scale,
            (1.0 + r) * (1.0 + 3.0 * r) * scale,
            r * (2.0 + 3.0 * r) * scale,
        )
        other = -scale
    else:
        if not now["has_bend"]:
            start_bend(rhs, memory, now)
        third, change, first, last, other = m.bend, -3.0 * lift, 2.0 * lift, lift, 0.5 / _ARM * lift
    change += x * x * (3.0 - 2.0 * x)
    slopes = (length * (first + x * rest * rest), length * (last - x * x * rest), length * other)
    blend(out, m.y_before, m.y, m.velocities[1], m.velocities[0], third, change, slopes)


def start_bend(rhs, memory, now):
    """Change of the velocity along the flow, over a small part of the last step from its start."""
    m, arm = memory, _ARM * now["length"]
    add(m.scratch, m.y_before, arm, m.velocities[1])
    evaluate(rhs, now["t_before"] + arm, m.scratch, m.bend)
    add(m.bend, m.bend, -1.0, m.velocities[1])
    now["gradients"] += 1
    now["has_bend"] = 1


DENSE_HELPERS = (evaluate, interpolate, start_bend)
DENSE_TWINS = ((add, add_loops), (blend, blend_loops))
