"""Steps for the tests of the stabilised stepper, and a flow that turns."""

import numpy as np
from stepper_cases import START, net_field

from gradflow.kernels.calls import call
from gradflow.status import Status
from gradflow.steppers.stabilised import Stabilised
from gradflow.steppers.stabilised_coefficients import coefficients

METHOD = coefficients()


def turning(t, state, out, chain, numbers, layout, work, coefficients):
    """Flow of a bowl, with pairs of entries turned into each other at rate coefficients[0]."""
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    for i in range(0, state.size, 2):
        out[i] -= coefficients[0] * state[i + 1]
        out[i + 1] += coefficients[0] * state[i]
    return value


def net_stepper(compiled=True, tol=1e-6, **options):
    return Stabilised(net_field(compiled), 0.0, START, rtol=tol, atol=tol, **options)


def only(stages):
    """The coefficients of one number of stages."""
    row = int(np.flatnonzero(METHOD.stages == stages)[0])
    part = slice(int(METHOD.first[row]), int(METHOD.first[row]) + stages - 4)
    arrays = {name: np.array(array[row : row + 1]) for name, array in METHOD._asdict().items()}
    arrays |= {name: np.array(getattr(METHOD, name)[part]) for name in ("mu", "kappa", "times")}
    return METHOD._replace(**arrays | {"first": np.zeros(1, np.int64), "extent": np.array([1e9])})


def one_step(field, start, h, stages, t=0.0):
    """Stepper after one step of a given size and number of stages."""
    stepper = Stabilised(field, t, start, rtol=1e3, atol=1e300, first_step=h)
    stepper._method = only(stages)
    assert stepper.advance(1e9, max_steps=1) == Status.PAUSED
    return stepper
