"""T. Dinh, J. Xin: Convergence of a Relaxed Variable Splitting Method for Learning Sparse Neural Networks.

2018, arXiv 1812.05719. A ReLU network with one shared filter is trained on its population loss while a sparse copy of
the filter is tied to it; l1, l0 and transformed-l1 penalties give the copy by thresholding. The angle to the teacher
and a Lagrangian fall, and the limit is an explicit thresholding of the teacher. The limit equation and the law of the
angle are derived here.
"""

import numpy as np

import gradflow as gf
from gradflow.dynamics.splitting import relaxed_splitting, sphere_flow
from gradflow.penalties import L0, L1, TransformedL1
from gradflow.population import ConvolutionalPopulation

PAPER = gf.Paper.cited(__name__, __doc__)
PENALTIES = {"l1": L1(), "l0": L0(), "transformed l1": TransformedL1(1.0)}
ERROR = {  # |u - w*| at beta = 0.04 for the thresholds 0.05, 0.1, 0.2
    "l1": (0.1015, 0.2031, 0.4065),
    "l0": (0.0, 0.522, 0.749),
    "transformed l1": (0.107, 0.240, 0.587),
}


def recipe():
    """Five patches of twenty pixels, a teacher with four entries, and a random start."""
    teacher = np.zeros(20)
    teacher[[5, 9, 11, 14]] = np.array([1.0, -0.8, 0.5, 0.6]) / 1.5
    start = np.random.default_rng(1).standard_normal(20)
    return ConvolutionalPopulation(teacher, 5), start / np.linalg.norm(start)


def unbalance(problem, run, coupling):
    """Distance from the limit equation kappa w* = c w - beta u, kappa = (pi - theta)/(k pi)."""
    w, u = run.w[-1], run.u[-1]
    kappa = (np.pi - problem.angle(w)) / (problem.patches * np.pi)
    c = kappa * (w @ problem.teacher) + coupling * (w @ u)
    return np.linalg.norm(kappa * problem.teacher - c * w + coupling * u)


@PAPER.figure(minutes=0.1, claims=9)
def trade_off(couplings=(0.04, 0.01), thresholds=(0.05, 0.1, 0.2), step=0.5):
    """Left: the Lagrangian along the iteration. Right: error |u - w*| and number of weights against the threshold.

    Three penalties, beta = 0.04: l1 keeps the support with an error of the size of the threshold, l0 recovers the
    teacher exactly as long as its threshold is below all entries.
    """
    problem, start = recipe()
    fig, axes = gf.plots.subplots(1, 3)
    residual, rise, turned, deviation, error, count, gap = [], [], [], [], {}, {}, {}
    for name, penalty in PENALTIES.items():
        for coupling in couplings:
            for threshold in thresholds:
                run = relaxed_splitting(
                    problem, start, penalty, strength=threshold * coupling, coupling=coupling, step=step
                )
                residual.append(unbalance(problem, run, coupling))
                rise.append(np.diff(run.lagrangian).max())
                turned += [np.diff(problem.angle(run.w)).max()] if name == "l1" else []
                key = name, coupling, threshold
                error[key], count[key] = np.linalg.norm(run.u[-1] - problem.teacher), np.count_nonzero(run.u[-1])
                if coupling == 0.04:
                    deviation.append(error[key] - ERROR[name][thresholds.index(threshold)])
                if (coupling, threshold) == (0.04, 0.05):
                    axes[0].semilogx(np.arange(1, len(run.lagrangian) + 1), run.lagrangian, label=name)
                    gap[name] = np.linalg.norm(run.w[-1] - problem.teacher)
        for ax, table in zip(axes[1:], (error, count), strict=True):
            ax.plot(thresholds, [table[name, couplings[0], threshold] for threshold in thresholds], "o-", label=name)
    axes[0].set(xlabel="iteration", ylabel=r"$L_\beta(u, w)$")
    axes[1].set(xlabel=r"threshold $\lambda/\beta$", ylabel=r"$|u - w_*|$")
    axes[2].set(xlabel=r"threshold $\lambda/\beta$", ylabel="weights that are not zero")
    data = {"threshold": ("threshold", list(thresholds)), "penalty": ("penalty", list(PENALTIES))}
    for label, table in (("error", error), ("weights", count)):
        rows = [[table[name, couplings[0], threshold] for threshold in thresholds] for name in PENALTIES]
        data[label] = (("penalty", "threshold"), rows)
    rng = np.random.default_rng(0)
    small = ConvolutionalPopulation(rng.standard_normal(6), 4)
    w, x = rng.standard_normal(6), rng.standard_normal((1_000_000, 4, 6))
    squares = (np.maximum(x @ w, 0).mean(1) - np.maximum(x @ small.teacher, 0).mean(1)) ** 2
    shift = 1e-5 * np.eye(6)
    slope = (small.value(w + shift) - small.value(w - shift)) / 2e-5
    return fig, data, [
        gf.Claim("population_loss", "the closed form against a million samples, in standard errors",
                 abs(squares.mean() - small.value(w)) / squares.std() * 1000, below=4),
        gf.Claim("population_gradient", "its gradient against central differences", abs(small.gradient(w) - slope),
                 below=1e-8),
        gf.Claim("limit_equation", "kappa w* = c w - beta u at the limit, kappa = (pi - theta)/(k pi)", residual,
                 below=1e-10),
        gf.Claim("lagrangian_monotone", "the Lagrangian never rises", rise, below=1e-14),
        gf.Claim("angle_monotone", "l1: the angle never rises", turned, below=1e-12),
        gf.Claim("l0_exact", "l0, threshold 0.05: w = w*", gap["l0"], below=1e-8),
        gf.Claim("l1_shrinks", "l1, threshold 0.05, beta = 0.04: |u - w*| = 0.1015", error["l1", 0.04, 0.05],
                 expected=0.1015, within=1e-3),
        gf.Claim("errors", "|u - w*| of all penalties equals that of an independent run", np.abs(deviation),
                 below=1e-3),
        gf.Claim("support", "l1 finds the four weights at every threshold",
                 [value for key, value in count.items() if key[0] == "l1"], expected=4, within=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6)
def angle(coupling=0.04, strength=0.004, steps=(1.0, 0.5, 0.25, 0.125), t_end=30.0):
    """Angle to the teacher against time: flow on the sphere without penalty (black), with l1, and the iteration.

    Crosses: the law of the angle without penalty, t = k pi int dphi/((pi - phi) sin phi), which is derived here.
    """
    from scipy.integrate import quad, solve_ivp

    problem, start = recipe()
    times, k = np.linspace(0, t_end, 61), problem.patches
    free = sphere_flow(problem, start, times)
    tied = sphere_flow(problem, start, np.append(times[:-1], 2000.0), L1(), strength=strength, coupling=coupling)
    at20 = sphere_flow(problem, start, [0.0, 20.0], L1(), strength=strength, coupling=coupling).w[-1]
    theta = problem.angle(free.w)
    law = solve_ivp(
        lambda _, a: -(np.pi - a) * np.sin(a) / (k * np.pi),
        (0, t_end),
        theta[:1],
        "DOP853",
        times,
        rtol=1e-11,
        atol=1e-13,
    ).y[0]
    elapsed = k * np.pi * quad(lambda a: 1 / ((np.pi - a) * np.sin(a)), theta[40], theta[0])[0]
    fig, ax = gf.plots.subplots()
    ax.semilogy(times, theta, "k-", label="flow, no penalty")
    ax.semilogy(times[::6], law[::6], "kx", label="law of the angle")
    ax.semilogy(times[:-1], problem.angle(tied.w[:-1]), color="#0072B2", label="flow, l1")
    distance, limits = [], []
    for h, colour in gf.plots.coloured(steps, gf.GD(1.0)):
        run = relaxed_splitting(problem, start, L1(), strength=strength, coupling=coupling, step=h)
        n = int(20 / h)
        distance.append(np.linalg.norm(run.w[n] - at20))
        limits.append(np.linalg.norm(run.w[-1] - tied.w[-1]))
        ax.semilogy(h * np.arange(int(t_end / h)), problem.angle(run.w[: int(t_end / h)]), ":", color=colour,
                    label=f"iteration, $h = {h:g}$")  # fmt: skip
    ax.set(xlabel=r"time $t = n h$", ylabel=r"angle $\vartheta(w, w_*)$")
    away = -problem.teacher + 0.05 * np.random.default_rng(3).standard_normal(20)
    rises = {
        beta: np.diff(
            problem.angle(relaxed_splitting(problem, away, L1(), strength=0.1 * beta, coupling=beta, step=0.5).w)
        ).max()
        for beta in (0.001, 0.04)
    }
    distance = np.array(distance)
    return fig, {"t": ("t", times), "angle": ("t", theta), "h": ("h", list(steps)), "distance": ("h", distance)}, [
        gf.Claim("angle_ode", "theta' = -(pi - theta) sin(theta)/(k pi) without penalty", abs(theta - law), below=1e-6),
        gf.Claim("angle_values", "theta(10, 20, 30) = 0.4688499, 0.0743028, 0.0102704", theta[[20, 40, 60]],
                 expected=[0.4688499, 0.0743028, 0.0102704], within=1e-7),
        gf.Claim("quadrature", "t = k pi int dphi/((pi - phi) sin phi) at t = 20", elapsed, expected=20.0, within=1e-6),
        gf.Claim.halves("order_one", "l1: halving h halves the distance to the flow at t = 20", distance[1:],
                        within=0.1),
        gf.Claim("same_limit", "iteration and flow have the same limit", limits, below=1e-8),
        gf.Claim("bad_start", "near -w*: monotone for beta = 0.001 <= delta sin(delta)/(k pi), not for 0.04",
                 bool(rises[0.001] <= 1e-12 < rises[0.04])),
    ]  # fmt: skip
