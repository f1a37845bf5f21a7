"""E. Moroshko, S. Gunasekar, B. Woodworth, J. D. Lee, N. Srebro, D. Soudry: Implicit Bias in Deep Linear
Classification: Initialization Scale vs Training Accuracy. NeurIPS, 2020, arXiv 2007.06738. The flow of a diagonal
network on separable data turns from the largest l2 margin to the largest l1 margin. The start's scale alpha and the
loss decide together, by mu = alpha^D/log(1/loss): the limit may show far below 1e-100. Q_mu, closed forms derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SAMPLES = np.array([[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]])  # times their labels; the least l1 norm is that of (1, 0, 0)
SINGLE = np.array([[1.0, 0.3]])
DECADES = np.array([10.0, 100.0, 1000.0, 10_000.0])
L1, LOSS = r"excess $\ell_1$ norm", r"$\log_{10}(1/L)$"


def separate(samples, alpha, depth=2, flow=None, decades=DECADES):
    """Flow from u = v = alpha under the sum of exp(-margin); its weights w = u^D - v^D at losses 10^-decade."""
    network, ones = gf.Diagonal(samples.shape[1], depth), np.ones(len(samples))
    problem = gf.Problem(network, gf.losses.Exponential("sum"), samples, ones)
    options = {"rtol": 1e-10, "atol": 1e-14 * alpha, "clock": "log_loss", "save_at": gf.at(log10_loss=-decades[:-1])}
    start, end = np.full(problem.size, alpha), gf.at(log10_loss=-decades[-1])
    run = gf.simulate(problem, start, flow or gf.GradientFlow(), end, **options)
    return run, run.measure(gf.measure.effective_map)[1:]


def excess(w, norm=1):
    """Norm of w over its margin, relative to the least possible, minus one."""
    least = 1.0 if norm == 1 else np.linalg.norm(np.linalg.pinv(SAMPLES).sum(1))
    return np.linalg.norm(w, norm, axis=-1) / (w @ SAMPLES.T).min(-1) / least - 1


def path(alpha, depth, points):
    """Weights along the path with their excess norms, and the drifts."""
    decades = np.unique([*np.geomspace(1, DECADES[-1], points), *DECADES])
    run, w = separate(SAMPLES, alpha, depth, decades=decades)
    found = {"decade": ("decade", decades), "l1": ("decade", excess(w)), "l2": ("decade", excess(w, 2))}
    return found | {"w": (("decade", "entry"), w)} | {name: drift.max() for name, drift in run.drift.items()}


@PAPER.figure(minutes=0.1, claims=9)
def paths(alphas=(0.01, 0.1, 1.0, 10.0, 100.0), points=81):
    """Excess norms down to a loss of 1e-10000; least Q_mu: for all mu (left), for mu = alpha^2/log(1/loss) (right)."""
    runs = gf.sweep(path, alpha=alphas, depth=2, points=points)
    scale, logs = runs.alpha.values[:, None], np.log(10) * runs.decade.values
    ideal = gf.exact.diagonal_max_margin(SAMPLES, scale**2 / logs)
    apart = np.linalg.norm(runs.w - logs[:, None] * ideal, axis=2) / np.linalg.norm(ideal, axis=2)
    curve = gf.exact.diagonal_max_margin(SAMPLES, np.geomspace(1e-9, 1e5, 141))
    thin, scales = {"color": "k", "linestyle": "--", "linewidth": 0.9}, ["linear", "log"]
    fig, axes = gf.plots.subplots(1, 2, xlabel=[r"excess $\ell_2$ norm", LOSS], ylabel=L1, xscale=scales, yscale=scales,
                                  ylim=[None, (3e-6, 1)])  # fmt: skip
    widths = np.linspace(6, 2, len(alphas)).tolist()
    gf.plots.lines(axes[0], runs.l1, runs.l2, label=r"$\alpha = {:g}$", linewidth=widths)
    gf.plots.lines(axes[0], excess(curve), excess(curve, 2), label=r"least $Q_\mu$", **thin)
    gf.plots.lines(axes[1], runs.l1, label=r"$\alpha = {:g}$")
    gf.plots.lines(axes[1], excess(ideal), runs.decade, label=r"least $Q_\mu$", **thin)
    (one, ten, hundred), gap = runs.l1.loc[[1, 10, 100]], runs.l1.copy(data=apart).loc[0.1:, DECADES]
    beside = (runs.l1 + 1) / PAPER.independent("l1")
    slope = np.log10(one.loc[1000] / one.loc[10_000])
    return fig, runs, [
        gf.Claim("q_path", "|w - log(1/L) w_Q|/|w_Q| is log 2 for alpha >= 0.1", gap, above=0.66, below=0.75),
        gf.Claim("l1_norms", "those of an independent solver", abs(beside - 1), below=1.5e-4),
        gf.Claim("rich", "alpha = 1 at 1e-10000: excess l1 norm", one[-1], below=0.0025),
        gf.Claim("kernel", "alpha = 100 at 1e-10000: excess l1 norm", hundred[-1], above=0.33),
        gf.Claim("kernel_l2", "and excess l2 norm", runs.l2.loc[100, 1e4], below=8e-4),
        gf.Claim("extreme", "alpha = 10 is still near the l2 separator at 1e-100: excess", ten.loc[100], above=0.33),
        gf.Claim("slope", "alpha = 1: the excess l1 norm falls as log(1/L)^-0.62", slope, expected=0.62, within=5e-3),
        gf.Claim("identity", "log(1/L) is the clock's s: relative error", runs.identity_error, below=3e-7),
        gf.Claim("invariant", "u v = alpha^2, relative", runs.coordinates, below=1e-9)]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=6, small={"scales": (1e-3, 1.0, 10.0)})
def depths(scales=(1e-3, 1e-2, 0.1, 1.0, 10.0), alphas=(1.0, 0.1), points=41):
    """Deep networks turn sooner. Right: error of w down to a loss of 1e-10000 on one sample, from its closed form."""

    def error(depth, alpha):
        exact = gf.exact.diagonal_at_margin(np.log(10) * DECADES, SINGLE[0], alpha, depth)
        return np.abs(separate(SINGLE, alpha, depth)[1] / exact - 1).max()

    runs = gf.sweep(path, alpha=alphas, depth=(2, 3, 4), points=points)
    errors = gf.sweep(error, depth=(2, 3, 4), alpha=scales).value
    polar, cubic = gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), separate(SINGLE, 0.1, 3)[1]
    primal, dual = separate(SAMPLES, 1.0)[1], separate(SAMPLES, 1.0, flow=polar)[1]
    last, early = runs.l1[..., -1] / (PAPER.independent("l1_deep") - 1), runs.l1.loc[0.1, :, 10]
    labels = {"xlabel": [LOSS, r"scale $\alpha$ of the start"], "ylabel": [L1, "relative error of $w$"]}
    fig, axes = gf.plots.subplots(1, 2, xscale="log", yscale="log", ylim=[None, (1e-12, 1e-7)], **labels)
    gf.plots.lines(axes[0], runs.l1[0], label=r"depth {}, $\alpha = 1$")
    gf.plots.lines(axes[0], runs.l1[1], label=r"depth {}, $\alpha = 0.1$", linestyle="--")
    gf.plots.lines(axes[1], errors, label="depth {}", marker="o")
    return fig, [
        gf.Claim("closed_form", "one sample: w equals its closed form at every depth, relative", errors, below=1e-8),
        gf.Claim("cubic", "D = 3, alpha = 0.1: w_2", cubic[-1, 1], expected=0.00244604, within=5e-9),
        gf.Claim("excess", "at 1e-10000, those of an independent solver", abs(last - 1), below=6e-3),
        gf.Claim("invariant_deep", "u^(2-D) + v^(2-D), for D = 2 u v, is constant", runs.coordinates, below=2e-9),
        gf.Claim("primal_dual", "the flow in log u and log v has the same w", abs(primal / dual - 1), below=5e-9),
        gf.Claim("deeper_is_sooner", "alpha = 0.1, 1e-10: depth 3 over 2", early[1] / early[0], below=0.1)]  # fmt: skip
