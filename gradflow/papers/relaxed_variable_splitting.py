"""T. Dinh, J. Xin: Convergence of a Relaxed Variable Splitting Method for Learning Sparse Neural Networks.

2018, arXiv 1812.05719. A ReLU network with one shared filter is trained on its population loss while a sparse copy of
the filter is tied to it; l1, l0 and transformed-l1 penalties give the copy by thresholding. The angle to the teacher
and a Lagrangian fall, and the limit is an explicit thresholding of the teacher. The limit equation and the law of the
angle are derived here.
"""

from itertools import product

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
PENALTIES = {"l1": gf.penalties.L1(), "l0": gf.penalties.L0(), "transformed l1": gf.penalties.TransformedL1(1.0)}
ERROR = {  # |u - w*| at beta = 0.04 for the thresholds 0.05, 0.1, 0.2, from an independent run
    "l1": (0.1015, 0.2031, 0.4065),
    "l0": (0.0, 0.522, 0.749),
    "transformed l1": (0.107, 0.240, 0.587),
}


def recipe():
    """Five patches of twenty pixels, a teacher with four entries, and a random start."""
    teacher = np.zeros(20)
    teacher[[5, 9, 11, 14]] = np.array([1.0, -0.8, 0.5, 0.6]) / 1.5
    problem = gf.population.ConvolutionalPopulation(teacher, patches=5)
    return problem, problem.init(seed=1)


def unbalance(problem, run, coupling):
    """Distance from the limit equation kappa w* = c w - beta u, kappa = (pi - theta)/(k pi)."""
    w, u, kappa = run.w[-1], run.u[-1], problem.pull(run.w[-1])
    c = kappa * (w @ problem.teacher) + coupling * (w @ u)
    return np.linalg.norm(kappa * problem.teacher - c * w + coupling * u)


@PAPER.figure(minutes=0.1, claims=9)
def trade_off(couplings=(0.04, 0.01), thresholds=(0.05, 0.1, 0.2), step=0.5):
    """Left: the Lagrangian along the iteration. Right: error |u - w*| and number of weights against the threshold.

    Three penalties, beta = 0.04: l1 keeps the support with an error of the size of the threshold, l0 recovers the
    teacher exactly as long as its threshold is below all entries.
    """
    problem, start = recipe()
    runs = {
        (name, beta, threshold): gf.relaxed_splitting(
            problem, start, PENALTIES[name], strength=threshold * beta, coupling=beta, step=step
        )
        for name, beta, threshold in product(PENALTIES, couplings, thresholds)
    }
    error = {key: np.linalg.norm(run.u[-1] - problem.teacher) for key, run in runs.items()}
    weights = {key: np.count_nonzero(run.u[-1]) for key, run in runs.items()}
    deviation = [error[name, 0.04, t] - ERROR[name][i] for name in PENALTIES for i, t in enumerate(thresholds)]
    data = {"threshold": ("threshold", list(thresholds)), "penalty": ("penalty", list(PENALTIES))}
    fig, axes = gf.plots.subplots(1, 3)
    for name in PENALTIES:
        lagrangian = runs[name, 0.04, 0.05].lagrangian
        axes[0].semilogx(np.arange(1, lagrangian.size + 1), lagrangian, label=name)
    for ax, label, table in ((axes[1], "error", error), (axes[2], "weights", weights)):
        rows = [[table[name, couplings[0], threshold] for threshold in thresholds] for name in PENALTIES]
        data[label] = (("penalty", "threshold"), rows)
        for name, row in zip(PENALTIES, rows, strict=True):
            ax.plot(thresholds, row, "o-", label=name)
    axes[0].set(xlabel="iteration", ylabel=r"$L_\beta(u, w)$")
    axes[1].set(xlabel=r"threshold $\lambda/\beta$", ylabel=r"$|u - w_*|$")
    axes[2].set(xlabel=r"threshold $\lambda/\beta$", ylabel="weights that are not zero")
    rng = np.random.default_rng(0)
    small, w = gf.population.ConvolutionalPopulation(rng.standard_normal(6), 4), rng.standard_normal(6)
    mean, deviation_of_mean = small.estimate(w, 1_000_000, rng)
    l1 = [key for key in runs if key[0] == "l1"]
    return fig, data, [
        gf.Claim("population_loss", "the closed form against a million samples, in standard errors",
                 abs(mean - small.value(w)) / deviation_of_mean, below=4),
        gf.Claim("population_gradient", "its gradient against central differences",
                 gf.measure.gradient_error(small, w), below=1e-8),
        gf.Claim("limit_equation", "kappa w* = c w - beta u at the limit, kappa = (pi - theta)/(k pi)",
                 [unbalance(problem, run, key[1]) for key, run in runs.items()], below=1e-10),
        gf.Claim("lagrangian_monotone", "the Lagrangian never rises",
                 [np.diff(run.lagrangian).max() for run in runs.values()], below=1e-14),
        gf.Claim("angle_monotone", "l1: the angle never rises",
                 [np.diff(problem.angle(runs[key].w)).max() for key in l1], below=1e-12),
        gf.Claim("l0_exact", "l0, threshold 0.05: w = w*",
                 np.linalg.norm(runs["l0", 0.04, 0.05].w[-1] - problem.teacher), below=1e-8),
        gf.Claim("l1_shrinks", "l1, threshold 0.05, beta = 0.04: |u - w*| = 0.1015", error["l1", 0.04, 0.05],
                 expected=0.1015, within=1e-3),
        gf.Claim("errors", "|u - w*| of all penalties equals that of an independent run", np.abs(deviation),
                 below=1e-3),
        gf.Claim("support", "l1 finds the four weights at every threshold", [weights[key] for key in l1],
                 expected=4, within=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6)
def angle(coupling=0.04, strength=0.004, steps=(1.0, 0.5, 0.25, 0.125), t_end=30.0):
    """Angle to the teacher against time: flow on the sphere without penalty (black), with l1, and the iteration.

    Crosses: the law of the angle without penalty, t = k pi int dphi/((pi - phi) sin phi), which is derived here.
    """
    problem, start = recipe()
    times, penalty, tight = np.linspace(0, t_end, 61), gf.penalties.L1(), {"rtol": 1e-10, "atol": 1e-12}
    free = gf.simulate(problem, start, gf.SphereFlow(), t_end, save_at=times, **tight)
    flow, until = gf.SphereFlow(penalty, strength, coupling), np.append(times, 2000.0)
    tied = gf.simulate(problem, start, flow, 2000.0, save_at=until, **tight)
    theta = problem.angle(free.theta)
    law = gf.exact.sphere_angle(times, theta[0], problem.patches)
    fig, ax = gf.plots.subplots()
    ax.semilogy(times, theta, "k-", label="flow, no penalty")
    ax.semilogy(times[::6], law[::6], "kx", label="law of the angle")
    ax.semilogy(times[:-1], problem.angle(tied.theta[:-2]), label="flow, l1")
    distance, limits = [], []
    for h, colour in gf.plots.coloured(steps, gf.GD(1.0)):
        run = gf.relaxed_splitting(problem, start, penalty, strength=strength, coupling=coupling, step=h)
        distance.append(np.linalg.norm(run.w[int(20 / h)] - tied.theta[40]))
        limits.append(np.linalg.norm(run.w[-1] - tied.end))
        shown = np.arange(int(t_end / h))
        ax.semilogy(h * shown, problem.angle(run.w[shown]), ":", color=colour, label=f"iteration, $h = {h:g}$")
    ax.set(xlabel=r"time $t = n h$", ylabel=r"angle $\vartheta(w, w_*)$")
    away, rises = -problem.teacher + 0.05 * np.random.default_rng(3).standard_normal(20), {}
    for beta in (0.001, 0.04):
        run = gf.relaxed_splitting(problem, away, penalty, strength=0.1 * beta, coupling=beta, step=0.5)
        rises[beta] = np.diff(problem.angle(run.w)).max()
    return fig, {"t": ("t", times), "angle": ("t", theta), "h": ("h", list(steps)), "distance": ("h", distance)}, [
        gf.Claim("angle_ode", "theta' = -(pi - theta) sin(theta)/(k pi) without penalty", abs(theta - law), below=1e-6),
        gf.Claim("angle_values", "theta(10, 20, 30) = 0.4688499, 0.0743028, 0.0102704", theta[[20, 40, 60]],
                 expected=[0.4688499, 0.0743028, 0.0102704], within=1e-7),
        gf.Claim("quadrature", "t = k pi int dphi/((pi - phi) sin phi) at t = 20",
                 gf.exact.sphere_angle_time(theta[40], theta[0], problem.patches), expected=20.0, within=1e-6),
        gf.Claim.halves("order_one", "l1: halving h halves the distance to the flow at t = 20", distance[1:],
                        within=0.1),
        gf.Claim("same_limit", "iteration and flow have the same limit", limits, below=1e-8),
        gf.Claim("bad_start", "near -w*: monotone for beta = 0.001 <= delta sin(delta)/(k pi), not for 0.04",
                 bool(rises[0.001] <= 1e-12 < rises[0.04])),
    ]  # fmt: skip
