"""H.-H. Chou, H. Rauhut, R. Ward: Robust Implicit Regularization via Weight Normalization. 2024, arXiv 2305.05448.

A diagonal linear network x = w^L is fitted to few measurements of a sparse vector. The plain flow finds the sparse
solution from small starts only; the polar flow w = r u, with the direction moving eta times as fast as the radius,
finds it from all starts with |w(0)|^2 below the l1 norm of the solution. The limit of depth two is known in closed
form, and so is a vector that the polar flow conserves; both are derived anew here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
MEASURED = {  # relative error of the limit by depth and scale: plain flow, eta = 1, 3, 10; from an independent solver
    2: {
        1e-3: (3.50e-5, 0.158, 2.66e-2, 7.04e-5),
        1e-2: (1.80e-3, 0.159, 2.67e-2, 7.16e-5),
        3e-2: (1.20e-2, 0.161, 2.78e-2, 8.21e-5),
        0.1: (9.66e-2, 0.186, 4.25e-2, 3.87e-4),
        0.2: (0.316, 0.292, 0.142, 3.95e-2),
        0.22: (0.371, 0.329, 0.186, 8.59e-2),
        0.3: (0.616, 0.545, 0.468, 0.427),
    },
    3: {0.03: (2.5e-4, 1.93e-2, 5.1e-4), 0.1: (9.0e-3, 2.45e-2, 1.08e-3), 0.2: (6.9e-2, 5.15e-2, 9.7e-3)},
}


def recipe(depth):
    """Problem with ten measurements of a vector with two entries 1/2 among twenty, and that vector."""
    rng = np.random.default_rng(1)
    measurements = rng.standard_normal((10, 20)) / np.sqrt(10)
    truth = np.zeros(20)
    truth[rng.choice(20, 2, replace=False)] = 0.5
    square = gf.losses.Square("sum", half=True)
    return gf.Problem(gf.Diagonal(20, depth, signed=False), square, measurements, measurements @ truth), truth


def flows(etas):
    """Label -> flow and colour: the plain one, then the polar ones."""
    shaded = gf.plots.coloured(etas, gf.PolarFlow())
    polar = {rf"polar, $\eta = {eta:g}$": (gf.PolarFlow(angular_rate=eta), colour) for eta, colour in shaded}
    return {"plain": (gf.GradientFlow(), gf.plots.colours(gf.GradientFlow()))} | polar


@PAPER.figure(
    minutes=0.7,
    claims=9,
    small={"alphas": (1e-3, 3e-2, 0.1, 0.3), "etas": (1, 10), "alphas_cubic": (0.1, 0.2), "etas_cubic": (1,)},
)
def error_vs_scale(
    alphas=(1e-3, 1e-2, 3e-2, 0.1, 0.2, 0.22, 0.3),
    etas=(1, 3, 10, 30),
    alphas_cubic=(0.03, 0.1, 0.2, 0.3),
    etas_cubic=(1, 3),
):
    """Relative error of the limit against the scale alpha of the start, for depths two and three.

    The plain flow degrades as alpha grows, the polar flow stays on its plateau until |w(0)|^2 = 20 alpha^2 reaches
    the l1 norm of the sparse solution (dashed). Crosses: the closed form, which is derived here.
    """
    fig, axes = gf.plots.subplots(1, 2, sharey=True)
    data, dual, deviation, drift = {}, [], {2: [], 3: []}, {2: [], 3: []}
    for depth, scales, ratios, ax in ((2, alphas, etas, axes[0]), (3, alphas_cubic, etas_cubic, axes[1])):
        problem, truth = recipe(depth)
        error = np.empty((1 + len(ratios), len(scales)))
        for j, alpha in enumerate(scales):
            known = dict(zip((0, 1, 3, 10), MEASURED[depth].get(alpha, ()), strict=False))
            for i, (eta, (flow, _)) in enumerate(zip((0, *ratios), flows(ratios).values(), strict=True)):
                tight = {"rtol": 1e-8 / 10**depth, "atol": 1e-9 / 1000 ** (depth - 1)}
                run = gf.simulate(problem, np.full(20, alpha), flow, stop=gf.LossBelow(1e-20), **tight)
                error[i, j] = np.linalg.norm(run.end**depth - truth) / np.linalg.norm(truth)
                if eta:
                    drift[depth].append(run.drift["kernel"].max())
                if eta and depth == 2:
                    limit = gf.exact.polar_diagonal_limit(problem.x, problem.y, run.theta[0], eta)
                    dual.append(abs(run.end**2 - limit).max())
                    ax.plot(alpha, np.linalg.norm(limit - truth) / np.linalg.norm(truth), "x", color="0.4", zorder=3)
                if eta in known:
                    deviation[depth].append(abs(error[i, j] / known[eta] - 1))
        for i, (label, (_, colour)) in enumerate(flows(etas).items()):
            row = error[i] if i < len(error) else np.full(len(scales), np.nan)
            ax.loglog(scales, row, "o-", color=colour, label=label if depth == 3 else None)
        gf.plots.reference(ax, np.sqrt(1 / 20), axis="x")
        ax.set(title=f"depth {depth}", xlabel=r"scale $\alpha$ of the start", ylim=(1e-11, 3))
        data |= {f"alpha{depth}": (f"alpha{depth}", list(scales)), f"eta{depth}": (f"eta{depth}", [0, *ratios])}
        data |= {f"error{depth}": ((f"eta{depth}", f"alpha{depth}"), error)}
    axes[0].set_ylabel(r"error $|x_\infty - x_*| \,/\, |x_*|$")
    square, scales = data["error2"][1], np.array(alphas)
    plateau = square[:, scales <= 0.03]
    ten = 1 + etas.index(10)
    at_tenth = square[:, list(alphas).index(0.1)]
    return fig, data, [
        gf.Claim("dual_limit", "the limit is S softmax(b), b = 2 log u0 + eta r0^2 + A^T nu", dual, below=1e-7),
        gf.Claim("table", "errors of the limits of depth two equal those of an independent solver, relative",
                 deviation[2], below=5e-3),
        gf.Claim("table_cubic", "and of depth three, known to two digits", deviation[3], below=2e-2),
        gf.Claim("invariant", "P(log u + eta r^2/2) is constant for depth two", drift[2], below=1e-6),
        gf.Claim("invariant_cubic", "P(u^-1 exp(-eta r^2/2)) is constant for depth three", drift[3], below=1e-8),
        gf.Claim("robustness", "eta = 10: the error over alpha in [1e-3, 3e-2] varies by less than 1.3",
                 plateau[ten].max() / plateau[ten].min(), below=1.3),
        gf.Claim("plain_degrades", "the plain flow's error varies by more than 100 there",
                 plateau[0].max() / plateau[0].min(), above=100),
        gf.Claim("advantage", "at alpha = 0.1 the plain error is more than 100 times that of eta = 10",
                 at_tenth[0] / at_tenth[ten], above=100),
        gf.Claim("breakdown", "at alpha = 0.3, |w(0)|^2 = 1.8 > |x*|_1 = 1, no eta finds the sparse vector",
                 square[:, list(alphas).index(0.3)], above=0.3),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=2, small={"etas": (1, 10)})
def loss_vs_time(etas=(1, 3, 10, 30), alpha=0.1, t_end=60.0):
    """Loss against time from alpha = 0.1, depth two: exponential, and faster the larger eta is at first."""
    problem, _ = recipe(2)
    fig, ax = gf.plots.subplots()
    times, curves = np.linspace(0, t_end, 301), []
    for label, (flow, colour) in flows(etas).items():
        run = gf.simulate(problem, np.full(20, alpha), flow, t_end=t_end, save_at=times, rtol=1e-10, atol=1e-12)
        ax.semilogy(run.t, run.loss, color=colour, label=label)
        curves.append(run.loss)
    ax.set(xlabel=r"time $t$", ylabel=r"loss $\frac{1}{2}|A w^2 - y|^2$")
    curves = np.array(curves)
    data = {"t": ("t", times), "eta": ("eta", [0, *etas]), "loss": (("eta", "t"), curves)}
    below_start = (curves[:, 0] < 0.5 * np.sum(problem.y**2)).all()
    return fig, data, [
        gf.Claim("descent", "the loss never rises, d loss/dt = -eta_r (u.g)^2 - eta_u r^2 |(I - u u^T) g|^2",
                 np.diff(curves, axis=1) / curves[:, :-1], below=1e-9),
        gf.Claim("no_trap", "the first loss is below |y|^2/2, so that r = 0 cannot attract", bool(below_start)),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=4)
def invariant_drift(eta=3.0, alpha=0.1, t_end=4.0, steps=(0.04, 0.02, 0.01, 0.005)):
    """Drift of the conserved vector, depth two: rounding for the flow, of order h for discrete polar descent."""
    from scipy.integrate import simpson

    problem, _ = recipe(2)
    start, flow = np.full(20, alpha), gf.PolarFlow(angular_rate=eta)
    exact = gf.simulate(problem, start, flow, t_end=t_end, rtol=1e-12, solver="dop853")
    runs = [gf.simulate(problem, start, gf.GD(h, flow=flow), t_end=t_end) for h in steps]
    log_flow = flow.prepared(problem, start)
    kernel = log_flow.invariants(problem)["kernel"]
    fig, ax = gf.plots.subplots()
    drifts = []
    shaded = [(0, "k"), *gf.plots.coloured(steps, runs[0].dynamics)]
    for (h, colour), run in zip(shaded, (exact, *runs), strict=True):
        drift = kernel.drift(run.t, np.array([log_flow.pack(problem, theta) for theta in run.theta]))
        ax.semilogy(run.t[1:], drift[1:], color=colour, label=f"polar GD, $h = {h:g}$" if h else "polar flow")
        drifts.append(drift[-1])
    ax.set(xlabel=r"time $t = k h$", ylabel=r"drift of $P(\log u + \eta r^2/2)$")
    drifts = np.array(drifts[1:])
    errors = np.array([np.linalg.norm(run.end**2 - exact.end**2) for run in runs])
    fast = gf.PolarFlow(radial_rate=gf.PowerRate(1, 2), angular_rate=1.0)
    squared = gf.simulate(problem, start, fast, t_end=40.0, rtol=1e-12, solver="dop853", save_at=20_001)
    elapsed = simpson(np.asarray(squared.records["radius"][:, 0]) ** 2, x=squared.t)
    plain = gf.simulate(problem, start, gf.GradientFlow(), t_end=elapsed, rtol=1e-12, solver="dop853")
    data = {"h": ("h", list(steps)), "distance": ("h", errors), "drift": ("h", drifts)}
    return fig, data, [
        gf.Claim.halves("gd_order", "halving h halves the distance to the flow", errors, within=0.1),
        gf.Claim.halves("gd_drift", "halving h halves the drift of the invariant", drifts, within=0.2),
        gf.Claim("plain_time", "with eta_r = r^2, eta_u = 1: plain time int_0^40 r^2 dt", elapsed,
                 expected=42.8178, within=1e-4),
        gf.Claim("plain_reparam", "and w is that of the plain flow at that time", abs(squared.end - plain.end).max(),
                 below=1e-8),
    ]  # fmt: skip
