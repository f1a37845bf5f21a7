"""gradflow: the automatic solver with its defaults, and each solver by hand."""

import gradflow as gf
from gradflow.steppers.choose import NAMES

from .contender import Contender, TooSlow

BY_HAND = tuple(name for name in ("dop853", "rk45", "adams", "stabilised", "stiff") if name in NAMES)


def simulate(solver, save_at=2):
    """Only the ends are saved, as the other solvers do; all else by default."""

    def prepare(case):
        gf.set_threads(1)

        def solve(tolerance):
            run = gf.simulate(
                case.problem,
                case.theta0,
                gf.GradientFlow(),
                t_end=case.t_end,
                rtol=tolerance,
                solver=solver,
                save_at=save_at,
                kinks="ignore",
                max_seconds=4 * case.cap,
                progress=False,
            )
            if run.status != gf.Status.REACHED_END:
                raise TooSlow(str(run.status))
            return run.end, run.counts["gradients"] + run.counts["hessian_products"]

        return solve

    return prepare


CONTENDERS = [
    Contender("gradflow auto", simulate("auto"), own=True, compiles=True),
    Contender("gradflow auto, 200 points saved", simulate("auto", 200), own=True, compiles=True),
    *(
        Contender(f"gradflow {name}", simulate(name), name in ("dop853", "rk45"), own=True, compiles=True)
        for name in BY_HAND
    ),
]
