"""E. Moroshko, S. Gunasekar, B. Woodworth, J. D. Lee, N. Srebro, D. Soudry: Implicit Bias in Deep Linear
Classification: Initialization Scale vs Training Accuracy. NeurIPS, 2020, arXiv 2007.06738.

The flow of a diagonal linear network on separable data turns from the separator of largest l2 margin to that of largest
l1 margin. The scale alpha of the start and the loss reached decide together, through mu = alpha^D / log(1/loss), so
that the limit may show only far below a loss of 1e-100. The penalty Q_mu and the closed forms are derived here.
"""

import numpy as np
import xarray

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SAMPLES = np.array([[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]])  # times their labels; the least l1 norm is that of (1, 0, 0)
SINGLE = np.array([[1.0, 0.3]])
DECADES = np.array([10.0, 100.0, 1000.0, 10_000.0])
L1, LOSS = r"excess $\ell_1$ norm", r"$\log_{10}(1/L)$"
MEASURED = xarray.DataArray(  # l1 norm over the margin, from an independent solver
    [(1.000628, 1.000159, 1.0000395, 1.0000097), (1.14992, 1.04085, 1.00998, 1.002396),
     (1.36311, 1.33364, 1.15120, 1.04073), (1.36346, 1.35920, 1.35845, 1.33337)],
    {"alpha": [0.01, 1.0, 10.0, 100.0], "decade": DECADES})  # fmt: skip
DEEP = xarray.DataArray(  # the same at 1e-10000
    [(1.0023960, 1.0001898, 1.0001089), (1.000141, 1.0000002042, 1.0000000114)],
    {"alpha": [1.0, 0.1], "depth": [2, 3, 4]})  # fmt: skip


def separate(samples, alpha, depth=2, flow=None, decades=DECADES):
    """Flow from u = v = alpha under the sum of exp(-margin); its weights w = u^D - v^D at losses 10^-decade."""
    network, saved = gf.Diagonal(samples.shape[1], depth), gf.at(log10_loss=-decades[:-1])
    problem = gf.Problem(network, gf.losses.Exponential("sum"), samples, np.ones(len(samples)))
    start, flow, options = np.full(problem.size, alpha), flow or gf.GradientFlow(), {"rtol": 1e-10, "clock": "log_loss"}
    end = gf.at(log10_loss=-decades[-1])
    run = gf.simulate(problem, start, flow, end, save_at=saved, atol=1e-14 * alpha, **options)
    return run, run.measure(gf.measure.effective_map)[1:]


def excess(w, norm=1):
    """Norm of w over its margin, relative to the least possible, minus one."""
    least = 1.0 if norm == 1 else np.linalg.norm(np.linalg.pinv(SAMPLES).sum(1))
    return np.linalg.norm(w, norm, axis=-1) / (w @ SAMPLES.T).min(-1) / least - 1


def path(alpha, depth, points):
    """Weights along the path with their excess norms, and the drifts."""
    decades = np.unique([*np.geomspace(1, DECADES[-1], points), *DECADES])
    run, w = separate(SAMPLES, alpha, depth, decades=decades)
    found = {"decade": decades, "l1": excess(w), "l2": excess(w, 2)}
    kept = {name: drift.max() for name, drift in run.drift.items()}
    return {name: ("decade", values) for name, values in found.items()} | {"w": (("decade", "entry"), w)} | kept


@PAPER.figure(minutes=0.1, claims=9)
def paths(alphas=(0.01, 0.1, 1.0, 10.0, 100.0), points=81):
    """From a loss of 0.1 to 1e-10000, five scales alpha of the start; dashed: the least Q_mu, left over all mu, right
    at mu = alpha^2/log(1/loss).
    """
    runs = gf.sweep(path, alpha=alphas, depth=2, points=points)
    ideal = gf.sweep(
        lambda alpha, decade: ("entry", gf.exact.diagonal_max_margin(SAMPLES, alpha**2 / (np.log(10) * decade))),
        alpha=alphas, decade=runs.decade.values).value  # fmt: skip
    apart = np.linalg.norm(runs.w - np.log(10) * runs.decade * ideal, axis=2) / np.linalg.norm(ideal, axis=2)
    gap = runs.l1.copy(data=apart).loc[0.1:, DECADES]
    curve = np.array([gf.exact.diagonal_max_margin(SAMPLES, mu) for mu in np.geomspace(1e-9, 1e5, 141)])
    thin, scales = {"color": "k", "linestyle": "--", "linewidth": 0.9}, ["linear", "log"]
    fig, axes = gf.plots.subplots(1, 2, xlabel=[r"excess $\ell_2$ norm", LOSS], ylabel=L1, xscale=scales, yscale=scales)
    widths = np.linspace(6, 2, len(alphas)).tolist()
    gf.plots.lines(axes[0], runs.l1, runs.l2, label=r"$\alpha = {:g}$", linewidth=widths)
    gf.plots.lines(axes[0], excess(curve), excess(curve, 2), **thin)
    gf.plots.lines(axes[1], runs.l1, label=r"$\alpha = {:g}$")
    gf.plots.lines(axes[1], excess(ideal.values), runs.decade, **thin)
    axes[1].set_ylim(3e-6, 1)
    one, ten, hundred = runs.l1.loc[[1, 10, 100]]
    slope = np.log10(one.loc[1000] / one.loc[10_000])
    return fig, runs, [
        gf.Claim("q_path", "|w - log(1/L) w_Q|/|w_Q| is log 2 for alpha >= 0.1", gap, above=0.66, below=0.75),
        gf.Claim("l1_norms", "those of an independent solver", abs((runs.l1 + 1) / MEASURED - 1), below=1.5e-4),
        gf.Claim("rich", "alpha = 1 at 1e-10000: excess l1 norm", one[-1], below=0.0025),
        gf.Claim("kernel", "alpha = 100 at 1e-10000: excess l1 norm", hundred[-1], above=0.33),
        gf.Claim("kernel_l2", "and excess l2 norm", runs.l2.loc[100, 1e4], below=8e-4),
        gf.Claim("extreme", "alpha = 10 is still near the l2 separator at 1e-100: excess", ten.loc[100], above=0.33),
        gf.Claim("slope", "alpha = 1: the excess l1 norm falls as log(1/L)^-0.62", slope, expected=0.62, within=5e-3),
        gf.Claim("identity", "log(1/L) is the clock's s: relative error", runs.identity_error, below=3e-7),
        gf.Claim("invariant", "u v = alpha^2, relative", runs.coordinates, below=1e-9),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=6, small={"scales": (1e-3, 1.0, 10.0)})
def depths(scales=(1e-3, 1e-2, 0.1, 1.0, 10.0), alphas=(1.0, 0.1), points=41):
    """Left: excess l1 norm for alpha = 1 (full) and 0.1 (dashed): deep networks turn sooner. Right: error of w down to
    a loss of 1e-10000 on one sample, where a closed form is known at every depth.
    """

    def error(depth, alpha):
        exact = gf.exact.diagonal_at_margin(np.log(10) * DECADES, SINGLE[0], alpha, depth)
        return np.abs(separate(SINGLE, alpha, depth)[1] / exact - 1).max()

    runs = gf.sweep(path, alpha=alphas, depth=(2, 3, 4), points=points)
    errors = gf.sweep(error, depth=(2, 3, 4), alpha=scales).value
    primal, polar = separate(SAMPLES, 1.0)[1], gf.PolarFlow(angular_rate=gf.PowerRate(1, -2))
    dual, cubic = separate(SAMPLES, 1.0, flow=polar)[1], separate(SINGLE, 0.1, 3)[1]
    last, early = runs.l1[..., -1], runs.l1.loc[0.1, 3, 10] / runs.l1.loc[0.1, 2, 10]
    labels = {"xlabel": [LOSS, r"scale $\alpha$ of the start"], "ylabel": [L1, "relative error of $w$"]}
    fig, axes = gf.plots.subplots(1, 2, xscale="log", yscale="log", **labels)
    gf.plots.lines(axes[0], runs.l1[0], label="depth {}")
    gf.plots.lines(axes[0], runs.l1[1], label="depth {}", linestyle="--")
    gf.plots.lines(axes[1], errors, label="depth {}", marker="o")
    axes[1].set_ylim(1e-12, 1e-7)
    return fig, gf.plots.drawn(fig), [
        gf.Claim("closed_form", "one sample: w equals its closed form at every depth, relative", errors, below=1e-8),
        gf.Claim("cubic", "D = 3, alpha = 0.1: w_2", cubic[-1, 1], expected=0.00244604, within=5e-9),
        gf.Claim("excess", "at 1e-10000, those of an independent solver", abs(last / (DEEP - 1) - 1), below=6e-3),
        gf.Claim("invariant_deep", "u^(2-D) + v^(2-D), for D = 2 u v, is constant", runs.coordinates, below=2e-9),
        gf.Claim("primal_dual", "the flow in log u and log v has the same w", abs(primal / dual - 1), below=5e-9),
        gf.Claim("deeper_is_sooner", "alpha = 0.1: excess l1 norm at 1e-10, depth 3 over depth 2", early, below=0.1),
    ]  # fmt: skip
