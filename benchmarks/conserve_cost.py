"""What conserve=True costs on the deep linear network 10-10-10-10: processor time with it over that without.

Run: python benchmarks/conserve_cost.py [--repeats 100]. Runs with and without take turns; the least of each counts.
"""

import argparse
import os
import time

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import numpy as np  # noqa: E402
from bench_problems import dlin  # noqa: E402

import gradflow as gf  # noqa: E402
from gradflow.dynamics.manifold import manifold  # noqa: E402

TOLERANCES, POINTS = (1e-4, 1e-6, 1e-8), (2, 200)


def seconds(function) -> float:
    """Processor time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def deviation(case, run) -> float:
    """Largest change of a conserved quantity at a saved state, over the largest squared norm of a row or column."""
    surface = manifold(case.problem, gf.GradientFlow())
    first = surface.values(run.states[0])
    matrices = run.states.reshape(-1, 3, 10, 10)
    size = max((matrices**2).sum(axis).max() for axis in (-1, -2))
    return max(np.abs(surface.values(state) - first).max() for state in run.states) / size


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=100)
    repeats = options.parse_args().repeats
    case = dlin()
    print("| rtol | saved points | ms without | ms with | ratio | drift without | drift with |")
    print("|---|---|---|---|---|---|---|")
    for rtol in TOLERANCES:
        for points in POINTS:

            def run(conserve, rtol=rtol, points=points):
                call = {"rtol": rtol, "save_at": points, "conserve": conserve, "progress": False}
                return gf.simulate(case.problem, case.theta0, gf.GradientFlow(), case.t_end, **call)

            drifts = [deviation(case, run(flag)) for flag in (False, True)]
            times = [(seconds(lambda: run(False)), seconds(lambda: run(True))) for _ in range(repeats)]
            free, held = np.min(times, axis=0)
            numbers = f"{1e3 * free:.2f} | {1e3 * held:.2f} | {held / free:.2f}"
            print(f"| {rtol:.0e} | {points} | {numbers} | {drifts[0]:.0e} | {drifts[1]:.0e} |")


if __name__ == "__main__":
    main()
