"""Processor seconds of the first call of simulate: with an empty cache of compiled code, and in a process after that.

Run: python benchmarks/first_call.py, or with names of cases. Each case is measured in processes of its own with an
empty NUMBA_CACHE_DIR: the first call of `simulate` with default settings less a second, equal call. Then the same in a
new process with the cache filled (least of three), and `import gradflow` (least of three).
"""

import os
import subprocess
import sys
import tempfile

WAYS = {"flow": "gf.GradientFlow()", "gd": "gf.GD(0.01)"}
NETWORKS = {
    "deep linear, square": ("gf.DeepLinear([10] * 4)", "gf.losses.Square()", "rng.standard_normal((50, 10))"),
    "diagonal, square": ("gf.Diagonal(10, 2)", "gf.losses.Square()", "rng.standard_normal((50, 1))"),
    "tanh, square": (
        "gf.FullyConnected([10, 32, 32, 1], 'tanh', bias=True)",
        "gf.losses.Square()",
        "rng.standard_normal((50, 1))",
    ),
    "tanh, cross-entropy": (
        "gf.FullyConnected([10, 32, 32, 3], 'tanh', bias=True)",
        "gf.losses.CrossEntropy()",
        "rng.integers(3, size=50)",
    ),
    "tanh, logistic": (
        "gf.FullyConnected([10, 32, 32, 1], 'tanh', bias=True)",
        "gf.losses.Logistic()",
        "rng.choice([-1.0, 1.0], 50)",
    ),
    "relu, square": ("gf.FullyConnected([10, 20, 1])", "gf.losses.Square()", "rng.standard_normal((50, 1))"),
    "relu, cross-entropy": (
        "gf.FullyConnected([10, 20, 3])",
        "gf.losses.CrossEntropy()",
        "rng.integers(3, size=50)",
    ),
}
CASES = {
    f"{name}, {way}": (*parts, dynamics, 20.0) for name, parts in NETWORKS.items() for way, dynamics in WAYS.items()
}
PROGRAM = """
import time
clock = time.process_time
begin = clock()
import gradflow as gf
imported = clock() - begin
import numpy as np
rng = np.random.default_rng(0)
x = rng.standard_normal((50, 10))
network, loss, y = {0}, {1}, {2}
begin = clock()
problem = gf.Problem(network, loss, x, y)
theta0 = problem.init(0.5, seed=0)
run = lambda: gf.simulate(problem, theta0, {3}, t_end={4})
first = run()
middle = clock()
second = run()
assert (first.end == second.end).all()
print(imported, middle - begin - (clock() - middle))
"""


def seconds(case, cache):
    """Import, and first call less second."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", PROGRAM.format(*CASES[case])]
    made = subprocess.run(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return [float(word) for word in made.stdout.split()]


def main(names):
    print("| first call | seconds, cache empty | seconds, cache filled | import |")
    print("|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            _, cold = seconds(name, cache)
            warm = [seconds(name, cache) for _ in range(3)]
        imported, first = (min(column) for column in zip(*warm, strict=True))
        print(f"| {name} | {cold:.1f} | {first:.2f} | {imported:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
