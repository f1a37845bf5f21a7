"""Kinked stepper: error, gradients and time against tolerance, beside plain solvers that run over the kinks.

Run it as ``python benchmarks/kinks.py``, or ``python benchmarks/kinks.py cost`` for the cost alone: against the same
network with tanh, per event, of a sliding gradient, and by part. Errors are maxima over theta at the end time, against
the kinked stepper at rtol 1e-12; times are CPU seconds, compilation excluded.
"""

import cProfile
import pstats
import sys
import time

import numpy as np
from scipy.integrate import solve_ivp

import gradflow as gf
from gradflow.kinks import expected_events
from gradflow.status import Status
from gradflow.steppers.implicit_masks import ImplicitMasks
from gradflow.steppers.kinked import Kinked

CAP = 60_000


def regression(widths, n=40, seed=0):
    """Gaussian inputs, random signs, He weights and biases."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(widths[0], n)).T, rng.choice([-1.0, 1.0], (1, n)).T
    blocks = [
        rng.normal(size=(b, a + 1)) * np.sqrt(2.0 / (a + 1)) for a, b in zip(widths[:-1], widths[1:], strict=True)
    ]
    problem = gf.Problem(gf.FullyConnected(widths, bias=True), gf.losses.Square(half=True), x, y)
    return problem, np.concatenate([part for w in blocks for part in (w[:, :-1].ravel(), w[:, -1])])


def classification():
    """Four clusters in 16 dimensions, widths 16-12-12-4, cross-entropy."""
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(4, 16)), np.arange(60) % 4
    x = (centres[labels] + rng.normal(size=(60, 16))) / 4
    problem = gf.Problem(gf.FullyConnected([16, 12, 12, 4]), gf.losses.CrossEntropy(), x, labels)
    return problem, problem.init(1.0, seed=1, scheme="xavier")


CASES = {
    "5-20-1, 40 samples": (lambda: regression([5, 20, 1]), 20.0),
    "16-12-12-4, 60 samples": (classification, 50.0),
    "5-20-20-1, 40 samples": (lambda: regression([5, 20, 20, 1]), 20.0),
    "10-50-1, 100 samples": (lambda: regression([10, 50, 1], n=100), 20.0),
}


class Capped(Exception):
    """More gradients than allowed."""


def plain(problem, theta, t_end, method, rtol):
    """scipy on the raw field: end state (None if capped) and gradients."""
    count = 0

    def field(_, state):
        nonlocal count
        count += 1
        if count > CAP:
            raise Capped
        return -problem.gradient(state)

    try:
        return solve_ivp(field, (0.0, t_end), theta, method=method, rtol=rtol, atol=rtol / 100).y[:, -1], count
    except Capped:
        return None, CAP


def row(name, error, gradients, seconds):
    """Print one line of the table."""
    print(f"  {name:28s} {error:>9s} {gradients:8d} gradients {seconds:7.2f} s")


def measure(name, make, t_end):
    """One problem: the kinked stepper at three tolerances, implicit masks, plain solvers."""
    problem, theta = make()
    reference = Kinked(problem, 0.0, theta, rtol=1e-12)
    reference.advance(t_end)
    kinds, counts = np.unique(reference.events["kind"], return_counts=True)
    found = ", ".join(f"{count} {kind}" for kind, count in zip(kinds, counts, strict=True))
    most = reference.number_sliding[1].max(initial=0)
    print(
        f"{name}, t = {t_end:g}: {found}; {most} sliding at once; about {expected_events(problem):.0f} events expected"
    )
    for rtol in (1e-6, 1e-8, 1e-10):
        begin = time.process_time()
        run = Kinked(problem, 0.0, theta, rtol=rtol)
        status = run.advance(t_end)
        seconds = time.process_time() - begin
        error = np.abs(run.state - reference.state).max()
        row(
            f"kinked, rtol {rtol:g}",
            f"{error:.1e}" if status is Status.REACHED_END else status.name,
            run.counts["gradients"],
            seconds,
        )
    if reference.network.flat:
        begin = time.process_time()
        run = ImplicitMasks(problem, 0.0, theta, step=5e-3)
        run.advance(t_end)
        error = np.abs(run.state - reference.state).max()
        row("implicit masks, step 5e-3", f"{error:.1e}", run.counts["gradients"], time.process_time() - begin)
    for method, rtol in (("RK45", 1e-4), ("RK45", 1e-6), ("DOP853", 1e-6)):
        begin = time.process_time()
        end, gradients = plain(problem, theta, t_end, method, rtol)
        error = "capped" if end is None else f"{np.abs(end - reference.state).max():.1e}"
        row(f"plain {method}, rtol {rtol:g}", error, gradients, time.process_time() - begin)


PARTS = {
    "compiled steps and events": ("kinked_compiled.py", ("follow",)),
    "events in Python": ("arrive.py", ("arrive", "leave")),
}
WIDE = {"196-20-1, 200 samples": (lambda: images(196, 200), 20.0)}
"""Where gradients are dear; no plain solver comes to its end."""


def images(pixels, n):
    """Gaussian inputs of unit variance in all, random signs."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, pixels)) / np.sqrt(pixels), rng.choice([-1.0, 1.0], (n, 1))
    problem = gf.Problem(gf.FullyConnected([pixels, 20, 1], bias=True), gf.losses.Square(half=True), x, y)
    return problem, problem.init(1.0, seed=1)


def best(function, repeats=3):
    """Result, and least CPU seconds of several calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        result = function()
        seconds.append(time.process_time() - begin)
    return result, min(seconds)


def with_tanh(problem):
    """The problem of the same network with tanh."""
    stages = problem.network.stages
    widths = [stages[0].inputs, *(stage.outputs for stage in stages)]
    network = gf.FullyConnected(widths, "tanh", bias=stages[0].bias)
    targets = problem.y.argmax(axis=1) if problem.loss.labels == "class" else problem.y
    return gf.Problem(network, problem.loss, problem.x, targets)


def follow(problem, theta, t_end, rtol):
    """A finished kinked run."""
    run = Kinked(problem, 0.0, theta, rtol=rtol)
    run.advance(t_end)
    return run


def sliding_gradient(run):
    """What the sliding kinks at the end of a run add to a gradient."""
    state = run._run
    place, network = state.place, run.network
    if not place.sliding.size:
        return "nothing slides at the end"

    compiled, room = state.compiled, (np.empty((4, network.size)), np.empty(place.theta.size), np.empty((2, 1024)))
    addresses = [array.ctypes.data for array in (place.theta, place.sigma, *room)]

    def evaluations(kinks, joint):
        compiled._take_wall(kinks, joint)
        for _ in range(2000):
            compiled._chain.evaluate(compiled._desk, compiled._walls, *addresses)

    walls = ((place.sliding, place.surface), (np.zeros(0, dtype=np.int64), None))
    seconds = [best(lambda wall=wall: evaluations(*wall), 9)[1] for wall in walls]
    extra = 1e6 * (seconds[0] - seconds[1]) / 2000
    units, out = np.empty((4, network.size)), np.empty(place.theta.size)

    def gradients():
        for _ in range(2000):
            network.passes.gradient(place.theta, place.sigma, network.layout, network.numbers, units, out)

    bare = 1e6 * best(gradients, 9)[1] / 2000
    return (
        f"{place.sliding.size} sliding kinks add {extra:.2f} us to a gradient of {bare:.2f} us: {1 + extra / bare:.2f}x"
    )


def shares(problem, theta, t_end, rtol):
    """Share of the time of each part, under the profiler."""
    profile = cProfile.Profile()
    profile.runcall(follow, problem, theta, t_end, rtol)
    stats = pstats.Stats(profile)
    rows = stats.stats.items()  # pyright: ignore[reportAttributeAccessIssue]
    spent = {
        part: sum(row[3] for (file, _, name), row in rows if file.endswith(where) and name in names)
        for part, (where, names) in PARTS.items()
    }
    total = stats.total_tt  # pyright: ignore[reportAttributeAccessIssue]
    found = [f"{part} {100 * seconds / total:.0f} %" for part, seconds in spent.items()]
    return ", ".join([*found, f"the rest {100 * (1 - sum(spent.values()) / total):.0f} %"])


def cost(name, make, t_end):
    """One problem: gradients and CPU time against tanh, gradients per event, sliding gradients, shares."""
    problem, theta = make()
    smooth = with_tanh(problem)
    print(f"{name}, t = {t_end:g}")
    for rtol in (1e-6, 1e-8):
        runs = (
            lambda rtol=rtol: follow(problem, theta, t_end, rtol),
            lambda rtol=rtol: gf.simulate(smooth, theta, gf.GradientFlow(), t_end=t_end, rtol=rtol, save_at=2),
            lambda rtol=rtol: gf.simulate(problem, theta, gf.GradientFlow(), t_end=t_end, rtol=rtol),
        )
        rounds = [[best(run, 1) for run in runs] for _ in range(6)]
        (run, seconds), (other, base), (_, called) = (
            min(column, key=lambda pair: pair[1]) for column in zip(*rounds, strict=True)
        )
        gradients, plain_gradients = run.counts["gradients"], other.counts["gradients"]
        instants, stages = np.unique(run.events["time"]).size, run._run.pair.A.shape[0] - 1
        at_events = gradients - stages * (run.counts["accepted"] + run.counts["rejected"] - instants)
        print(
            f"  rtol {rtol:g}: {gradients} gradients, {1e3 * seconds:.1f} ms; tanh {plain_gradients},"
            f" {1e3 * base:.1f} ms; {gradients / plain_gradients:.1f}x in gradients, {seconds / base:.1f}x in time,"
            f" {called / base:.1f}x by simulate with 200 saves;"
            f" {at_events / instants:.1f} gradients for each of {instants} events, its step included"
        )
    print(f"  {sliding_gradient(run)}")
    print(f"  {shares(problem, theta, t_end, 1e-6)}")


if __name__ == "__main__":
    for case, (maker, end) in CASES.items():
        cost(case, maker, end)
        if "cost" not in sys.argv[1:]:
            measure(case, maker, end)
    for case, (maker, end) in WIDE.items():
        cost(case, maker, end)
