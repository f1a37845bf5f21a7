"""References: the end state by another library at the tightest tolerance, checked against gradflow's own."""

import hashlib
import os
from pathlib import Path

import numpy as np
from peers.gradients import compiled_velocity
from scipy.integrate import solve_ivp

import gradflow as gf

RTOL, RTOL_AT_KINKS = 1e-12, 1e-8


def reference(case) -> tuple[np.ndarray, dict]:
    """End state, and how it was found; computed once and kept in the folder BENCH_CACHE."""
    folder = Path(os.environ.get("BENCH_CACHE", Path(__file__).parent.parent / ".venv-bench" / "references"))
    key = hashlib.sha256(case.theta0.tobytes() + case.x.tobytes() + case.y.tobytes() + str(case.t_end).encode())
    file = folder / f"{case.name}-{key.hexdigest()[:16]}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        truth, check = by_another(case), by_gradflow(case)
        np.savez(file, truth=truth, check=check)
    with np.load(file) as kept:
        truth, check = kept["truth"], kept["check"]
    rtol = RTOL_AT_KINKS if case.activation == "relu" else RTOL
    apart = float(np.linalg.norm(truth - check) / np.linalg.norm(truth))
    return truth, {"method": case.reference, "rtol": rtol, "distance_to_gradflow": apart}


def by_another(case) -> np.ndarray:
    """scipy's DOP853, RK45 or Radau, or CVODE."""
    if case.reference == "CVODE":
        return by_cvode(case)
    rtol = RTOL_AT_KINKS if case.activation == "relu" else RTOL
    options = {"jac": lambda t, theta: -case.on_data.hessian(theta)} if case.reference == "Radau" else {}
    run = solve_ivp(
        compiled_velocity(case),
        (0.0, case.t_end),
        case.theta0,
        method=case.reference,
        t_eval=[case.t_end],
        rtol=rtol,
        atol=rtol / 100,
        **options,
    )
    if not run.success:
        raise RuntimeError(f"no reference for {case.name}: {run.message}")
    return run.y[:, -1]


def by_cvode(case) -> np.ndarray:
    """CVODE with GMRES at a tenth of the tolerance: its errors add up."""
    from sksundae.cvode import CVODE

    velocity = compiled_velocity(case)

    def fill(t, theta, out):
        out[:] = velocity(t, np.array(theta))

    options = {"rtol": RTOL / 10, "atol": RTOL / 1000, "max_num_steps": 10**7, "krylov_dim": 60}
    run = CVODE(fill, method="BDF", linsolver="gmres", **options).solve(np.array([0.0, case.t_end]), case.theta0)
    if not run.success:
        raise RuntimeError(f"no reference for {case.name}: {run.message}")
    return np.array(run.y[-1])


def by_gradflow(case) -> np.ndarray:
    """gradflow's own end state at the same tolerance: the stiff solver where explicit ones cannot go."""
    solver, rtol = ("dop853", RTOL) if case.explicit else ("stiff", RTOL)
    if case.activation == "relu":
        solver, rtol = "rk45", RTOL_AT_KINKS
    options = {"solver": solver, "save_at": 2, "kinks": "ignore", "progress": False}
    return gf.simulate(case.problem, case.theta0, gf.GradientFlow(), case.t_end, rtol=rtol, **options).end
