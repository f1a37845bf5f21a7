"""Wrong arguments: the error says what was given and what to do, before anything runs."""

import cases
import numpy as np
import pytest
import torch

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


@pytest.fixture(scope="module")
def clocked(problem):
    return gf.simulate(problem, cases.start(problem), FLOW, stop=gf.LossBelow(1e-2), clock="log_loss")


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda run, _: run.at("a"), TypeError, r"t = 'a': give a time or times \(m,\) within the run"),
        (lambda run, _: run.at([0.5, "a"]), TypeError, "give a time or times"),
        (lambda run, _: run.at([0.1, [0.2]]), TypeError, "give a time or times"),
        (lambda run, _: run.at(0.1j), TypeError, "t = 0.1j: give a time or times"),
        (lambda run, _: run.elapsed(0, 9), ValueError, r"elapsed\(0, 9\): give two indices of the 3 saved points"),
        (lambda run, _: run.elapsed("a", 1), ValueError, "give two indices of the 3"),
        (lambda _, run: run.at([0.1, [0.2]]), TypeError, "give a number or numbers"),
        (lambda _, run: run.at(log10_loss=9.0), ValueError, "must lie within the run, -?[0-9.]+ to -2 in log10_loss"),
        (lambda *_: gf.every(s="a"), TypeError, "every: spacing of s = 'a': must be a number"),
        (lambda *_: gf.every(s=-1), ValueError, "every: spacing of s = -1: must be positive"),
    ],
)
def test_places_on_a_run(call, kind, said, run, clocked):
    with pytest.raises(kind, match=said):
        call(run, clocked)


def test_no_times_are_no_states(run):
    assert run.at([]).shape == (0, run.problem.size)
    assert (run.at(torch.tensor(0.5)) == run.at(0.5)).all()
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


X, Y = np.ones((2, 4)), np.ones(2)
LINEAR, SQUARE = gf.DeepLinear([4, 1]), gf.losses.Square()


def on_start(**options):
    problem = gf.Problem(LINEAR, SQUARE, X, Y)
    dynamics = options.pop("dynamics", FLOW)
    return gf.simulate(problem, np.ones(4), dynamics, **{"t_end": 1.0, **options})


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: gf.Problem(LINEAR, SQUARE, X + 0j, Y), TypeError, "x is complex: give real numbers"),
        (lambda: gf.Problem(LINEAR, SQUARE, X, Y + 0j), TypeError, "y is complex: give real numbers"),
        (lambda: gf.Problem(LINEAR, SQUARE, X[0], Y), ValueError, r"a single sample is x\[None\]"),
        (lambda: gf.Problem(LINEAR, gf.losses.Square, X, Y), TypeError, "must be a gradflow loss object"),
        (lambda: gf.Problem(gf.DeepLinear, SQUARE, X, Y), TypeError, "network = DeepLinear: must be"),
        (lambda: gf.losses.Square(half="no"), TypeError, "half = 'no': must be True or False"),
        (lambda: gf.FullyConnected([4, 1], bias="no"), TypeError, "bias = 'no': must be True or False"),
        (lambda: gf.FullyConnected([4, 3, 1], np.tanh), TypeError, "see gf.FromModule"),
        (lambda: gf.FullyConnected([4, 3, 1], None), TypeError, "activation = None: give a name"),
        (lambda: gf.Diagonal(3, 2.5), TypeError, "depth = 2.5: must be an integer"),
        (lambda: gf.Diagonal("a"), TypeError, "dim = 'a': must be an integer"),
        (lambda: gf.GD(0.1, flow="lm"), TypeError, "flow = 'lm': must be a flow such as gf.LMFlow"),
        (lambda: gf.SGD(0.1, batch_size=1, seed=-1), ValueError, "seed = -1: must be at least 0"),
        (lambda: gf.SGD(0.1, replacement="yes"), TypeError, "replacement = 'yes': must be True or False"),
        (lambda: gf.PowerRate("a", 2), TypeError, "coefficient = 'a': must be a number"),
        (lambda: gf.PowerRate(1.0, np.nan), ValueError, "power = nan: must be finite"),
        (lambda: on_start(dynamics=gf.GradientFlow({"W1": "a"})), TypeError, "rate of W1 = 'a': must be a number"),
        (lambda: on_start(t_start="a"), TypeError, "t_start = 'a': must be a number"),
        (lambda: on_start(dynamics=gf.GD(2.0)), ValueError, "t_end = 1.0: not one step of 2 ends by then"),
        (lambda: on_start(dynamics=gf.Momentum(0.5), t_start=0.6), ValueError, "from t_start = 0.6"),
        (lambda: on_start(atol="a"), TypeError, "atol = 'a': must be a number"),
        (lambda: on_start(record=gf.measure.sharpness), TypeError, "must be a dict, name -> function"),
        (lambda: on_start(save_at=2.5), ValueError, "save_at = 2.5: the times must be one increasing"),
        (lambda: on_start(stop="loss"), TypeError, "stop = 'loss': must be a stop"),
        (lambda: on_start(stop=gf.LossBelow), TypeError, "must be a stop or an event"),
        (lambda: on_start(solver="RK45"), ValueError, "did you mean 'rk45'"),
    ],
)
def test_what_is_wrong_is_said(call, kind, said):
    with pytest.raises(kind, match=said):
        call()


@pytest.mark.filterwarnings("error")
def test_torch_tensors_are_taken_with_their_graph():
    x, y, theta = (torch.tensor(a, requires_grad=True) for a in (X, Y, np.ones(4)))
    problem = gf.Problem(LINEAR, SQUARE, x, y)
    run = gf.simulate(problem, theta, FLOW, 1.0, save_at=torch.linspace(0, 1, 3))
    assert (run.end == on_start(save_at=3).end).all()
    assert problem.value(theta) == problem.value(np.ones(4))


def test_folders_and_ends_that_are_none(run, tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file in it"):
        run.save(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"gf\.Batch\.load reads the folder"):
        gf.Trajectory.load(tmp_path)
    with pytest.raises(TypeError, match="t_end = 'a': must be a number"):
        run.extend("a")
    with pytest.raises(ValueError, match="t_end = nan: must be finite"):
        run.extend(np.nan)
    with pytest.raises(ValueError, match="must be later than the end so far, 1"):
        run.extend(0.5)


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: gf.FullyConnected([3, 1], skips=3), TypeError, r"skips = 3: give a sequence of gf\.Skip"),
        (lambda: gf.FullyConnected([3, 1], skips=[3]), TypeError, r"skips = \[3\]"),
        (lambda: gf.FullyConnected([3, 1], skips=[gf.Skip("a", 1)]), TypeError, "skip from layer 'a' to 1"),
        (lambda: gf.ResidualLinear(1.5, 3), TypeError, "depth = 1.5: must be an integer"),
        (lambda: gf.ResidualLinear(2, 3, "a"), TypeError, "readout of type str"),
        (lambda: gf.Convolutional([1, 4, 4], ["a"]), TypeError, "a channel count = 'a'"),
        (lambda: gf.Convolutional([1, 4, 4], [2], kernel_size="a"), TypeError, "kernel_size = 'a'"),
        (lambda: gf.Activation("leaky_relu", np.nan), ValueError, "slope = nan: must be finite"),
        (lambda: gf.FromModule(torch.nn.Linear(3, 1), "a"), TypeError, "an entry of input_shape = 'a'"),
        (lambda: gf.Problem(LINEAR, SQUARE, X, Y).flatten(3), TypeError, "layers of type int: give a dict"),
        (lambda: gf.Problem(LINEAR, SQUARE, X, Y).flatten({"W1": "a"}), TypeError, "layer W1 = 'a': give numbers"),
        (lambda: gf.data.gaussian(3, 2, seed="a"), TypeError, "seed = 'a': give an integer"),
        (lambda: gf.data.digits(seed=-1), ValueError, "seed = -1: give an integer of at least 0"),
        (lambda: gf.data.digits(classes=0), TypeError, "classes = 0: give a sequence of classes"),
        (lambda: gf.data.gaussian(3, 2, spectrum="a"), TypeError, "spectrum = 'a': give numbers"),
        (lambda: gf.data.clouds(3, 2, 3, spread="a"), TypeError, "spread = 'a': must be a number"),
        (lambda: gf.data.teacher_weights("a"), TypeError, "network = 'a': give a network"),
        (lambda: gf.data.unit_rows([1.0]), ValueError, r"x has shape \(1,\): give inputs \(n, d\)"),
        (lambda: gf.LossBelow("a"), TypeError, "level = 'a': must be a number"),
        (lambda: gf.LossBelow(log10="a"), TypeError, "log10 = 'a': must be a number"),
        (lambda: gf.ExcessLossBelow("a"), TypeError, "level = 'a': must be a number"),
        (lambda: gf.Event("a", print, terminal="x"), TypeError, "terminal = 'x': must be True or False"),
        (lambda: on_start(events=gf.Event("a", lambda *_: "x")), TypeError, "'a': the function returned 'x'"),
        (lambda: on_start(record={"a": (gf.measure.loss, 3, 4)}), TypeError, r"or \(function, grid\)"),
        (lambda: on_start(conserve="no"), TypeError, "conserve = 'no': must be True or False"),
        (lambda: on_start(progress="no"), TypeError, "progress = 'no': must be True or False"),
        (lambda: on_start().extend(2.0, max_seconds="a"), TypeError, "max_seconds = 'a': must be a number"),
        (lambda: gf.GradientFlow("a"), TypeError, "rates of type str"),
        (lambda: gf.WeightNormFlow(scale_rate=["a"]), TypeError, "scale_rate of type list"),
        (lambda: gf.WeightNormFlow(direction_rate=[1, 2]), TypeError, r"direction_rate = \[1, 2\]: must be a number"),
        (lambda: gf.Momentum(0.1, beta="a"), TypeError, "beta = 'a': must be a number"),
        (lambda: gf.Momentum(0.1, nesterov="a"), TypeError, "nesterov = 'a': must be True or False"),
        (lambda: gf.compare(on_start(), 3), TypeError, "runs of type int"),
        (lambda: gf.sweep(3, a=[1]), TypeError, "function = 3: give a function of the settings a"),
        (lambda: gf.sweep(lambda a: a, 3, a=[1]), TypeError, "measures = 3: give a sequence of functions"),
        (lambda: gf.sweep(lambda a: "x", a=[1]), TypeError, "value = 'x': the function must return"),
        (lambda: gf.set_threads(np.nan), ValueError, "count = nan"),
        (lambda: gf.population.ConvolutionalPopulation([1.0], "a"), TypeError, "patches = 'a'"),
        (lambda: gf.measure.drift(gf.Problem(LINEAR, SQUARE, X, Y), FLOW), TypeError, "trajectory of type Problem"),
        (lambda: gf.plots.colours(3), TypeError, "dynamics = 3: must be a dynamics"),
        (lambda: gf.plots.kinks(3), TypeError, "trajectory of type int"),
        (lambda: gf.measure.dissipation(None), TypeError, "trajectory of type NoneType"),
        (lambda: gf.measure.rank_tail(gf.Problem(LINEAR, SQUARE, X, Y), np.ones(4), -1), ValueError, "rank = -1"),
        (lambda: gf.measure.invariant_names(gf.Problem(LINEAR, SQUARE, X, Y), Y), TypeError, "rates of type ndarray"),
    ],
)
def test_names_of_the_reference_say_what_is_wrong(call, kind, said):
    with pytest.raises(kind, match=said):
        call()
