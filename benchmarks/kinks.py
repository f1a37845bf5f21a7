"""Kinked stepper: error, gradients and time against tolerance, beside plain solvers that run over the kinks.

Run it as ``python benchmarks/kinks.py``. Errors are maxima over theta at the end time, against the kinked stepper at
rtol 1e-12; times are CPU seconds, compilation excluded.
"""

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


if __name__ == "__main__":
    for case, (maker, end) in CASES.items():
        measure(case, maker, end)
