"""Same call, same bits: wherever the arrays of a run happen to lie in memory."""

import numpy as np
import pytest

import gradflow as gf

RNG = np.random.default_rng(0)
X = RNG.standard_normal((9, 3))
PROBLEMS = {
    "tanh": gf.Problem(gf.FullyConnected([3, 4, 1], activation="tanh", bias=True), gf.losses.Square(), X, X[:, :1]),
    "deep linear": gf.Problem(gf.DeepLinear([3, 4, 3]), gf.losses.Square(), X, X @ np.diag([2.0, 1.0, 0.5])),
    "relu": gf.Problem(gf.FullyConnected([3, 6, 1]), gf.losses.Square(), X, np.sin(3 * X[:, :1])),
    "diagonal": gf.Problem(gf.Diagonal(5, 3), gf.losses.Square(), RNG.standard_normal((4, 5)), np.ones((4, 1))),
}
SOLVERS = ("dop853", "rk45", "stabilised", "stiff", "adams", "auto")
CASES = [(name, solver) for name in ("tanh", "deep linear", "diagonal") for solver in SOLVERS]


@pytest.mark.parametrize(("name", "solver"), [*CASES, ("relu", "dop853"), ("relu", "auto")])
def test_the_bits_do_not_depend_on_where_arrays_lie(name, solver):
    problem, kept, ends = PROBLEMS[name], [], set()
    start = problem.init(0.7, seed=3)
    gaps = np.random.default_rng(1).integers(1, 60, 60)
    for gap in gaps:
        kept.append(np.zeros(gap))
        run = gf.simulate(problem, start, gf.GradientFlow(), t_end=20.0, solver=solver, rtol=1e-6, save_at=2)
        kept.append(run)
        ends.add(run.end.tobytes())
    assert len(ends) == 1
