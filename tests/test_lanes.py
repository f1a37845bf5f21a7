"""Ensembles in vector lanes against single runs: kernels, steps, saves, stops; a lane does not feel the others."""

import re
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from cases import make

import gradflow as gf
import gradflow.batch
from gradflow.dynamics.flow import typical
from gradflow.lanes.ensemble import lane_kernel, run_ensemble
from gradflow.lanes.memory import method_of, new_group
from gradflow.lanes.vectors import LANES
from gradflow.status import Status
from gradflow.steppers.adaptive import RESUMED
from gradflow.steppers.auto import stiff_gradients
from gradflow.steppers.choose import make_field
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.stiff import Stiff

FLOW = gf.GradientFlow()
CASES = {
    "covariance": (gf.DeepLinear([4, 5, 3, 2]), "half square sum", 9, 0.0),
    "covariance, few samples, decay": (gf.DeepLinear([6, 7, 6]), "square", 3, 0.05),
    "covariance, one layer": (gf.DeepLinear([3, 1]), "square", 7, 0.0),
    "covariance, scalar": (gf.DeepLinear([1, 1, 1]), "square", 1, 0.0),
    "diagonal": (gf.Diagonal(6, depth=3), "square", 4, 0.02),
    "diagonal, more samples": (gf.Diagonal(3, depth=2), "half square sum", 11, 0.0),
    "diagonal, unsigned": (gf.Diagonal(7, depth=2, signed=False), "exponential", 5, 0.0),
    "diagonal, logistic": (gf.Diagonal(5, depth=2), "logistic", 6, 0.01),
    "tanh": (gf.FullyConnected([3, 6, 5, 1], "tanh", bias=True), "square", 8, 0.01),
    "relu": (gf.FullyConnected([2, 7, 1], "relu", bias=True), "square", 5, 0.0),
    "mixed": (gf.FullyConnected([3, 4, 3, 1], ["softplus", "gelu"], bias=True), "logistic", 7, 0.0),
    "covariance, logistic": (gf.DeepLinear([3, 4, 1]), "logistic", 6, 0.0),
    "covariance, cross-entropy": (gf.DeepLinear([3, 4, 3]), gf.losses.CrossEntropy(), 6, 0.01),
    "cross-entropy": (gf.FullyConnected([3, 5, 4], "tanh", bias=True), gf.losses.CrossEntropy(), 7, 0.0),
    "cross-entropy, two classes": (gf.FullyConnected([2, 3, 2], "softplus"), gf.losses.CrossEntropy("sum"), 5, 0.0),
    "two outputs": (gf.FullyConnected([3, 5, 2], "sigmoid"), "half square sum", 4, 0.0),
}


def problem_of(case):
    network, loss, n, decay = CASES[case]
    return make(network, loss, n=n, decay=decay)


def starts_of(problem, runs, seed=0):
    """Starts of very different sizes, so that the runs take very different steps."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((runs, problem.size)) * np.geomspace(0.2, 1.0, runs)[rng.permutation(runs), None]


def run(problem, starts, t_end=2.0, **options):
    return run_ensemble(lane_kernel(problem.kernel), starts, 0.0, t_end, **{"rtol": 1e-6, "atol": 1e-8} | options)


def same_bits(a, b, rows_a, rows_b):
    """Whether all that is known of some runs is the same."""
    names = ("status", "saves", "end", "kept_state", "kept_velocity", "start_velocity")
    return all(
        np.array_equal(getattr(a, name)[rows_a], getattr(b, name)[rows_b], equal_nan=True) for name in names
    ) and (a.records[rows_a].tobytes() == b.records[rows_b].tobytes())


def close(a, b, tolerance):
    """Distance of two states over their size, against a tolerance."""
    return np.linalg.norm(a - b, axis=-1).max() <= tolerance * np.linalg.norm(b, axis=-1).max()


@pytest.fixture(scope="module")
def deep():
    return make(gf.DeepLinear([4, 5, 4, 3]), "half square sum", n=9)


@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_single_ones(case):
    problem = problem_of(case)
    single, wide = problem.kernel, lane_kernel(problem.kernel)
    theta = np.random.default_rng(1).standard_normal((LANES, problem.size))
    out, work = np.empty(LANES * problem.size), np.zeros(wide.work_size)
    wide.gradient(theta.T.ravel(), out, wide.numbers, wide.layout, work)
    gradient, own = np.empty(problem.size), np.zeros(max(single.work_size, 1))
    for lane in range(LANES):
        value = single.gradient(theta[lane].copy(), gradient, single.numbers, single.layout, own)
        assert abs(work[lane] - value) <= 1e-13 * abs(value)
        assert np.abs(out[lane::LANES] - gradient).max() <= 1e-13 * np.abs(gradient).max()


@pytest.mark.parametrize("n", range(1, 18))
def test_kernels_equal_the_single_ones_for_every_number_of_samples(n):
    for network, loss in ((gf.DeepLinear([5, 6, 1]), "square"), (gf.Diagonal(4, 2), "logistic")):
        problem = make(network, loss, n=n)
        wide = lane_kernel(problem.kernel)
        theta = np.random.default_rng(n).standard_normal((LANES, problem.size))
        out, work = np.empty(LANES * problem.size), np.zeros(wide.work_size)
        wide.gradient(theta.T.ravel(), out, wide.numbers, wide.layout, work)
        gradients = np.stack([problem.gradient(row) for row in theta])
        assert np.allclose(work[:LANES], problem.value(theta), rtol=1e-13, atol=0)
        assert np.abs(out.reshape(-1, LANES).T - gradients).max() <= 1e-13 * np.abs(gradients).max()


def test_cross_entropy_keeps_its_digits_in_lanes():
    problem = make(gf.FullyConnected([1, 2, 3], "linear"), gf.losses.CrossEntropy("sum"), n=1)
    scales = np.geomspace(0.1, 50.0, LANES)[:, None]
    wide, found = lane_kernel(problem.kernel), []
    for seed in range(40):
        theta = scales * np.random.default_rng(seed).standard_normal((LANES, problem.size))
        out, work = np.empty(LANES * problem.size), np.zeros(wide.work_size)
        wide.gradient(theta.T.ravel(), out, wide.numbers, wide.layout, work)
        found.append(work[:LANES])
        assert np.allclose(work[:LANES], problem.value(theta), rtol=1e-13, atol=0)
    assert np.min(found, where=np.array(found) > 0, initial=1.0) < 1e-30
    assert np.max(found) > 800.0


@pytest.mark.parametrize("solver", ["dop853", "rk45"])
@pytest.mark.parametrize("case", CASES)
def test_runs_agree_with_the_single_stepper(case, solver):
    problem = problem_of(case)
    starts = 0.7 * starts_of(problem, 11)
    options = {"t_end": 1.5, "solver": solver, "rtol": 1e-7, "save_at": 14, "kinks": "ignore", "max_gradients": 30_000}
    lanes = gf.simulate(problem, starts, FLOW, ensemble="lanes", **options)
    single = gf.simulate(problem, starts, FLOW, ensemble="single", **options)
    assert [status.name for status in lanes.status] == [status.name for status in single.status]
    assert np.array_equal(lanes.t, single.t)
    through = np.flatnonzero(lanes.status == Status.REACHED_END)
    assert through.size == 11 or case == "relu"
    assert through.size >= 4
    for run in through:
        assert close(lanes[run].theta, single[run].theta, 1e-6)
        for name, most in (("accepted", 2), ("gradients", 26)):
            assert case == "relu" or abs(lanes[run].counts[name] - single[run].counts[name]) <= most


def test_a_scalar_network_follows_the_closed_form():
    problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(half=True), [[1.0]], [[2.0]])
    first = np.geomspace(1e-3, 1.0, 50)
    batch = gf.simulate(
        problem, np.sqrt(first)[:, None] * [1.0, 1.0], FLOW, 6.0, rtol=1e-8, save_at=7, ensemble="lanes"
    )
    exact = [gf.exact.two_layer_mode(batch.t, 2.0, start) for start in first]
    assert np.abs(batch.theta.prod(axis=-1) - exact).max() < 1e-6


def test_a_lane_does_not_feel_its_neighbours(deep):
    starts, grid = starts_of(deep, 37), np.linspace(0.0, 2.0, 9)
    everything = run(deep, starts, save_at=grid)
    assert (everything.status == Status.REACHED_END).all()
    order = np.random.default_rng(3).permutation(37)
    permuted = run(deep, starts[order], save_at=grid)
    assert same_bits(permuted, everything, slice(None), order)
    assert np.array_equal(permuted.saved, everything.saved[order])
    for runs in (1, 3, 8, 20):
        assert same_bits(run(deep, starts[:runs], save_at=grid), everything, slice(None), slice(runs))
    for threads in (2, 5):
        assert same_bits(run(deep, starts, save_at=grid, threads=threads), everything, slice(None), slice(None))


@pytest.mark.parametrize("case", ["diagonal, logistic", "mixed", "tanh"])
def test_a_lane_does_not_feel_its_neighbours_under_activations_and_losses(case):
    problem = problem_of(case)
    starts = starts_of(problem, 19)
    order = np.random.default_rng(3).permutation(19)
    assert same_bits(run(problem, starts[order]), run(problem, starts), slice(None), order)


def test_saving_does_not_change_the_steps(deep):
    starts = starts_of(deep, 12)
    with_saves = run(deep, starts, save_at=np.linspace(0.1, 1.9, 40))
    assert np.array_equal(with_saves.end, run(deep, starts).end)
    assert (with_saves.saves == 40).all()


def test_bad_starts_end_with_their_status_and_disturb_nobody(deep):
    starts = starts_of(deep, 30)
    good = run(deep, starts)
    starts[4], starts[11] = np.nan, 1e200 * starts[11]
    starts[21, 0] = np.inf
    mixed = run(deep, starts)
    bad = [4, 11, 21]
    assert (mixed.status[bad] == Status.NOT_FINITE_START).all()
    others = np.setdiff1d(np.arange(30), bad)
    assert same_bits(mixed, good, others, others)
    assert (run(deep, np.full((20, deep.size), np.nan)).status == Status.NOT_FINITE_START).all()


def test_a_run_that_blows_up_ends_alone():
    problem = make(gf.Diagonal(2, depth=2), "exponential", n=2)
    starts = 0.1 * starts_of(problem, 10)
    lanes = run(problem, starts, t_end=1e300, max_gradients=3000)
    options = {"max_gradients": 3000, "rtol": 1e-6, "atol": 1e-8, "solver": "dop853", "save_at": 2, "clock": "time"}
    single = [gf.simulate(problem, row, FLOW, 1e300, **options) for row in starts]
    assert [Status(status) for status in lanes.status] == [one.status for one in single]


def test_the_budget_counts_for_each_run(deep):
    starts = starts_of(deep, 13)
    batch = gf.simulate(deep, starts, FLOW, 50.0, max_gradients=100, solver="dop853", save_at=21, ensemble="lanes")
    single = gf.simulate(deep, starts, FLOW, 50.0, max_gradients=100, solver="dop853", save_at=21, ensemble="single")
    assert {status.name for status in batch.status} == {"GRADIENT_BUDGET"}
    assert batch.counts["gradients"].max() <= 100
    assert np.allclose(batch.t_end, single.t_end, rtol=1e-3)


def test_loss_stops_are_located_as_in_single_runs(deep):
    starts = starts_of(deep, 16)
    level = np.median([gf.simulate(deep, row, FLOW, 3.0, save_at=2).loss[-1] for row in starts])
    options = {"t_end": 3.0, "stop": gf.LossBelow(float(level)), "solver": "dop853", "save_at": 12}
    lanes = gf.simulate(deep, starts, FLOW, ensemble="lanes", **options)
    single = gf.simulate(deep, starts, FLOW, ensemble="single", **options)
    assert {status.name for status in lanes.status} == {"LOSS_BELOW", "REACHED_END"}
    assert lanes.status.tolist() == single.status.tolist()
    assert np.allclose(lanes.t_end, single.t_end, rtol=1e-7)
    assert close(lanes.end, single.end, 1e-7)
    for a, b in zip(lanes, single, strict=True):
        assert np.allclose(a.t, b.t, rtol=1e-7)
        assert [event.name for event in a.events] == [event.name for event in b.events]


def test_a_start_below_the_level_ends_at_once(deep):
    starts = starts_of(deep, 9)
    lanes = gf.simulate(deep, starts, FLOW, 3.0, stop=gf.LossBelow(1e9), ensemble="lanes")
    assert {status.name for status in lanes.status} == {"LOSS_BELOW"}
    assert np.array_equal(lanes.end, starts)


def test_stiff_runs_are_handed_over():
    problem = make(gf.FullyConnected([2, 6, 1], "tanh", bias=True), "square", n=12)
    starts = starts_of(problem, 6)
    options = {"t_end": 3e4, "rtol": 1e-6, "save_at": 5}
    lanes = gf.simulate(problem, starts, FLOW, ensemble="lanes", **options)
    single = gf.simulate(problem, starts, FLOW, ensemble="single", **options)
    handed = [
        [float(re.search(r"handed over .* t = (\S+):", " ".join(one.notes))[1]) for one in batch]
        for batch in (lanes, single)
    ]
    assert np.max(handed) < 0.01 * options["t_end"]
    assert {status.name for status in lanes.status} == {"REACHED_END"}
    assert lanes.counts["gradients"].sum() < 2 * single.counts["gradients"].sum()
    assert np.allclose(lanes.loss[:, -1], single.loss[:, -1], rtol=1e-4)


def snapshot_of(results, row):
    """What a lane has kept of a run, for the stepper of single runs."""
    numbers = dict(zip(RESUMED, results.records[row, 1][[*RESUMED]].tolist(), strict=True))
    return numbers | {"state": results.kept_state[row], "velocity": results.kept_velocity[row]}


def test_the_single_run_goes_on_where_the_lane_left_off_and_ends_as_the_stiff_solver():
    problem = make(gf.FullyConnected([2, 6, 1], "tanh", bias=True), "square", n=12)
    starts, t_end, rtol = starts_of(problem, 6), 3e4, 1e-6
    atol = np.array([1e-2 * rtol * typical(row) for row in starts])
    remaining = stiff_gradients(problem.kernel.flops)
    results = run(problem, starts, t_end, rtol=rtol, atol=atol, stiff_gradients=remaining)
    batch = gf.simulate(problem, starts, FLOW, t_end, rtol=rtol, save_at=2, ensemble="lanes")
    assert (results.status == Status.STIFF).all()
    for row in range(6):
        kept, field = results.records[row, 1], make_field(problem, FLOW, problem.kernel)
        assert batch[row].notes[0].startswith(f"stabilised method from t = {kept['t']:.6g} on")
        assert batch[row].notes[-1].startswith("handed over to the stiff solver at t = ")
        stiff = Stiff(field, kept["t"], results.kept_state[row], rtol=rtol, atol=float(atol[row]), symmetric=True)
        assert stiff.advance(t_end) == Status.REACHED_END
        assert close(batch[row].end, stiff.state, 10 * rtol)
        explicit = Explicit(field, kept["t"], results.kept_state[row], rtol=rtol, stiff_gradients=remaining)
        explicit.restore(snapshot_of(results, row))
        assert explicit.advance(t_end) == Status.STIFF
        assert (explicit.t, explicit.counts["gradients"]) == (kept["t"], kept["gradients"])


def test_a_loose_run_of_a_lane_goes_on(deep):
    starts = starts_of(deep, 9)
    lanes = gf.simulate(deep, starts, FLOW, 1.0, save_at=4, rtol=3e-4, ensemble="lanes")
    longer = gf.simulate(deep, starts[3], FLOW, 2.0, rtol=1e-8)
    assert close(lanes[3].extend(2.0).end, longer.end, 3e-3)


def test_a_trajectory_of_a_lane_goes_on(deep):
    starts = starts_of(deep, 9)
    lanes = gf.simulate(deep, starts, FLOW, 1.0, save_at=4, ensemble="lanes")
    longer = gf.simulate(deep, starts[3], FLOW, 2.0, save_at=7)
    assert close(lanes[3].extend(2.0).end, longer.end, 1e-7)
    assert close(lanes[3].at([0.05, 0.4, 1.0]), longer.at([0.05, 0.4, 1.0]), 1e-7)
    assert np.allclose(lanes[3].error_estimate(), 0.0, atol=1e-6)


def test_records_are_taken_at_their_own_times(deep):
    record = {"norm": (lambda problem, theta: theta @ theta, [0.25, 0.5])}
    lanes = gf.simulate(deep, starts_of(deep, 9), FLOW, 1.0, save_at=3, record=record, ensemble="lanes")
    assert lanes[2].records["norm"].t.tolist() == [0.25, 0.5]
    assert np.allclose(lanes[2].records["norm"], (lanes[2].at([0.25, 0.5]) ** 2).sum(axis=1), rtol=1e-8)


def test_runs_under_way_end_when_asked_to(deep):
    starts = starts_of(deep, 200)
    results = run(deep, starts, t_end=1e6, look=lambda ended: Status.INTERRUPTED, threads=2)
    begun = results.status == Status.INTERRUPTED
    assert 0 < begun.sum() <= 2 * LANES
    assert (results.status[~begun] == Status.PAUSED).all()
    assert np.isfinite(results.end[begun]).all()
    assert (results.records[begun, 0]["t"] > 0).all()


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
import gradflow as gf

problem = gf.Problem({network}, gf.losses.Square(), np.eye(4), np.eye(4)[:, :{outputs}], backend="{backend}")
starts = np.random.default_rng(0).standard_normal(({runs}, problem.size))
options = {{"save_at": 5, "solver": "rk45", "rtol": 1e-10, "ensemble": "lanes"}}
gf.simulate(problem, starts[:9], gf.GradientFlow(), 1e-3, **options)
sent = []


def send():
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)


threading.Timer(0.5, send).start()
batch = gf.simulate(problem, starts, gf.GradientFlow(), 1e4, **options)
print("after the signal:", time.monotonic() - sent[0])
print(sorted({{status.name for status in batch.status}}), len(batch), np.isfinite(batch.end).all())
"""


@pytest.mark.parametrize(
    ("network", "outputs", "backend", "runs"),
    [("gf.DeepLinear([4, 6, 4])", 4, "auto", 3000), ("gf.FullyConnected([4, 5, 1], 'tanh')", 1, "torch", 40)],
)
def test_ctrl_c_ends_an_ensemble_with_what_it_has(network, outputs, backend, runs):
    script = INTERRUPTED.format(network=network, outputs=outputs, backend=backend, runs=runs)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "'INTERRUPTED'" in done.stdout
    assert f"] {runs} True" in done.stdout


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_progress_counts_the_runs(backend, monkeypatch):
    shown = []

    @contextmanager
    def bar(arguments, total):
        shown.append(total)
        yield shown.append

    monkeypatch.setattr(gradflow.batch, "_bar", bar)
    problem = make(gf.DeepLinear([3, 3, 1]), "square", n=5, backend=backend)
    gf.simulate(problem, starts_of(problem, 20), FLOW, 1.0, save_at=2, ensemble="lanes")
    assert shown[0] == 20
    assert all(0 <= a <= b <= 20 for a, b in zip(shown[1:-1], shown[2:], strict=True))
    assert shown[-1] == 20


def test_memory_is_that_of_the_lanes():
    problem = problem_of("covariance")
    kernel = lane_kernel(problem.kernel)
    group = new_group(kernel, method_of("dop853"), problem.size)
    assert sum(array.nbytes for array in group) < 8 * LANES * (22 * problem.size + kernel.work_size / LANES + 200)
    assert all(array.ctypes.data % 64 == 0 for array in group[2:])


def test_auto_takes_lanes_for_many_runs_only(deep):
    few, many = starts_of(deep, 5), starts_of(deep, 64)
    batch = gf.simulate(deep, few, FLOW, 0.5, save_at=2)
    assert np.array_equal(batch.end, gf.simulate(deep, few, FLOW, 0.5, save_at=2, ensemble="single").end)
    batch = gf.simulate(deep, many, FLOW, 0.5, save_at=2)
    assert np.array_equal(batch.end, gf.simulate(deep, many, FLOW, 0.5, save_at=2, ensemble="lanes").end)


def test_what_lanes_cannot_do_is_said(deep):
    starts = starts_of(deep, 4)
    skips = [gf.Skip(0, 2, "linear")]
    relu, skipped = problem_of("relu"), make(gf.FullyConnected([3, 4, 2], "tanh", skips=skips), "square", n=5)
    for problem, dynamics, changes, reason in (
        (deep, gf.PolarFlow(), {}, "plain gradient flow"),
        (deep, gf.GradientFlow(rates={"W1": 2.0}), {}, "plain gradient flow"),
        (deep, FLOW, {"solver": "LSODA"}, "dop853"),
        (deep, FLOW, {"stop": gf.GradientBelow(1e-3)}, "LossBelow"),
        (deep, FLOW, {"save_at": "steps"}, "save_at"),
        (deep, FLOW, {"atol": np.full(deep.size, 1e-9)}, "atol"),
        (deep, FLOW, {"max_seconds": 9.0}, "max_seconds"),
        (deep, FLOW, {"clock": "log_time"}, "clock"),
        (relu, FLOW, {}, "kinks"),
        (skipped, FLOW, {}, "kernel"),
    ):
        theta0 = starts if problem is deep else np.ones((4, problem.size))
        with pytest.raises(ValueError, match=reason):
            gf.simulate(problem, theta0, dynamics, 0.1, ensemble="lanes", **changes)
    with pytest.raises(ValueError, match="single"):
        gf.simulate(deep, starts, FLOW, 0.1, ensemble="many")
