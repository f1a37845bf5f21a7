"""ReLU flows through simulate: following kinks by default, branch points, files, and what falls back."""

import cases
import numpy as np
import oracles
import pytest

import gradflow as gf

FLOW = gf.GradientFlow()


class Twice(gf.Flow):
    """A flow of one's own."""

    def velocity(self, problem, t, state):
        return -2.0 * problem.gradient(state)


def sliding():
    """One neuron that slides along the kink of its second sample from t = 0.4067."""
    problem = gf.Problem(gf.FullyConnected([2, 1, 1]), oracles.HALF_SUM, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    return problem, np.array([0.4, -0.1, 0.3 / np.sqrt(2)])


def branching():
    """One neuron whose sliding kink turns into a ridge at t = 0.3223."""
    x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    return gf.Problem(gf.FullyConnected([2, 1, 1]), oracles.HALF_SUM, x, y), np.array([1.0, 0.0, 0.3])


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("solver", ["auto", "dop853"])
def test_a_neuron_slides_along_its_kink(rtol, solver):
    problem, theta0 = sliding()
    run = gf.simulate(problem, theta0, FLOW, t_end=2.0, rtol=rtol, solver=solver)
    assert run.status == gf.Status.REACHED_END
    assert np.abs(run.end - [0.953522041595, 0.0, 0.885553094855]).max() < 5 * rtol + 1e-12
    assert run.kinks.events["kind"].tolist() == ["slide"]
    assert run.kinks.events["time"][0] == pytest.approx(0.4067363721521307, abs=5 * rtol)
    assert run.kinks.sliding.tolist() == [1]
    assert run.counts["gradients"] < 1500
    assert (np.diff(run.loss) <= 1e-12).all()


def test_followed_runs_extend_repeat_and_travel_through_files_bit_for_bit(tmp_path):
    problem, theta0 = sliding()
    whole = gf.simulate(problem, theta0, FLOW, t_end=2.0)
    part = gf.simulate(problem, theta0, FLOW, t_end=1.0)
    assert np.array_equal(part.extend(2.0).end, whole.end)
    assert np.array_equal(whole.at(whole.t), whole.theta)
    part.save(tmp_path / "part.nc")
    back = gf.Trajectory.load(tmp_path / "part.nc")
    assert np.array_equal(back.extend(2.0).end, whole.end)
    assert back.kinks.events["time"].tolist() == part.kinks.events["time"].tolist()


@pytest.mark.parametrize(
    ("choice", "end"),
    [
        ("stay", [1.0113331636, 0.0, -0.3358493231]),
        ("inactive", [0.9358044242, -0.5468173795, -0.5145281012]),
        ("active", [0.9957110707, 0.2492499704, -0.3789011534]),
        ("likely", [0.9957110707, 0.2492499704, -0.3789011534]),
    ],
)
def test_the_flow_branches_where_it_is_not_unique(choice, end):
    problem, theta0 = branching()
    run = gf.simulate(problem, theta0, FLOW, t_end=2.0, at_branch=choice, rtol=1e-9)
    assert np.abs(run.end - end).max() < 1e-7
    point = run.kinks.branch_points[0]
    assert point.time == pytest.approx(0.322267165345, abs=1e-8)
    assert point.sigma[0] == pytest.approx(0.65, abs=1e-7)
    assert any("not unique after t = 0.322267" in note for note in run.notes)


def test_a_run_can_stop_at_a_branch_and_both_paths_can_be_had():
    problem, theta0 = branching()
    stopped = gf.simulate(problem, theta0, FLOW, t_end=2.0, at_branch="stop", rtol=1e-9)
    assert stopped.status == gf.Status.EVENT
    assert stopped.t_end == pytest.approx(0.322267165345, abs=1e-8)
    run = gf.simulate(problem, theta0, FLOW, t_end=2.0, rtol=1e-9)
    paths = gf.branches(run)
    assert sum(share for share, _ in paths) == pytest.approx(1.0)
    assert np.abs(paths[0][1].end - [0.9957110707, 0.2492499704, -0.3789011534]).max() < 1e-7
    assert np.abs(paths[1][1].end - [0.9358044242, -0.5468173795, -0.5145281012]).max() < 1e-7
    assert all(path.error_estimate().max() < 1e-8 for _, path in paths)
    with pytest.raises(ValueError, match="index = 3: the run has 1 branch points"):
        gf.branches(run, 3)


def test_gradient_descent_is_of_first_order_about_the_true_flow():
    problem = cases.make(gf.FullyConnected([3, 8, 1], "relu", bias=True), "square", n=12)
    theta0 = problem.init(1.0, seed=3)
    flow = gf.simulate(problem, theta0, FLOW, t_end=3.0, rtol=1e-9)
    assert flow.kinks.count("cross") > 3
    runs = [gf.simulate(problem, theta0, gf.GD(h), t_end=3.0) for h in (4e-3, 1e-3, 2.5e-4)]
    distance = gf.compare(flow, runs).max_distance
    assert 2.5 < distance[0] / distance[1] < 6.5
    assert 2.5 < distance[1] / distance[2] < 6.5


def test_implicit_masks_converge_to_the_followed_flow():
    problem, theta0 = sliding()
    exact = np.array([0.953522041595, 0.0, 0.885553094855])
    errors = []
    for step in (1e-2, 5e-3):
        run = gf.simulate(problem, theta0, FLOW, t_end=2.0, kinks="implicit", solver=gf.FixedStep("euler", step))
        errors.append(np.abs(run.end - exact).max())
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_what_is_not_followed_says_so():
    problem = cases.make("relu", "square")
    theta0 = cases.start(problem)
    own = gf.simulate(problem, theta0, Twice(), t_end=0.01)
    assert any("not followed for Twice() on" in n and "but for GradientFlow, PolarFlow" in n for n in own.notes)
    other = gf.simulate(problem, theta0, FLOW, t_end=0.01, solver="LSODA")
    assert any("not followed by the solver LSODA" in note for note in other.notes)
    with pytest.raises(ValueError, match="did not follow kinks"):
        _ = other.kinks
    smooth = cases.make("tanh", "square")
    assert gf.simulate(smooth, cases.start(smooth), FLOW, t_end=0.01).run.arguments["kinks"] == "none"


def test_bad_choices_say_what_is_known():
    problem, theta0 = sliding()
    with pytest.raises(ValueError, match="at_branch = 'left': choose one of likely"):
        gf.simulate(problem, theta0, FLOW, t_end=1.0, at_branch="left")
    with pytest.raises(ValueError, match=r"solver=gf.FixedStep\('euler'"):
        gf.simulate(problem, theta0, FLOW, t_end=1.0, kinks="implicit")


def test_many_expected_kinks_are_announced():
    problem = cases.make(gf.FullyConnected([2, 2000, 1]), "square", n=30)
    with pytest.warns(UserWarning, match="kink events are expected"):
        gf.simulate(problem, problem.init(1.0), FLOW, t_end=1e-3, max_gradients=20)
