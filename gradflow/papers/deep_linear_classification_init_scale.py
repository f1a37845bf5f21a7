"""E. Moroshko, S. Gunasekar, B. Woodworth, J. D. Lee, N. Srebro, D. Soudry: Implicit Bias in Deep Linear
Classification: Initialization Scale vs Training Accuracy. NeurIPS, 2020, arXiv 2007.06738.

The flow of a diagonal linear network on separable data turns from the separator of largest l2 margin to that of largest
l1 margin. The scale alpha of the start and the loss reached decide together, through mu = alpha^D / log(1/loss), so
that the limit may show only far below a loss of 1e-100. The penalty Q_mu and the closed forms are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SAMPLES = np.array([[1.0, 0.9, 0.0], [1.0, -0.2, 0.8]])  # times their labels; the least l1 norm is that of (1, 0, 0)
DECADES = np.array([10.0, 100.0, 1000.0, 10_000.0])
MEASURED = {  # l1 norm over the margin at the losses 1e-10, ..., 1e-10000, from an independent solver
    0.01: (1.000628, 1.000159, 1.0000395, 1.0000097),
    1.0: (1.14992, 1.04085, 1.00998, 1.002396),
    10.0: (1.36311, 1.33364, 1.15120, 1.04073),
    100.0: (1.36346, 1.35920, 1.35845, 1.33337),
}
DEEP = {1.0: (1.0023960, 1.0001898, 1.0001089), 0.1: (1.000141, 1.0000002042, 1.0000000114)}  # depths 2, 3, 4


def separate(samples, alpha, depth=2, flow=None, decades=DECADES):
    """Flow from u = v = alpha under the sum of exp(-margin); its weights w = u^D - v^D at losses 10^-decade."""
    samples = np.atleast_2d(samples)
    network = gf.Diagonal(samples.shape[1], depth)
    problem = gf.Problem(network, gf.losses.Exponential("sum"), samples, np.ones(len(samples)))
    run = gf.simulate(
        problem, np.full(2 * network.dim, alpha), flow or gf.GradientFlow(), gf.at(log10_loss=-decades[-1]),
        save_at=gf.at(log10_loss=-decades[:-1]), clock="log_loss", rtol=1e-10, atol=1e-14 * alpha,
    )  # fmt: skip
    return run, run.measure(gf.measure.effective_map)[1:]


def excess(w, norm, least=1.0):
    """Norm of w over its margin, relative to the least possible, minus one."""
    return np.linalg.norm(w, norm, axis=-1) / (w @ SAMPLES.T).min(-1) / least - 1


@PAPER.figure(minutes=0.1, claims=9)
def paths(alphas=(0.01, 0.1, 1.0, 10.0, 100.0), points=81):
    """Excess l1 norm of w over its margin, from a loss of 0.1 to 1e-10000, for five scales alpha of the start.

    Left: against the excess l2 norm, one curve per alpha, and the curve of the least Q_mu over all mu (dashed). Right:
    against log10(1/loss), with the least Q_mu at mu = alpha^2/log(1/loss) (dashed).
    """
    decades = np.unique(np.append(np.geomspace(1, DECADES[-1], points), DECADES))
    gamma, shown = np.log(10) * decades, np.isin(decades, DECADES)
    least = np.linalg.norm(np.linalg.pinv(SAMPLES).sum(1))
    fig, axes = gf.plots.subplots(1, 2)
    over, above, rate, drift = {}, {}, {}, []
    for alpha in alphas:
        run, w = separate(SAMPLES, alpha, decades=decades)
        ideal = np.array([gf.exact.diagonal_max_margin(SAMPLES, alpha**2 / g) for g in gamma])
        over[alpha], above[alpha] = excess(w, 1), excess(w, 2, least)
        gap = np.linalg.norm(w / gamma[:, None] - ideal, axis=1) / np.linalg.norm(ideal, axis=1)
        rate[alpha] = (gamma * gap)[shown]
        drift.append([run.drift["identity_error"].max(), run.drift["coordinates"].max()])
        axes[0].plot(above[alpha], over[alpha], label=rf"$\alpha = {alpha:g}$", linewidth=2.5, alpha=0.8)
        axes[1].loglog(decades, over[alpha], label=rf"$\alpha = {alpha:g}$")
        axes[1].loglog(decades, excess(ideal, 1), "k--", linewidth=0.9)
    curve = np.array([gf.exact.diagonal_max_margin(SAMPLES, mu) for mu in np.geomspace(1e-9, 1e5, 141)])
    axes[0].plot(excess(curve, 2, least), excess(curve, 1), "k--", linewidth=0.9)
    axes[0].set(xlabel=r"excess $\ell_2$ norm", ylabel=r"excess $\ell_1$ norm")
    axes[1].set(xlabel=r"$\log_{10}(1/L)$", ylabel=r"excess $\ell_1$ norm", ylim=(3e-6, 1))
    table = np.array([over[alpha][shown] + 1 for alpha in MEASURED]) / list(MEASURED.values()) - 1
    data = {"log10_loss": ("loss", -decades), "alpha": ("alpha", list(alphas))}
    data |= {name: (("alpha", "loss"), [d[a] for a in alphas]) for name, d in (("l1", over), ("l2", above))}
    return fig, data, [
        gf.Claim("q_path", "log(1/L) |w/log(1/L) - w_Q|/|w_Q| is log 2 for alpha in [0.1, 100], w_Q of least Q_mu",
                 [rate[alpha] for alpha in alphas if alpha >= 0.1], above=0.66, below=0.75),
        gf.Claim("l1_norms", "the l1 norms over the margin equal those of an independent solver, relative",
                 np.abs(table), below=1.5e-4),
        gf.Claim("rich", "alpha = 1 at 1e-10000: excess l1 norm", over[1.0][-1], below=0.0025),
        gf.Claim("kernel", "alpha = 100 at 1e-10000: excess l1 norm", over[100.0][-1], above=0.33),
        gf.Claim("kernel_l2", "and excess l2 norm", above[100.0][-1], below=8e-4),
        gf.Claim("extreme", "alpha = 10 is still near the l2 separator at 1e-100: excess l1 norm",
                 over[10.0][decades == 100], above=0.33),
        gf.Claim("slope", "alpha = 1: the excess l1 norm falls as log(1/L)^-0.62",
                 np.log10(over[1.0][decades == 1e3] / over[1.0][-1]), expected=0.62, within=0.02),
        gf.Claim("identity", "log(1/L) is the clock's s: relative error", np.array(drift)[:, 0], below=1e-6),
        gf.Claim("invariant", "u v = alpha^2, relative", np.array(drift)[:, 1], below=1e-7),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=7, small={"scales": (1e-3, 1.0, 10.0)})
def depths(scales=(1e-3, 1e-2, 0.1, 1.0, 10.0), alphas=(1.0, 0.1), points=41):
    """Depths two, three and four. Left: excess l1 norm for alpha = 1 (full) and 0.1 (dashed).

    Deep networks turn sooner. Right: relative error of w down to a loss of 1e-10000 on one sample, where a closed form
    is known at every depth.
    """
    decades = np.unique(np.append(np.geomspace(1, DECADES[-1], points), DECADES))
    fig, axes = gf.plots.subplots(1, 2)
    error, table, kept = {}, [], []
    for depth, colour in gf.plots.coloured((2, 3, 4)):
        for alpha, dashes in zip(alphas, ("-", "--"), strict=True):
            run, w = separate(SAMPLES, alpha, depth, decades=decades)
            label = f"depth {depth}" if dashes == "-" else None
            axes[0].loglog(decades, excess(w, 1), dashes, color=colour, label=label)
            table.append(excess(w[-1], 1) / (DEEP[alpha][depth - 2] - 1) - 1)
            kept.append(run.drift["coordinates"].max())
        error[depth] = []
        for alpha in scales:
            run, w = separate([1.0, 0.3], alpha, depth)
            exact = gf.exact.diagonal_at_margin(np.log(10) * DECADES, [1.0, 0.3], alpha, depth)
            error[depth].append(np.abs(w / exact - 1).max())
        axes[1].loglog(scales, error[depth], "o-", color=colour, label=f"depth {depth}")
    axes[0].set(xlabel=r"$\log_{10}(1/L)$", ylabel=r"excess $\ell_1$ norm")
    axes[1].set(xlabel=r"scale $\alpha$ of the start", ylabel="relative error of $w$", ylim=(1e-12, 1e-7))
    primal = separate(SAMPLES, 1.0)[1]
    dual = separate(SAMPLES, 1.0, flow=gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)))[1]
    below = separate([1.0, 0.3], 0.1, 3)[1][-1]
    data = {"alpha": ("alpha", list(scales)), "depth": ("depth", [2, 3, 4])}
    return fig, data | {"error": (("depth", "alpha"), list(error.values()))}, [
        gf.Claim("closed_form_N1", "one sample: w = 2 alpha^2 sinh(4 nu z) down to 1e-10000, relative", error[2],
                 below=1e-8),
        gf.Claim("closed_form_deep", "w = alpha^D ((1 - kappa z)^(-D/(D-2)) - (1 + kappa z)^(-D/(D-2))), D = 3, 4",
                 [error[3], error[4]], below=1e-8),
        gf.Claim("cubic", "D = 3, alpha = 0.1: w_2 = 0.00244604", below[1], expected=0.00244604, within=1e-8),
        gf.Claim("excess", "the excess l1 norms at 1e-10000 equal those of an independent solver, relative",
                 np.abs(table), below=6e-3),
        gf.Claim("invariant_deep", "u^(2-D) + v^(2-D), or u v for D = 2, is conserved, relative", kept, below=1e-7),
        gf.Claim("primal_dual", "the flow in log u and log v, the dual variables, reaches the same w, relative",
                 np.abs(primal / dual - 1), below=1e-7),
        gf.Claim("deeper_is_sooner", "alpha = 0.1: excess l1 norm at 1e-10, depth 3 over depth 2",
                 excess(separate(SAMPLES, 0.1, 3)[1][0], 1) / excess(separate(SAMPLES, 0.1)[1][0], 1), below=0.1),
    ]  # fmt: skip
