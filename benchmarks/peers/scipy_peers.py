"""scipy's solve_ivp with a gradient in numpy, and with gradflow's compiled gradient."""

from scipy.integrate import solve_ivp

from .contender import Contender, Counted, absolute
from .gradients import compiled_velocity, numpy_velocity


def solver(method, make_velocity, hessian=False):
    def prepare(case):
        velocity = make_velocity(case)

        def solve(tolerance):
            field = Counted(velocity, case.cap)
            options = {"jac": Counted(lambda t, theta: -case.on_data.hessian(theta), case.cap)} if hessian else {}
            run = solve_ivp(
                field,
                (0.0, case.t_end),
                case.theta0,
                method=method,
                t_eval=[case.t_end],
                rtol=max(tolerance, 3e-14),
                atol=absolute(tolerance),
                **options,
            )
            if not run.success:
                raise RuntimeError(run.message)
            return run.y[:, -1], field.count

        return solve

    return prepare


CONTENDERS = [
    Contender("scipy DOP853, numpy gradient", solver("DOP853", numpy_velocity), explicit=True),
    Contender("scipy LSODA, numpy gradient", solver("LSODA", numpy_velocity), largest=1500),
    Contender("scipy Radau, numpy gradient", solver("Radau", numpy_velocity), largest=350),
    Contender("scipy DOP853, compiled gradient", solver("DOP853", compiled_velocity), explicit=True),
    Contender("scipy LSODA, compiled gradient", solver("LSODA", compiled_velocity), largest=1500),
    Contender("scipy Radau, compiled gradient", solver("Radau", compiled_velocity, hessian=True), largest=350),
]
