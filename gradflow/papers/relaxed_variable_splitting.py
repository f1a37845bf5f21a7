"""T. Dinh, J. Xin: Convergence of a Relaxed Variable Splitting Method for Learning Sparse Neural Networks. 2018, arXiv
1812.05719. A ReLU network with one shared filter is trained on its population loss while a sparse copy of the filter is
tied to it, by thresholding. The angle to the teacher and a Lagrangian fall, and the limit is a thresholding of the
teacher. The limit equation and the law of the angle are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
PENALTIES = {"l1": gf.penalties.L1(), "l0": gf.penalties.L0(), "transformed l1": gf.penalties.TransformedL1(1.0)}


def recipe():
    """Five patches of twenty pixels, a teacher with four entries, and a random start."""
    teacher = np.zeros(20)
    teacher[[5, 9, 11, 14]] = np.array([1.0, -0.8, 0.5, 0.6]) / 1.5
    problem = gf.population.ConvolutionalPopulation(teacher, patches=5)
    return problem, problem.init(seed=1)


@PAPER.figure(minutes=0.1, claims=8)
def trade_off(couplings=(0.04, 0.01), thresholds=(0.05, 0.1, 0.2), step=0.5):
    """Lagrangian along the iteration at the smallest threshold, and trade-off between error and number of weights."""
    problem, start = recipe()

    def splitting(penalty, coupling, threshold):
        options = {"strength": threshold * coupling, "coupling": coupling, "step": step}
        run = gf.relaxed_splitting(problem, start, PENALTIES[penalty], **options)
        w, u = run.w[-1], run.u[-1]
        force = problem.pull(w) * problem.teacher + coupling * u
        gap, error, across = map(np.linalg.norm, (w - problem.teacher, u - problem.teacher, force - (force @ w) * w))
        return {"lagrangian": ("iteration", run.lagrangian), "rise": np.diff(run.lagrangian).max(),
                "turn": np.diff(problem.angle(run.w)).max(), "gap": gap, "error": error, "across": across,
                "weights": np.count_nonzero(u)}  # fmt: skip

    runs = gf.sweep(splitting, coupling=couplings, penalty=list(PENALTIES), threshold=thresholds)
    labels = [r"$L_\beta(u, w)$", r"$|u - w_*|$", "weights that are not zero"]
    places, ticks = ["iteration", *2 * [r"threshold $\lambda/\beta$"]], [None, thresholds, thresholds]
    fig, axes = gf.plots.subplots(1, 3, xlabel=places, ylabel=labels, xscale=["log", "linear", "linear"], xticks=ticks)
    gf.plots.lines(axes[0], runs.lagrangian[0, :, 0].values, of=PENALTIES, label="{}")
    gf.plots.lines(axes[1], runs.error[0], label="{}", marker="o")
    gf.plots.lines(axes[2], runs.weights[0], label="{}", marker="o")
    axes[2].set_yticks([1, 2, 3, 4])
    rng, strong, l1 = np.random.default_rng(0), runs.sel(coupling=0.04), runs.sel(penalty="l1")
    small, w = gf.population.ConvolutionalPopulation(rng.standard_normal(6), 4), rng.standard_normal(6)
    (mean, deviation), small_error = small.estimate(w, 1_000_000, rng), gf.measure.gradient_error(small, w)
    off = abs(strong.error - PAPER.independent("error"))
    missed = abs(mean - small.value(w)) / deviation
    return fig, runs, [
        gf.Claim("population_loss", "closed form against a million samples, in standard errors", missed, below=4),
        gf.Claim("population_gradient", "its gradient against differences", small_error, below=2e-10),
        gf.Claim("limit_equation", "kappa w* = c w - beta u, kappa = (pi - theta)/(k pi)", runs.across, below=2e-13),
        gf.Claim("lagrangian_monotone", "the Lagrangian never rises", runs.rise, below=1e-15),
        gf.Claim("angle_monotone", "l1: the angle never rises", l1.turn, below=1e-15),
        gf.Claim("l0_exact", "l0, threshold 0.05: w = w*", strong.gap.sel(penalty="l0", threshold=0.05), below=1e-12),
        gf.Claim("errors", "|u - w*| is that of an independent run", off, below=1e-3),
        gf.Claim("support", "l1 finds four weights at all thresholds", l1.weights, expected=4, within=0.5)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6)
def angle(coupling=0.04, strength=0.004, steps=(1.0, 0.5, 0.25, 0.125), t_end=30.0):
    """Angle to the teacher: flow on the sphere without penalty, with its law (crosses), with l1, and the iteration."""
    (problem, start), l1 = recipe(), gf.penalties.L1()
    times, tight = np.arange(0.0, max(t_end, 30.0) + 0.25, 0.5), {"rtol": 1e-10, "atol": 1e-12}
    free = gf.simulate(problem, start, gf.SphereFlow(), times[-1], save_at=times, **tight)
    tied = gf.simulate(problem, start, gf.SphereFlow(l1, strength, coupling), 2000.0, save_at=[*times, 2000.0], **tight)
    theta, known = problem.angle(free.theta), [0.4688499, 0.0743028, 0.0102704]
    law, elapsed = gf.exact.sphere_angle(times, theta[0], 5), gf.exact.sphere_angle_time(theta[40], theta[0], 5)

    def splitting(step, start=start, coupling=coupling, strength=strength):
        return gf.relaxed_splitting(problem, start, l1, strength=strength, coupling=coupling, step=step).w

    def along(step):
        w, shown = splitting(step), np.arange(int(t_end / step) + 1)
        distance, limit = (np.linalg.norm(gap) for gap in (w[int(20 / step)] - tied.theta[40], w[-1] - tied.end))
        angles = {"time": ("n", step * shown), "angle": ("n", problem.angle(w[shown]))}
        return angles | {"distance": distance, "limit": limit}

    runs = gf.sweep(along, step=steps)
    fig, ax = gf.plots.subplots(xlabel=r"time $t = n h$", ylabel=r"angle $\vartheta(w, w_*)$", yscale="log")
    gf.plots.lines(ax, theta, times, color="k", label="flow, no penalty")
    gf.plots.lines(ax, law[::6], times[::6], color="k", marker="x", linestyle="none", label="law of the angle")
    gf.plots.lines(ax, problem.angle(tied.theta[:-2]), times[:-1], label="flow, l1")
    gf.plots.lines(ax, runs.angle, runs.time, label="iteration, $h = {:g}$", dynamics=gf.GD(1.0), linestyle=":")
    away = 0.05 * np.random.default_rng(3).standard_normal(20) - problem.teacher
    weak, strong = (np.diff(problem.angle(splitting(0.5, away, b, 0.1 * b))).max() for b in (0.001, 0.04))
    far = bool(weak <= 1e-15 < 1e-4 < strong)
    return fig, [
        gf.Claim("angle_ode", "theta' = -(pi - theta) sin(theta)/(k pi), no penalty", abs(theta - law), below=5e-11),
        gf.Claim("angle_values", "theta(10, 20, 30)", theta[20:61:20], expected=known, within=1e-7),
        gf.Claim("quadrature", "t = k pi int dphi/((pi - phi) sin phi) at t = 20", elapsed, expected=20, within=1e-10),
        gf.Claim.halves("order_one", "l1: halving h halves the distance at t = 20", runs.distance[1:], within=0.1),
        gf.Claim("same_limit", "iteration and flow have the same limit", runs.limit, below=5e-12),
        gf.Claim("bad_start", "near -w*: monotone for beta = 0.001, not 0.04", far)]  # fmt: skip
