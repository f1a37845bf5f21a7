"""diffrax: the whole solve compiled by jax."""

import numpy as np

from .contender import Contender, absolute
from .gradients import jax_loss


def integrate(case, method):
    """Function (start, rtol, atol) -> (end, steps), not yet compiled."""
    import diffrax
    import jax

    gradient = jax.grad(jax_loss(case))
    term = diffrax.ODETerm(lambda t, theta, _: -gradient(theta))
    solver, save = getattr(diffrax, method)(), diffrax.SaveAt(t1=True)

    def run(start, rtol, atol):
        control = diffrax.PIDController(rtol=rtol, atol=atol)
        out = diffrax.diffeqsolve(
            term, solver, 0.0, case.t_end, None, start, saveat=save, stepsize_controller=control, max_steps=None,
            throw=False,
        )  # fmt: skip
        return out.ys[-1], out.stats["num_steps"]

    return run


def diffrax(method, stages):
    def prepare(case):
        import jax
        import jax.numpy as jnp

        run, start = jax.jit(integrate(case, method)), jnp.asarray(case.theta0)

        def solve(tolerance):
            end, steps = run(start, tolerance, absolute(tolerance))
            return np.asarray(end), int(steps) * stages

        return solve

    return prepare


CONTENDERS = [
    Contender("diffrax Tsit5", diffrax("Tsit5", 6), explicit=True, compiles=True),
    Contender("diffrax Dopri8", diffrax("Dopri8", 13), explicit=True, compiles=True),
    Contender("diffrax Kvaerno5", diffrax("Kvaerno5", 7), largest=350, compiles=True),
]
