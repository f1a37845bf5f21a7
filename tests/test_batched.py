"""Runs as one batch of torch tensors, against the same runs one after the other."""

import numpy as np
import pytest
import torch
from cases import make

import gradflow as gf
from gradflow.kernels.torch_autograd import TorchObjective
from gradflow.lanes.batched import Ensemble, run_batched
from gradflow.status import Status

FLOW = gf.GradientFlow()


def module():
    torch.manual_seed(0)
    layers = (torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    return gf.FromModule(torch.nn.Sequential(*layers), (3,))


def residual_module():
    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.inner = torch.nn.Linear(3, 3)
            self.register_buffer("shift", torch.ones(3))

        def forward(self, x):
            return (x + torch.tanh(self.inner(x)) + self.shift).sum(1, keepdim=True)

    return gf.FromModule(Residual(), (3,))


CASES = {
    "module": lambda: make(module(), "half square sum", n=6, decay=0.01),
    "module, cross-entropy": lambda: make(module(), gf.losses.CrossEntropy(), n=6),
    "residual module, logistic": lambda: make(residual_module(), "logistic", n=6),
    "convolutional": lambda: make(gf.Convolutional((1, 4, 4), [2], 2, activation="tanh"), "square", n=5),
    "deep linear": lambda: make(gf.DeepLinear([4, 3, 2]), "square", n=6, backend="torch"),
    "diagonal": lambda: make(gf.Diagonal(4, depth=3), "exponential", n=3, backend="torch"),
}


def starts_of(problem, runs, seed=0):
    """Starts of very different sizes, so that the runs take very different steps."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((runs, problem.size)) * np.geomspace(0.2, 0.9, runs)[rng.permutation(runs), None]


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_single_ones(case):
    problem = CASES[case]()
    theta = starts_of(problem, 5)
    objective = TorchObjective(problem.network, problem.loss, problem.x, problem.y)
    values, velocities = Ensemble(objective, problem.decay, [], 0.0, 1.0, rtol=1e-6).velocity(torch.tensor(theta))
    assert np.allclose(values.numpy(), problem.value(theta), rtol=1e-13)
    gradients = problem.gradient(theta)
    assert np.abs(velocities.numpy() + gradients).max() <= 1e-13 * np.abs(gradients).max()


@pytest.mark.parametrize(
    ("case", "solver"), [*((case, name) for case in CASES for name in ("auto", "dop853")), ("module", "rk45")]
)
def test_runs_agree_with_single_runs(case, solver):
    problem = CASES[case]()
    starts = starts_of(problem, 5)
    options = {"t_end": 1.0, "rtol": 1e-6, "save_at": 8, "solver": solver}
    batch = gf.simulate(problem, starts, FLOW, ensemble="lanes", **options)
    single = gf.simulate(problem, starts, FLOW, ensemble="single", **options)
    assert batch.status.tolist() == single.status.tolist()
    for together, alone in zip(batch, single, strict=True):
        assert np.array_equal(together.t, alone.t)
        assert np.abs(together.theta - alone.theta).max() <= 1e-5 * np.abs(alone.theta).max()
        if solver == "auto":
            continue
        for name in ("accepted", "rejected", "gradients"):
            assert abs(together.counts[name] - alone.counts[name]) <= (2 if name != "gradients" else 26)


def test_every_run_has_its_own_end():
    problem = CASES["module"]()
    starts = starts_of(problem, 12)
    starts[3], starts[7] = np.nan, 1e200
    objective = TorchObjective(problem.network, problem.loss, problem.x, problem.y)
    options = {"rtol": 1e-6, "atol": 1e-8, "max_gradients": 120}
    results = run_batched(objective, problem.decay, starts, 0.0, 50.0, **options)
    assert (results.status[[3, 7]] == Status.NOT_FINITE_START).all()
    others = np.setdiff1d(np.arange(12), [3, 7])
    assert set(results.status[others]) == {Status.GRADIENT_BUDGET}
    assert (results.records[others, 0]["gradients"] <= 120).all()
    alone = run_batched(objective, problem.decay, starts[others], 0.0, 50.0, **options)
    assert np.allclose(alone.end, results.end[others], rtol=1e-9)
    assert np.array_equal(alone.records[:, 0]["accepted"], results.records[others, 0]["accepted"])


def test_loss_stops_are_located_as_in_single_runs():
    problem = CASES["module"]()
    starts = starts_of(problem, 9)
    level = float(
        np.median([gf.simulate(problem, row, FLOW, 3.0, save_at=2, solver="dop853").loss[-1] for row in starts])
    )
    options = {"t_end": 3.0, "stop": gf.LossBelow(level), "save_at": 7, "solver": "dop853"}
    batch = gf.simulate(problem, starts, FLOW, ensemble="lanes", **options)
    single = gf.simulate(problem, starts, FLOW, ensemble="single", **options)
    assert {status.name for status in batch.status} == {"LOSS_BELOW", "REACHED_END"}
    assert batch.status.tolist() == single.status.tolist()
    assert np.allclose(batch.t_end, single.t_end, rtol=1e-7)


def test_a_run_of_a_batch_goes_on():
    problem = CASES["module"]()
    starts = starts_of(problem, 9)
    batch = gf.simulate(problem, starts, FLOW, 1.0, save_at=4)
    longer = gf.simulate(problem, starts[2], FLOW, 2.0, save_at=7)
    assert np.allclose(batch[2].extend(2.0).end, longer.end, rtol=1e-7)
    assert np.allclose(batch[2].at([0.05, 0.4, 1.0]), longer.at([0.05, 0.4, 1.0]), rtol=1e-7)


def test_the_host_is_told_once_a_step(monkeypatch):
    problem = CASES["module"]()
    objective = TorchObjective(problem.network, problem.loss, problem.x, problem.y)
    batch = Ensemble(objective, 0.0, np.linspace(0.0, 2.0, 9), 0.0, 2.0, rtol=1e-6)
    steps, told = [], []
    step, tolist = batch.step, torch.Tensor.tolist
    monkeypatch.setattr(batch, "step", lambda: steps.append(1) or step())
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: told.append(1) or tolist(tensor))
    for name in ("item", "numpy", "nonzero", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, _refused)
    batch.run(starts_of(problem, 6), np.full(6, 1e-8), lambda ended: None)
    assert len(told) == len(steps) > 10


def _refused(*_):
    raise AssertionError("a tensor was brought to the host")


def test_everything_is_made_on_the_device_of_the_problem():
    problem = CASES["module"]()
    objective = TorchObjective(problem.network, problem.loss, problem.x, problem.y, "cpu")
    starts, options = starts_of(problem, 6), {"rtol": 1e-6, "atol": 1e-8, "save_at": [0.5]}
    usual = run_batched(objective, 0.0, starts, 0.0, 1.0, **options)
    with torch.device("meta"):  # where a tensor lands that does not say where it belongs
        elsewhere = run_batched(objective, 0.0, starts, 0.0, 1.0, **options)
    assert np.array_equal(elsewhere.end, usual.end)
    assert np.array_equal(elsewhere.saved, usual.saved)
