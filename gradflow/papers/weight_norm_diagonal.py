"""H.-H. Chou, H. Rauhut, R. Ward: Robust Implicit Regularization via Weight Normalization. 2024, arXiv 2305.05448. A
diagonal network x = w^L is fitted to few measurements of a sparse vector. The plain flow finds it from small starts
only; the polar flow w = r u, whose direction moves eta times as fast as the radius, from all with |w(0)|^2 below its l1
norm. The limit of depth two in closed form and a vector that the polar flow conserves are derived anew here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SCALES = (1e-3, 1e-2, 3e-2, 0.1, 0.2, 0.22, 0.3)


def recipe(depth):
    """Problem with ten measurements of a vector with two entries 1/2 among twenty, and that vector."""
    x, y, truth = gf.data.sparse_measurements(10, 20, nonzeros=2, seed=1, value=0.5)
    return gf.Problem(gf.Diagonal(20, depth, signed=False), gf.losses.Square("sum", half=True), x, y), truth


def flow(eta):
    """Polar flow with that ratio of the rates; the plain flow for eta = 0."""
    return gf.PolarFlow(angular_rate=eta) if eta else gf.GradientFlow()


def draw(ax, rows, etas, **look):
    """A line for the plain flow and one for each eta, whether it was run or not."""
    gf.plots.lines(ax, rows.sel(eta=[0]), label="plain", dynamics=gf.GradientFlow(), **look)
    polar = rows.reindex(eta=list(etas))
    gf.plots.lines(ax, polar, label=r"polar, $\eta = {:g}$", dynamics=gf.PolarFlow(), **look)


def limit(depth, eta, alpha):
    """Error of the limit of the flow, and of its closed form; their distance, and the drift of the invariant."""
    (problem, truth), start = recipe(depth), np.full(20, alpha)
    tight = {"rtol": 1e-8 / 10**depth, "atol": 1e-9 / 1000 ** (depth - 1)}
    run = gf.simulate(problem, start, flow(eta), stop=gf.LossBelow(1e-20), **tight)
    found, exact = run.end**depth, np.full(20, np.nan)
    if eta and depth == 2:
        exact = gf.exact.polar_diagonal_limit(problem.x, problem.y, start, eta)
    error, known = np.linalg.norm([found - truth, exact - truth], axis=1) / np.linalg.norm(truth)
    return {"error": error, "exact": known, "off": abs(found - exact).max(), "drift": run.drift["kernel"].max()}


@PAPER.figure(minutes=0.2, claims=9, small={"alphas": (1e-3, 3e-2, 0.1, 0.3), "etas": (1, 10), "etas_cubic": (1,)})
def error_vs_scale(alphas=SCALES, etas=(1, 3, 10, 30), alphas_cubic=(0.03, 0.1, 0.2, 0.3), etas_cubic=(1, 3)):
    """Relative error of the limit against the scale of the start; runs stop at a loss of 1e-20, an error of 5e-10."""
    square = gf.sweep(limit, depth=2, eta=(0, *etas), alpha=alphas)
    cubic = gf.sweep(limit, depth=3, eta=(0, *etas_cubic), alpha=alphas_cubic)
    fig, axes = gf.plots.subplots(
        1, 2, sharey=True, title=["depth 2", "depth 3"], xlabel=r"scale $\alpha$ of the start", xscale="log",
        yscale="log", ylabel=[r"error $|x_\infty - x_*| \,/\, |x_*|$", ""], ylim=(1e-12, 3))  # fmt: skip
    for ax, rows in zip(axes, (square, cubic), strict=True):
        draw(ax, rows.error, etas, marker="o")
        gf.plots.reference(ax, np.sqrt(1 / 20), "$|w(0)|^2 = |x_*|_1$", axis="x")
        gf.plots.lines(ax, rows.exact, label="closed form", color="0.4", marker="x", linestyle="none", zorder=3)
    eta, plateau, tenth = max({10} & {*etas} or etas), square.error.sel(alpha=slice(0.03)), square.error.sel(alpha=0.1)
    spread = plateau.max("alpha") / plateau.min("alpha")
    far = square.error.sel(alpha=0.3)
    plain, some = square.error[0] / PAPER.independent("plain"), cubic.error / PAPER.independent("cubic")
    return fig, [
        gf.Claim("dual_limit", "x = S softmax(2 log u0 + eta r0^2 + A^T nu)", square.off[1:], below=2e-9),
        gf.Claim("plain", "errors of an independent solver", abs(plain - 1), below=5e-3),
        gf.Claim("cubic", "depth three, known to two digits", abs(some - 1), below=2e-2),
        gf.Claim("invariant", "P(log u + eta r^2/2) is constant for depth two", square.drift[1:], below=1e-8),
        gf.Claim("invariant_cubic", "P(u^-1 exp(-eta r^2/2)) is for depth three", cubic.drift[1:], below=2e-10),
        gf.Claim("robustness", f"eta = {eta:g}: the error up to alpha = 0.03, max/min", spread.sel(eta=eta), below=1.3),
        gf.Claim("plain_degrades", "and that of the plain flow, max/min", spread[0], above=100),
        gf.Claim("advantage", "alpha = 0.1: the plain error over that one", tenth[0] / tenth.sel(eta=eta), above=100),
        gf.Claim("breakdown", "alpha = 0.3, |w(0)|^2 = 1.8 > |x*|_1: no eta finds x*", far, above=0.3)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=2, small={"etas": (1, 10)})
def loss_vs_time(etas=(1, 3, 10, 30), alpha=0.1, t_end=60.0):
    """Loss against time from alpha = 0.1, depth two: the larger eta, the deeper the first fall."""
    problem, options = recipe(2)[0], {"save_at": np.linspace(0, t_end, 301), "rtol": 1e-12, "atol": 1e-14}
    runs = gf.sweep(lambda eta: gf.simulate(problem, np.full(20, alpha), flow(eta), t_end, **options), eta=(0, *etas))
    fig, ax = gf.plots.subplots(xlabel=r"time $t$", ylabel=r"loss $\frac{1}{2}|A w^2 - y|^2$", yscale="log")
    draw(ax, runs.loss, etas)
    loss, first = runs.loss.values, runs.loss[:, 0] / (0.5 * np.sum(problem.y**2))
    return fig, runs, [
        gf.Claim("descent", "the loss never rises, d loss/dt = -eta_r (u.g)^2 - eta_u r^2 |(I - u u^T) g|^2: rise over"
                 " the loss or 1e-15", np.diff(loss) / np.maximum(loss[:, :-1], 1e-15), below=0.0),
        gf.Claim("no_trap", "|y|^2/2 is above the first loss: no fall to r = 0", first, below=1.0)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def invariant_drift(eta=3.0, alpha=0.1, t_end=4.0, steps=(0.04, 0.02, 0.01, 0.005)):
    """Drift of the conserved vector, depth two: rounding for the flow, of order h for discrete polar descent."""
    problem, start, tight = recipe(2)[0], np.full(20, alpha), {"rtol": 1e-12, "solver": "dop853"}
    exact, times = gf.simulate(problem, start, flow(eta), t_end, **tight), np.arange(0, t_end + 1e-9, max(steps))
    runs = [gf.simulate(problem, start, gf.GD(h, flow=flow(eta)), t_end, save_at=times) for h in steps]
    drifts = np.array([gf.measure.drift(run, flow(eta))["kernel"] for run in runs])
    distances = [np.linalg.norm(run.end**2 - exact.end**2) for run in runs]
    ylabel = r"drift of $P(\log u + \eta r^2/2)$"
    fig, ax = gf.plots.subplots(xlabel=r"time $t = k h$", ylabel=ylabel, yscale="log")
    gf.plots.lines(ax, exact.drift["kernel"], exact.t, label="polar flow", dynamics=flow(eta))
    gf.plots.lines(ax, drifts, runs[0].t, steps, label="polar GD, $h = {:g}$", dynamics=gf.GD(1.0))
    fast = gf.PolarFlow(radial_rate=gf.PowerRate(1, 2), angular_rate=1.0)
    squared = gf.simulate(problem, start, fast, 40.0, save_at=20_001, **tight)
    elapsed = gf.measure.time_integral(squared, lambda problem, theta: theta @ theta)
    off = abs(squared.end - gf.simulate(problem, start, gf.GradientFlow(), elapsed, **tight).end)
    return fig, [
        gf.Claim.halves("gd_order", "halving h halves the distance to the flow", distances, within=0.1),
        gf.Claim.halves("gd_drift", "halving h halves the drift of the invariant", drifts[:, -1], within=0.1),
        gf.Claim("plain_time", "eta_r = r^2, eta_u = 1: int_0^40 r^2 dt", elapsed, expected=42.8178, within=1e-4),
        gf.Claim("plain_reparam", "w is that of the plain flow", off, below=1e-13)]  # fmt: skip
