"""Wrong arguments: the error says what was given and what to do, before anything runs."""

import cases
import numpy as np
import pytest

import gradflow as gf
from gradflow.cli import main

FLOW = gf.GradientFlow()


class Narrow(gf.Flow):
    """A flow whose velocity has one entry too few."""

    def velocity(self, problem, t, state):
        return -problem.gradient(state)[1:]


@pytest.fixture(scope="module")
def problem():
    return cases.make("tanh", "square")


@pytest.fixture(scope="module")
def run(problem):
    return gf.simulate(problem, cases.start(problem), FLOW, t_end=1.0, save_at=3)


def test_of_simulate(problem):
    theta0 = cases.start(problem)
    with pytest.raises(TypeError, match="problem = None: must be a gf.Problem"):
        gf.simulate(None, theta0, FLOW, t_end=1.0)
    with pytest.raises(TypeError, match="theta0 is complex: give real numbers"):
        gf.simulate(problem, theta0 + 1j, FLOW, t_end=1.0)
    with pytest.raises(ValueError, match=r"theta0 has shape \(0, 26\): a batch needs at least one run"):
        gf.simulate(problem, np.zeros((0, problem.size)), FLOW, t_end=1.0)
    with pytest.raises(ValueError, match=r"Narrow: the velocity has shape \(25,\), and the state \(26,\)"):
        gf.simulate(problem, theta0, Narrow(), t_end=1.0)
    with pytest.raises(ValueError, match="no loss is negative"):
        gf.LossBelow(-1.0)


def test_of_starts_threads_and_branches(problem):
    with pytest.raises(ValueError, match="seed = -1: must be at least 0"):
        problem.init(seed=-1)
    with pytest.raises(TypeError, match="seed = 0.5: must be an integer"):
        problem.init(seed=0.5)
    with pytest.raises(TypeError, match="count = 'a': must be a number of threads"):
        gf.set_threads("a")
    with pytest.raises(TypeError, match="str is not a Trajectory"):
        gf.branches("x")


def test_no_times_are_no_states(run):
    assert run.at([]).shape == (0, run.problem.size)
    with pytest.raises(ValueError, match="must lie within the run"):
        run.at([np.nan])


@pytest.mark.parametrize("device", ["cuda:99", "xpu9", "nonsense"])
def test_a_device_that_is_not_there_is_refused_when_the_problem_is_made(device):
    with pytest.raises(ValueError, match=f"device = '{device}' cannot be used here"):
        gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0]], [1.0], backend="torch", device=device)


@pytest.mark.parametrize(("backend", "said"), [("jax", "unknown; choose one of"), ("diagonal", "cannot serve")])
def test_a_backend_that_cannot_serve_is_refused_when_the_problem_is_made(backend, said):
    with pytest.raises(ValueError, match=said):
        gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(), [[1.0]], [1.0], backend=backend)


def test_class_numbers_are_not_regressed_on_one_output(capsys, tmp_path):
    call = ["run", "--network", "64-5-1", "--t-end", "1", "--out", str(tmp_path / "run")]
    assert main(call) == 2
    assert "give two of them, --classes 0,1" in capsys.readouterr().err


OTHERS = {
    "its network": {"network": gf.FullyConnected([3, 5, 1], "softplus", bias=True)},
    "its loss": {"loss": gf.losses.Square("sum")},
    "its data": {"seed": 1},
    "its decay": {"decay": 0.1},
    "its network is": {"network": gf.DeepLinear([3, 2, 1])},
}


@pytest.mark.parametrize("said", OTHERS)
def test_compare_refuses_runs_of_another_problem(said, run):
    other = cases.make(**({"network": "tanh", "loss": "square"} | OTHERS[said]))
    theta0 = run.theta[0] if other.size == run.problem.size else cases.start(other)
    descent = gf.simulate(other, theta0, gf.GD(0.1), t_end=1.0)
    with pytest.raises(ValueError, match=rf"runs\[0\] is of another problem than the flow: {said}"):
        gf.compare(run, descent)


def test_compare_takes_an_equal_problem(run):
    twin = cases.make("tanh", "square")
    assert len(gf.compare(run, gf.simulate(twin, run.theta[0], gf.GD(0.1), t_end=1.0))) == 1


def test_a_batch_is_cut_saved_and_loaded(problem, tmp_path):
    starts = np.stack([cases.start(problem, seed) for seed in range(12)])
    batch = gf.simulate(problem, starts, FLOW, t_end=1.0, save_at=3)
    part = batch[2:5]
    assert isinstance(part, type(batch))
    assert part.theta.tobytes() == batch.theta[2:5].tobytes()
    batch.save(tmp_path / "twelve")
    again = type(batch).load(tmp_path / "twelve")
    assert again.theta.tobytes() == batch.theta.tobytes()
    assert again.extend(2.0).end.tobytes() == batch.extend(2.0).end.tobytes()
    with pytest.raises(FileExistsError, match="exists already"):
        batch.save(tmp_path / "twelve")
    with pytest.raises(FileNotFoundError, match="with the files of a batch"):
        type(batch).load(tmp_path)
