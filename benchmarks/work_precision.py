"""Processor time against achieved error: gradflow beside scipy, torchdiffeq, torchode, diffrax, CVODE, numbalsoda.

Run: ``make bench``, or python benchmarks/work_precision.py [--quick] [--problems dlin,tanh] [--contenders gradflow].
One thread; contenders take turns; the time of a point is the least of several rounds; compilation is excluded.
Writes one JSON and one figure per problem, and a table, to benchmarks/results.
"""

import argparse
import contextlib
import gc
import importlib
import json
import logging
import os
import time
import warnings
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ |= {name: "1" for name in THREADS}
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ |= {"JAX_ENABLE_X64": "1", "JAX_CPU_ENABLE_ASYNC_DISPATCH": "0", "JAX_PLATFORMS": "cpu"}

import numpy as np  # noqa: E402
from bench_ensemble import measure_ensemble  # noqa: E402
from bench_gradients import gradient_seconds  # noqa: E402
from bench_machine import machine  # noqa: E402
from bench_problems import CASES  # noqa: E402
from bench_reference import reference  # noqa: E402
from bench_report import write_ensemble_figure, write_figure, write_report  # noqa: E402
from peers.contender import TooSlow  # noqa: E402

MODULES = ("own", "scipy_peers", "torch_peers", "cvode_peer", "numbalsoda_peer", "jax_peers")
QUICK, SLOW_TO_COMPILE = ("dlin", "stiff1441"), ("diffrax Kvaerno5", "diffrax Dopri8")
QUICK_CAP = 0.3
ROUNDS = 5
SMALL_ENOUGH = 1e-9
SHORT, IN_A_ROW = 0.02, 5


def contenders(wanted) -> tuple[list, dict]:
    """Contenders whose names begin with one of `wanted`, and the packages that are missing."""
    found, missing = [], {}
    for name in MODULES:
        try:
            found += importlib.import_module(f"peers.{name}").CONTENDERS
        except ImportError as error:
            missing[name] = str(error)
    return [c for c in found if not wanted or any(c.name.startswith(prefix) for prefix in wanted)], missing


class Row:
    """The points of one contender on one case: tolerance -> (error, seconds, gradients)."""

    def __init__(self, contender, case):
        self.contender, self.case = contender, case
        self.points: dict[float, tuple[float, float, int]] = {}
        self.note = contender.refusal(case) or ""
        self.solve = None

    def visit(self, round_number, tolerances, truth):
        """One round over the tolerances, from loose to tight; points that took long are not repeated often."""
        if self.note and self.solve is None:
            return
        if self.solve is None and not self._prepare(tolerances[0]):
            return
        for tolerance in tolerances:
            before = self.points.get(tolerance)
            if round_number and (before is None or before[1] * round_number > self.case.cap / 20):
                continue
            try:
                point = self._measure(tolerance, truth)
            except TooSlow:
                self.note = f"over the cap of {self.case.cap:g} s from rtol {tolerance:.0e}"
                break
            if point is None:
                continue
            if before is not None:
                point = (point[0], min(point[1], before[1]), point[2])
            self.points[tolerance] = point
            if point[1] > self.case.cap:
                self.note = f"over the cap of {self.case.cap:g} s from rtol {tolerance:.0e}"
            if point[1] > self.case.cap or point[0] < SMALL_ENOUGH:
                break

    def _prepare(self, tolerance) -> bool:
        """Set up, and compile by a first run."""
        try:
            self.solve = self.contender.prepare(self.case)
        except Exception as error:
            self.note = f"not set up: {short(error)}"
            return False
        if self.contender.compiles:
            with contextlib.suppress(Exception):
                self.solve(tolerance)
        return True

    def _measure(self, tolerance, truth):
        """Error, seconds, gradients; a short run is taken several times in a row, so that its code is in the caches."""
        gc.collect()
        seconds, repeats = np.inf, 0
        while repeats == 0 or (seconds < SHORT and repeats < IN_A_ROW):
            start = time.process_time()
            try:
                end, gradients = self.solve(tolerance)
            except TooSlow:
                raise
            except Exception as error:
                self.note = self.note or f"failed at rtol {tolerance:.0e}: {short(error)}"
                return None
            seconds = min(seconds, time.process_time() - start)
            repeats += 1
        error = float(np.linalg.norm(end - truth) / np.linalg.norm(truth))
        return (error, seconds, int(gradients)) if np.isfinite(error) else None


def short(error) -> str:
    """First line of an exception."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"


def measure(name, field, rounds, quick=False) -> dict:
    """All contenders on one case, in turns."""
    case = CASES[name]()
    if quick:
        case.cap, case.tolerances = QUICK_CAP, (1e-3, 1e-6)
    truth, how = reference(case)
    rows = [Row(contender, case) for contender in field]
    for round_number in range(rounds):
        for row in rows:
            row.visit(round_number, case.tolerances, truth)
    return {
        "problem": name,
        "about": case.about,
        "parameters": case.size,
        "targets": case.targets,
        "must": case.must,
        "aim": case.aim,
        "reference": how,
        "gradient_seconds": gradient_seconds(case.problem.kernel, case.theta0),
        "kernel": case.problem.kernel.name,
        "machine": machine(),
        "rows": {
            row.contender.name: {
                "own": row.contender.own,
                "note": row.note,
                "points": [[tolerance, *row.points[tolerance]] for tolerance in sorted(row.points, reverse=True)],
            }
            for row in rows
        },
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--problems", default=",".join([*CASES, "ensemble"]), help="comma-separated")
    options.add_argument("--contenders", default="", help="comma-separated beginnings of names; default: all")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--quick", action="store_true", help="two problems, two tolerances, nothing written")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options.add_argument("--only-report", action="store_true", help="table and figures from the JSON files at hand")
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if given.only_report:
        return report(given.out)
    field, missing = contenders([name for name in given.contenders.split(",") if name])
    for module, why in missing.items():
        print(f"left out {module}: {why}", flush=True)
    if given.quick:
        field = [contender for contender in field if contender.name not in SLOW_TO_COMPILE]
        results = [measure(name, field, 1, quick=True) for name in QUICK]
        print(write_report(results, []))
        return None
    given.out.mkdir(exist_ok=True)
    for name in given.problems.split(","):
        print(f"{name} ...", flush=True)
        start = time.process_time()
        result = measure_ensemble() if name == "ensemble" else measure(name, field, given.rounds)
        result["missing"] = missing
        (given.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {time.process_time() - start:.0f} s of processor time", flush=True)
    return report(given.out)


def report(folder):
    """Table and figures from the JSON files of a folder."""
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    results = [found[name] for name in CASES if name in found]
    ensemble = [found["ensemble"]] if "ensemble" in found else []
    text = write_report(results, ensemble)
    (folder / "work_precision.md").write_text(text)
    for result in results:
        write_figure(result, folder / f"{result['problem']}.png")
    for result in ensemble:
        write_ensemble_figure(result, folder / f"{result['problem']}.png")
    print(text)


if __name__ == "__main__":
    main()
