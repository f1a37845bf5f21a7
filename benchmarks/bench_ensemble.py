"""A thousand flows of one problem from different starts: flows per second of one core."""

import time

import numpy as np
from bench_machine import machine
from bench_problems import CASES, ensemble_starts
from peers.contender import absolute
from peers.gradients import compiled_velocity, numpy_velocity
from scipy.integrate import solve_ivp

import gradflow as gf

RUNS, PEER_TOLERANCE = 1000, 1e-6
CHECKED = np.arange(0, RUNS, 25)
FEW = np.arange(0, RUNS, 50)


def by_gradflow(case, starts):
    """simulate on the batch, solver "auto"."""
    gf.set_threads(1)

    def solve(tolerance):
        options = {"rtol": tolerance, "save_at": 2, "progress": False}
        return gf.simulate(case.problem, starts, gf.GradientFlow(), case.t_end, **options).end

    return solve


def by_torchode(case, starts):
    """Tsit5 with a step per flow; gradient by batched products with the covariances of the data."""
    import torch
    from peers.torch_peers import torchode_solver
    from torchode import InitialValueProblem

    torch.set_num_threads(1)
    n, size = case.x.shape
    inputs, cross = (torch.from_numpy(a.T @ case.x / n) for a in (case.x, case.y))

    @torch.no_grad()
    def velocity(t, theta):
        first, second, third = theta.view(-1, 3, size, size).unbind(1)
        below = torch.bmm(second, first)
        error = cross - torch.bmm(third, below) @ inputs
        back = torch.bmm(third.mT, error)
        parts = [torch.bmm(second.mT, back), torch.bmm(back, first.mT), torch.bmm(error, below.mT)]
        return torch.stack(parts, 1).view(theta.shape)

    begin = torch.from_numpy(starts)
    times = torch.tensor([[0.0, case.t_end]], dtype=torch.float64).expand(len(starts), 2)

    def solve(tolerance):
        with torch.no_grad():
            run = torchode_solver(velocity, tolerance).solve(InitialValueProblem(y0=begin, t_eval=times))
        return run.ys[:, -1].numpy()

    return solve


def by_diffrax(case, starts):
    """jax.vmap of diffrax Tsit5."""
    import jax
    import jax.numpy as jnp
    from peers.jax_peers import integrate

    run, begin = jax.jit(jax.vmap(integrate(case, "Tsit5"), (0, None, None))), jnp.asarray(starts)
    return lambda tolerance: np.asarray(run(begin, tolerance, absolute(tolerance))[0])


def by_scipy(make_velocity):
    """DOP853, one flow after the other."""

    def prepare(case, starts):
        velocity = make_velocity(case)

        def one(start, tolerance):
            options = {"method": "DOP853", "rtol": tolerance, "atol": absolute(tolerance)}
            return solve_ivp(velocity, (0.0, case.t_end), start, t_eval=[case.t_end], **options).y[:, -1]

        return lambda tolerance: np.stack([one(start, tolerance) for start in starts])

    return prepare


def by_numbalsoda(case, starts):
    """DOP853, one flow after the other, gradient on all samples."""
    import numbalsoda
    from peers.numbalsoda_peer import compiled_callback

    callback, data = compiled_callback(case.on_data.kernel)
    velocity, times = callback(case.size), np.array([0.0, case.t_end])

    def solve(tolerance):
        options = {"rtol": tolerance, "atol": absolute(tolerance), "mxstep": 200_000}
        ends = [numbalsoda.dop853(velocity.address, start, times, data, **options)[0][-1] for start in starts]
        return np.stack(ends)

    solve.keeps = velocity
    return solve


PEERS = {
    "numbalsoda DOP853, compiled gradient": (by_numbalsoda, np.arange(RUNS)),
    "torchode Tsit5, batched covariances": (by_torchode, np.arange(RUNS)),
    "diffrax Tsit5, vmap": (by_diffrax, np.arange(RUNS)),
    "scipy DOP853, numpy gradient": (by_scipy(numpy_velocity), FEW),
}
OWN_TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


def measure_ensemble() -> dict:
    """Flows per second and largest error over the checked flows, for every contender."""
    case, starts = CASES["dlin"](), ensemble_starts(RUNS)
    truth = dict(zip(CHECKED, by_scipy(compiled_velocity)(case, starts[CHECKED])(1e-12), strict=True))
    rows = {"gradflow auto": _points(by_gradflow, case, starts, np.arange(RUNS), OWN_TOLERANCES, truth, 2)}
    missing = {}
    for name, (prepare, chosen) in PEERS.items():
        try:
            rows[name] = _points(prepare, case, starts[chosen], chosen, (PEER_TOLERANCE,), truth, 1)
        except ImportError as error:
            missing[name] = str(error)
    about = f"dlin, {RUNS} starts of scales 0.3 to 1.2, T = {case.t_end:g}"
    return {"problem": "ensemble", "about": about, "machine": machine(), "rows": rows, "not_installed": missing}


def _points(prepare, case, starts, chosen, tolerances, truth, rounds):
    """[tolerance, largest error, flows per second] for every tolerance."""
    solve, points = prepare(case, starts), []
    if prepare in (by_gradflow, by_diffrax):
        solve(PEER_TOLERANCE)
    for tolerance in tolerances:
        best = np.inf
        for _ in range(rounds):
            start = time.process_time()
            ends = solve(tolerance)
            best = min(best, time.process_time() - start)
        errors = [
            np.linalg.norm(end - truth[run]) / np.linalg.norm(truth[run])
            for run, end in zip(chosen, ends, strict=True)
            if run in truth
        ]
        points.append([tolerance, float(max(errors)), len(chosen) / best])
    return points
