"""H.-H. Chou, H. Rauhut, R. Ward: Robust Implicit Regularization via Weight Normalization. 2024, arXiv 2305.05448.

A diagonal linear network x = w^L is fitted to few measurements of a sparse vector. The plain flow finds the sparse
solution from small starts only; the polar flow w = r u, with the direction moving eta times as fast as the radius,
finds it from all starts with |w(0)|^2 below the l1 norm of the solution. The limit of depth two is known in closed
form, and so is a vector that the polar flow conserves; both are derived anew here.
"""

import numpy as np
import xarray

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SCALES = {2: (1e-3, 1e-2, 3e-2, 0.1, 0.2, 0.22, 0.3), 3: (0.03, 0.1, 0.2)}
MEASURED = {  # relative error of the limit by depth: plain flow (0), then eta; for those scales, independently solved
    2: {
        0: (3.50e-5, 1.80e-3, 1.20e-2, 9.66e-2, 0.316, 0.371, 0.616),
        1: (0.158, 0.159, 0.161, 0.186, 0.292, 0.329, 0.545),
        3: (2.66e-2, 2.67e-2, 2.78e-2, 4.25e-2, 0.142, 0.186, 0.468),
        10: (7.04e-5, 7.16e-5, 8.21e-5, 3.87e-4, 3.95e-2, 8.59e-2, 0.427),
    },
    3: {0: (2.5e-4, 9.0e-3, 6.9e-2), 1: (1.93e-2, 2.45e-2, 5.15e-2), 3: (5.1e-4, 1.08e-3, 9.7e-3)},
}
SMALL = {"alphas": (1e-3, 3e-2, 0.1, 0.3), "etas": (1, 10), "alphas_cubic": (0.1, 0.2), "etas_cubic": (1,)}


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
    """Where the flow from alpha fits the data, and the drift of the invariant."""
    problem, _ = recipe(depth)
    tight = {"rtol": 1e-8 / 10**depth, "atol": 1e-9 / 1000 ** (depth - 1)}
    run = gf.simulate(problem, np.full(20, alpha), flow(eta), stop=gf.LossBelow(1e-20), **tight)
    return {"x": ("entry", run.end**depth), "drift": run.drift["kernel"].max()}


@PAPER.figure(minutes=0.7, claims=9, small=SMALL)
def error_vs_scale(alphas=SCALES[2], etas=(1, 3, 10, 30), alphas_cubic=(*SCALES[3], 0.3), etas_cubic=(1, 3)):
    """Relative error of the limit against the scale alpha of the start, for depths two and three.

    The plain flow degrades as alpha grows, the polar flow stays on its plateau until |w(0)|^2 = 20 alpha^2 reaches
    the l1 norm of the sparse solution (dashed). Crosses: the closed form, which is derived here.
    """
    problem, truth = recipe(2)

    def closed_form(eta, alpha):
        return {"x": ("entry", gf.exact.polar_diagonal_limit(problem.x, problem.y, np.full(20, alpha), eta))}

    exact, found = gf.sweep(closed_form, eta=etas, alpha=alphas), {}
    found[2] = gf.sweep(limit, depth=2, eta=(0, *etas), alpha=alphas)
    found[3] = gf.sweep(limit, depth=3, eta=(0, *etas_cubic), alpha=alphas_cubic)
    for data in (exact, *found.values()):
        data["error"] = (((data.x - truth) ** 2).sum("entry") / (truth**2).sum()) ** 0.5
    fig, axes = gf.plots.subplots(
        1, 2, sharey=True, title=["depth 2", "depth 3"], xlabel=r"scale $\alpha$ of the start", xscale="log",
        yscale="log", ylabel=[r"error $|x_\infty - x_*| \,/\, |x_*|$", ""], ylim=(1e-11, 3),
    )  # fmt: skip
    deviation = {}
    for ax, (depth, table) in zip(axes, MEASURED.items(), strict=True):
        draw(ax, found[depth].error, etas, marker="o")
        gf.plots.reference(ax, np.sqrt(1 / 20), axis="x")
        known = xarray.DataArray(list(table.values()), {"eta": list(table), "alpha": list(SCALES[depth])})
        deviation[depth] = abs(found[depth].error / known - 1)
    gf.plots.lines(axes[0], exact.error, color="0.4", marker="x", linestyle="none", zorder=3)
    error, eta, polar = found[2].error, 10 if 10 in etas else max(etas), list(etas)
    plateau, at_tenth = error.sel(alpha=error.alpha <= 0.03), error.sel(alpha=0.1)
    spread = plateau.max("alpha") / plateau.min("alpha")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("dual_limit", "the limit is S softmax(b), b = 2 log u0 + eta r0^2 + A^T nu", abs(found[2].x - exact.x),
                 below=1e-7),
        gf.Claim("table", "errors of the limits of depth two equal those of an independent solver, relative",
                 deviation[2], below=5e-3),
        gf.Claim("table_cubic", "and of depth three, known to two digits", deviation[3], below=2e-2),
        gf.Claim("invariant", "P(log u + eta r^2/2) is constant for depth two", found[2].drift.sel(eta=polar),
                 below=1e-6),
        gf.Claim("invariant_cubic", "P(u^-1 exp(-eta r^2/2)) is constant for depth three",
                 found[3].drift.sel(eta=list(etas_cubic)), below=1e-8),
        gf.Claim("robustness", f"eta = {eta:g}: the error over alpha in [1e-3, 3e-2] varies by less than 1.3",
                 spread.sel(eta=eta), below=1.3),
        gf.Claim("plain_degrades", "the plain flow's error varies by more than 100 there", spread.sel(eta=0),
                 above=100),
        gf.Claim("advantage", f"at alpha = 0.1 the plain error is more than 100 times that of eta = {eta:g}",
                 at_tenth.sel(eta=0) / at_tenth.sel(eta=eta), above=100),
        gf.Claim("breakdown", "at alpha = 0.3, |w(0)|^2 = 1.8 > |x*|_1 = 1, no eta finds the sparse vector",
                 error.sel(alpha=0.3), above=0.3),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=2, small={"etas": (1, 10)})
def loss_vs_time(etas=(1, 3, 10, 30), alpha=0.1, t_end=60.0):
    """Loss against time from alpha = 0.1, depth two: exponential, and faster the larger eta is at first."""
    problem, _ = recipe(2)

    def descent(eta):
        start, times = np.full(20, alpha), np.linspace(0, t_end, 301)
        run = gf.simulate(problem, start, flow(eta), t_end, save_at=times, rtol=1e-10, atol=1e-12)
        return {"t": ("t", run.t), "loss": ("t", run.loss)}

    runs = gf.sweep(descent, eta=(0, *etas))
    fig, ax = gf.plots.subplots(xlabel=r"time $t$", ylabel=r"loss $\frac{1}{2}|A w^2 - y|^2$", yscale="log")
    draw(ax, runs.loss, etas)
    loss = runs.loss.values
    return fig, runs, [
        gf.Claim("descent", "the loss never rises, d loss/dt = -eta_r (u.g)^2 - eta_u r^2 |(I - u u^T) g|^2"
                 " (relative to the loss or to 1e-15)", np.diff(loss) / np.maximum(loss[:, :-1], 1e-15), below=1e-9),
        gf.Claim("no_trap", "the first loss is below |y|^2/2, so that r = 0 cannot attract",
                 bool((loss[:, 0] < 0.5 * np.sum(problem.y**2)).all())),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=4)
def invariant_drift(eta=3.0, alpha=0.1, t_end=4.0, steps=(0.04, 0.02, 0.01, 0.005)):
    """Drift of the conserved vector, depth two: rounding for the flow, of order h for discrete polar descent."""
    (problem, _), start, tight = recipe(2), np.full(20, alpha), {"rtol": 1e-12, "solver": "dop853"}
    exact = gf.simulate(problem, start, flow(eta), t_end, **tight)

    def descent(step):
        run = gf.simulate(problem, start, gf.GD(step, flow=flow(eta)), t_end) if step else exact
        drift = gf.measure.drift(run, flow(eta))["kernel"][1:]
        distance = np.linalg.norm(run.end**2 - exact.end**2)
        return {"time": ("saved", run.t[1:]), "drift": ("saved", drift), "last": drift[-1], "distance": distance}

    runs = gf.sweep(descent, step=(0, *steps))
    fig, ax = gf.plots.subplots(xlabel=r"time $t = k h$", ylabel=r"drift of $P(\log u + \eta r^2/2)$", yscale="log")
    gf.plots.lines(ax, runs.drift[:1], runs.time[:1], label="polar flow", color="k")
    gf.plots.lines(ax, runs.drift[1:], runs.time[1:], label="polar GD, $h = {:g}$", dynamics=gf.GD(1.0))
    fast = gf.PolarFlow(radial_rate=gf.PowerRate(1, 2), angular_rate=1.0)
    squared = gf.simulate(problem, start, fast, t_end=40.0, save_at=20_001, **tight)
    elapsed = gf.measure.time_integral(squared, lambda problem, theta: theta @ theta)
    plain = gf.simulate(problem, start, gf.GradientFlow(), t_end=elapsed, **tight)
    return fig, runs, [
        gf.Claim.halves("gd_order", "halving h halves the distance to the flow", runs.distance[1:], within=0.1),
        gf.Claim.halves("gd_drift", "halving h halves the drift of the invariant", runs["last"][1:], within=0.2),
        gf.Claim("plain_time", "with eta_r = r^2, eta_u = 1: plain time int_0^40 r^2 dt", elapsed,
                 expected=42.8178, within=1e-4),
        gf.Claim("plain_reparam", "and w is that of the plain flow at that time", abs(squared.end - plain.end).max(),
                 below=1e-8),
    ]  # fmt: skip
