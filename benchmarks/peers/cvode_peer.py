"""SUNDIALS CVODE through scikit-sundae, with gradflow's compiled gradient and Hessian."""

import numpy as np

from .contender import Contender, Counted, absolute


def cvode(method, linear, **options):
    def prepare(case):
        from sksundae.cvode import CVODE

        kernel = case.on_data.kernel
        gradient, rest = kernel.gradient, (kernel.numbers, kernel.layout, np.zeros(max(kernel.work_size, 1)))

        def fill(t, theta, out):
            gradient(np.array(theta), out, *rest)
            np.negative(out, out=out)

        def fill_jacobian(t, theta, velocity, out):
            out[:] = -case.on_data.hessian(np.array(theta))

        def solve(tolerance):
            field = Counted(fill, case.cap)
            more = {"jacfn": fill_jacobian} if linear == "dense" else options
            run = CVODE(
                lambda t, theta, out: field(t, theta, out),
                method=method,
                linsolver=linear,
                rtol=tolerance,
                atol=absolute(tolerance),
                max_num_steps=10**6,
                **more,
            ).solve(np.array([0.0, case.t_end]), case.theta0)
            if not run.success:
                raise RuntimeError(run.message)
            return np.array(run.y[-1]), field.count

        return solve

    return prepare


CONTENDERS = [
    Contender("CVODE Adams, GMRES", cvode("Adams", "gmres", krylov_dim=10)),
    Contender("CVODE BDF, GMRES", cvode("BDF", "gmres", krylov_dim=30)),
    Contender("CVODE BDF, dense", cvode("BDF", "dense"), largest=350),
]
