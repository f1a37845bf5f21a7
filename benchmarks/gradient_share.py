"""How much of a run is gradients: on the problems dlin, tanh and diag, at three tolerances.

Run: python benchmarks/gradient_share.py. Processor time, the least of many calls of ``simulate`` with two saved points;
gradients counted, times the cost of one called from compiled code. The rest is steps and the call itself.
"""

import os
import time

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

from bench_gradients import gradient_seconds  # noqa: E402
from bench_problems import CASES  # noqa: E402

import gradflow as gf  # noqa: E402

REPEATS = 60


def main():
    print("| problem | rtol | run, ms | gradients | one gradient, us | outside, us per gradient | share inside |")
    print("|---|---|---|---|---|---|---|")
    for name in ("dlin", "tanh", "diag"):
        case = CASES[name]()
        each = gradient_seconds(case.problem.kernel, case.theta0)
        for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
            best, call = float("inf"), {"rtol": rtol, "save_at": 2, "progress": False}
            for _ in range(REPEATS):
                start = time.process_time()
                run = gf.simulate(case.problem, case.theta0, gf.GradientFlow(), case.t_end, **call)
                best = min(best, time.process_time() - start)
            count = run.counts["gradients"]
            outside = 1e6 * (best / count - each)
            numbers = f"{1e3 * best:.2f} | {count} | {1e6 * each:.2f} | {outside:.2f}"
            print(f"| {name} | {rtol:.0e} | {numbers} | {100 * each * count / best:.0f} % |")


if __name__ == "__main__":
    main()
