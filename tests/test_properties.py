"""Properties that hold for every problem: the loss falls, invariants stay, homogeneous networks scale."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import gradflow as gf

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SMOOTH = ("linear", "tanh", "sigmoid", "softplus", "gelu", "quadratic", "relu_squared")


@st.composite
def problems(draw, activations=SMOOTH):
    """A random small problem and a start."""
    widths = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))]
    depth = len(widths)
    names = [draw(st.sampled_from(activations)) for _ in range(depth - 1)]
    network = gf.FullyConnected([*widths, 1], names, bias=draw(st.booleans()))
    n, seed = draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, widths[0])), rng.choice([-1.0, 1.0], n)
    loss = draw(st.sampled_from([gf.losses.Square(), gf.losses.Logistic(), gf.losses.Exponential("sum")]))
    problem = gf.Problem(network, loss, x, y, decay=draw(st.sampled_from([0.0, 0.1])))
    return problem, 0.6 * rng.standard_normal(problem.size)


@FEW
@given(problems(), st.sampled_from([gf.GradientFlow(), gf.PolarFlow(), gf.PolarFlow("neuron"), gf.WeightNormFlow()]))
def test_the_loss_never_increases_along_a_flow(case, flow):
    problem, theta0 = case
    run = gf.simulate(problem, theta0, flow, t_end=2.0, save_at=41, rtol=1e-8)
    assert run.status == gf.Status.REACHED_END
    assert (np.diff(run.loss) <= 1e-7 * max(1.0, run.loss[0])).all()


@FEW
@given(problems(("linear", "quadratic")), st.sampled_from([1e-6, 1e-8, 1e-10]), st.sampled_from(["dop853", "rk45"]))
def test_invariants_stay_within_their_bound(case, rtol, solver):
    problem, theta0 = case
    run = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=2.0, save_at=21, rtol=rtol, solver=solver)
    scale = max(np.abs(run.theta).max() ** 2, 1e-300)
    for drift in run.drift.values():
        assert drift.max() <= 100 * rtol * scale


@FEW
@given(problems(("linear", "quadratic", "relu", "leaky_relu(0.3)")), st.floats(0.1, 10.0))
def test_homogeneous_networks_are_equivariant_under_scaling(case, c):
    problem, theta = case
    degree = problem.network.degree
    if degree is None:
        return
    assert np.allclose(problem.outputs(c * theta), c**degree * problem.outputs(theta), rtol=1e-11, atol=1e-300)


@FEW
@given(problems(), st.sampled_from([0.2, 0.05]))
def test_gradient_descent_stays_within_first_order_of_the_flow(case, step):
    problem, theta0 = case
    flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=0.4, rtol=1e-10)
    coarse, fine = (gf.simulate(problem, theta0, gf.GD(h), t_end=0.4).end for h in (step / 20, step / 40))
    apart, nearer = np.linalg.norm(coarse - flow.end), np.linalg.norm(fine - flow.end)
    assert nearer < 0.6 * apart or apart < 1e-9
