"""P. Marion, L. Chizat: Deep linear networks for regression are implicitly regularized towards flat minima.

2024, arXiv 2405.13456. No minimum of a deep linear regression is flatter than 2 L a, so descent with a step above 1/(L
a) cannot converge. From small starts the flow ends at a nearly flattest minimum with aligned layers of rank one; below
the critical step descent follows the flow until its sharpness would exceed 2/step. The balanced minimum and the bounds
of rank and alignment along the flow are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
STEPS = {0.005: 40_000, 0.02: 10_000, 0.07: 4000, 0.1: 4000}
SCALES = {3: (0.003, 0.03, 0.1, 0.3, 0.5), 5: (0.02, 0.05, 0.1, 0.25, 0.4), 10: (0.25, 0.35, 0.45)}


def regression(network):
    """Fifty Gaussian samples whose least-squares solution has norm one; its constant residual is left out."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 5))
    y = x @ rng.standard_normal(5) + rng.standard_normal(50)
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    w /= np.linalg.norm(w)
    return gf.Problem(network, gf.losses.Square(), x, x @ w), w


def multilayer(depth):
    """Network with all hidden widths five, and the sharpness bounds of its minima."""
    problem, w = regression(gf.DeepLinear([5] * depth + [1]))
    return problem, w, gf.exact.flat_minima(problem.x, w, depth)


def excesses(problem, theta, start):
    """Left minus right side of the rank, norm and alignment bounds that follow from the conserved matrices D_k."""
    spectra = np.linalg.eigvalsh(list(gf.measure.gram_differences(problem, start).values()))
    tops = np.array([values[..., 0] ** 2 for values in gf.measure.layer_singular_values(problem, theta).values()]).T
    slack = gf.measure.rank_gap_bound(problem, start)
    rank = (gf.measure.rank_gap(problem, theta) - slack)[..., :-1]
    norm = abs(np.diff(tops)) - abs(spectra).max(1)
    turn = 1 - gf.measure.alignment(problem, theta) ** 2 - (np.ptp(spectra, axis=1) + slack[:-1]) / tops[..., :-1]
    return max(rank.max(), norm.max(), turn.max())


@PAPER.figure(minutes=0.3, claims=8, small={"scales": {3: (0.003, 0.1, 0.5), 5: (0.05, 0.4)}})
def flow_sharpness(scales=SCALES):
    """Where the flow ends, against the scale of the start: sharpness over its lower bound, and misalignment.

    Crosses at the left: the balanced minimum, the limit of small scales.
    """
    fig, axes = gf.plots.subplots(1, 2)
    lowest, drift, bounds, sharp, explicit, data = [], [], [], {}, [], {}
    for depth, chosen in scales.items():
        problem, w, minima = multilayer(depth)
        layers = problem.layers(problem.init(1.0, seed=0, scheme="balanced"))
        layers["W1"] = np.outer(layers["W1"] @ layers["W1"][0], w) / np.linalg.norm(layers["W1"][0])
        balanced = gf.measure.sharpness(problem, problem.flatten(layers))
        explicit.append(balanced / minima.balanced - 1)
        turned = []
        for scale in chosen:
            start = problem.init(np.sqrt(5) * scale, seed=7)
            run = gf.simulate(problem, start, gf.GradientFlow(), stop=gf.LossBelow(1e-20), rtol=1e-10, atol=1e-12)
            sharp[depth, scale] = gf.measure.sharpness(problem, run.end) / minima.bound
            turned.append(1 - gf.measure.alignment(problem, run.end).min() ** 2)
            drift.append(run.max_drift)
            bounds.append(excesses(problem, run.theta, start))
            if (depth, scale) == (3, 0.003):
                gap = gf.measure.rank_gap(problem, run.end)
        ratios = [sharp[depth, scale] for scale in chosen]
        lines = axes[0].loglog(chosen, ratios, "o-", label=f"{depth} layers")
        axes[0].plot(0.002, minima.balanced / minima.bound, "x", color=lines[0].get_color())
        axes[1].loglog(chosen, turned, "o-", label=f"{depth} layers")
        data |= {f"scale{depth}": (f"scale{depth}", list(chosen)), f"sharpness{depth}": (f"scale{depth}", ratios)}
        data |= {f"misalignment{depth}": (f"scale{depth}", turned)}
    lowest = min(sharp.values())
    axes[0].set(xlabel="scale of the start", ylabel=r"sharpness $S / (2 L a)$ at the end")
    axes[1].set(xlabel="scale of the start", ylabel=r"misalignment $1 - \langle u_k, v_{k+1}\rangle^2$")
    limit = gf.exact.flat_minima(problem.x, w, 3)
    return fig, data, [
        gf.Claim("lower_bound", "S >= 2 L a |w*|^(2-2/L) at every minimum reached", lowest, above=1 - 1e-9),
        gf.Claim("balanced_sharpness", "the Hessian of the balanced minimum has top eigenvalue S_bal",
                 np.abs(explicit), below=1e-8),
        gf.Claim("balanced_five", "S_bal = 10.564939 for five layers",
                 gf.exact.flat_minima(problem.x, w, 5).balanced, expected=10.564939, within=1e-6),
        gf.Claim("small_scale_limit", "three layers, scale 0.003: S = S_bal, relative",
                 abs(sharp[3, 0.003] * limit.bound / limit.balanced - 1), below=1e-4),
        gf.Claim("scale_matters", "scale 0.5: S over S_bal", sharp[3, 0.5] * limit.bound / limit.balanced, above=1.5),
        gf.Claim("balancedness", "W_{k+1}^T W_{k+1} - W_k W_k^T is constant", drift, below=1e-8),
        gf.Claim("rank_one_alignment", "rank, norm and alignment bounds from D_k hold at all times", bounds,
                 below=1e-9),
        gf.Claim("rank_one", "scale 0.003: |W_k|_F^2 - |W_k|_2^2 at the end", gap, below=2e-4),
    ]  # fmt: skip


@PAPER.figure(minutes=0.3, claims=6, small={"scales": (0.25, 0.4), "repetitions": 2, "steps": (0.07, 0.1)})
def descent_sharpness(
    scales=(0.25, 0.29, 0.33, 0.37, 0.4, 0.44, 0.48, 0.52, 0.56, 0.6), repetitions=4, steps=tuple(STEPS)
):
    """Final sharpness of gradient descent on ten layers against the scale of the start, for several steps.

    Dashed: 2/step; dotted: the lower bound 2 L a and the upper line 8 L lambda_max. Black: sharpness of the start.
    Descent ends below 2/step, or diverges at large scales (not drawn); with step 0.1 > 1/(L a) = 0.095 it does not
    converge, and what is drawn is where it stopped.
    """
    problem, w, minima = multilayer(10)
    fig, ax = gf.plots.subplots()
    starts = np.array([problem.init(np.sqrt(5) * s, seed=7 + k) for s in scales for k in range(repetitions)])
    shape = (len(scales), repetitions)
    sharp, distance = np.full((2, len(steps), *shape), np.nan)
    ax.semilogy(scales, gf.measure.sharpness(problem, starts).reshape(shape).mean(1), "k-", label="start")
    for i, (h, colour) in enumerate(gf.plots.coloured(steps, gf.GD(1.0))):
        runs = gf.simulate(problem, starts, gf.GD(h), t_end=h * STEPS[h], save_at=2)
        for place, run in zip(np.ndindex(shape), runs, strict=True):
            if run.status == gf.Status.REACHED_END:
                sharp[(i, *place)] = gf.measure.sharpness(problem, run.end)
                distance[(i, *place)] = ((gf.measure.effective_map(problem, run.end)[0] - w) ** 2).sum()
        known = np.isfinite(sharp[i]).any(1)
        ax.semilogy(np.array(scales)[known], np.nanmean(sharp[i][known], 1), "o-", color=colour, label=f"$h = {h:g}$")
        ax.axhline(2 / h, color=colour, linestyle="--", linewidth=1.0)
    upper = 8 * 10 * np.linalg.eigvalsh(problem.x.T @ problem.x / 50)[-1]
    for number, value in enumerate((minima.bound, upper)):
        gf.plots.reference(ax, value, number=1, label=r"$2La$, $8L\lambda_{\max}$" if number == 0 else None)
    ax.set(xlabel="scale of the start", ylabel="sharpness", ylim=(5, 3e4))
    converged, seventh, tenth = distance < 1e-8, steps.index(0.07), steps.index(0.1)
    flow_like = problem.init(np.sqrt(5) * 0.35, seed=7)
    drifts = [gf.simulate(problem, flow_like, gf.GD(h), t_end=100.0, save_at=11).max_drift for h in (0.02, 0.01, 0.005)]
    edge = sharp[seventh, scales.index(0.4)][converged[seventh, scales.index(0.4)]]
    small = sharp[:tenth, scales.index(0.25)] / minima.bound
    data = {"scale": ("scale", list(scales)), "h": ("h", list(steps)), "sharpness": (("h", "scale", "run"), sharp)}
    return fig, data | {"squared_distance": (("h", "scale", "run"), distance)}, [
        gf.Claim("below_two_over_step", "step 0.07, scale 0.4: S <= 2/h where converged", edge * 0.07 / 2,
                 below=1 + 1e-6),
        gf.Claim("edge", "and S is just below it", edge * 0.07 / 2, above=0.98),
        gf.Claim("above_critical", "step 0.1 > 1/(L a): no run converges, |w - w*|^2", np.nanmin(distance[tenth]),
                 above=1e-3),
        gf.Claim("below_critical", "step 0.07 < 1/(L a), scale 0.25: all runs converge, |w - w*|^2",
                 distance[seventh, scales.index(0.25)], below=1e-8),
        gf.Claim("flat", "scale 0.25: S is at most 1.2 times 2 L a, whatever the step", small, above=1.0, below=1.2),
        gf.Claim.halves("gd_drift", "descent breaks balance at first order: halving h halves the drift at t = 100",
                        drifts, within=0.2),
    ]  # fmt: skip


@PAPER.figure(minutes=0.5, claims=6, small={"depths": (5, 10, 20), "repetitions": 2, "steps": 9})
def critical_step(depths=(5, 10, 20, 40), repetitions=10, steps=25, iterations=1000, strength=0.25):
    """Residual networks: squared distance to the solution after a thousand steps of descent, against the step.

    Dashed: the critical step 1/(L a). Start I + strength/sqrt(L d) N with a fixed random read-out; diverged runs are
    left out of the means.
    """
    readout = np.random.default_rng(3).standard_normal(5)
    readout /= np.linalg.norm(readout)
    fig, ax = gf.plots.subplots()
    margin, misses, data = [], [], {}
    for depth in depths:
        problem, w = regression(gf.ResidualLinear(depth, 5, readout))
        critical = 2 / gf.exact.flat_minima(problem.x, w, depth).bound
        starts = [problem.init(strength / np.sqrt(depth), seed=k) for k in range(repetitions)]
        grid = np.unique(np.append(np.geomspace(1e-2, 10**-0.3, steps), [0.75 * critical, 1.1 * critical]))
        distance, furthest = np.full((2, grid.size, repetitions), np.nan)
        for i, h in enumerate(grid):
            last = h * np.arange(iterations - 100, iterations + 1)
            runs = gf.simulate(problem, np.array(starts), gf.GD(h), t_end=h * iterations, save_at=last)
            for j, run in enumerate(runs):
                if run.status == gf.Status.REACHED_END:
                    squared = ((run.measure(gf.measure.effective_map)[:, 0] - w) ** 2).mean(1)
                    distance[i, j], furthest[i, j] = squared[-1], squared.max()
        below, above = grid <= 0.7500001 * critical, grid >= 1.0999999 * critical
        if depth <= 20:
            margin.append(np.where(np.isnan(furthest[below]), np.inf, furthest[below]).max())
            misses.append(np.nanmin(np.where(np.isnan(furthest[above]), np.inf, furthest[above])))
        known = np.isfinite(distance).any(1)
        line = ax.semilogx(grid[known], np.nanmean(distance[known], 1), ".-", label=f"$L = {depth}$")
        ax.axvline(critical, color=line[0].get_color(), linestyle="--", linewidth=1.0)
        data |= {f"h{depth}": (f"h{depth}", grid), f"distance{depth}": ((f"h{depth}", "run"), distance)}
    ax.set(xlabel="step", ylabel=r"mean of $|w - w_*|^2 / d$", ylim=(-0.01, 0.21))
    claims = [
        gf.Claim(f"converges_{depth}", f"L = {depth}: all runs converge for steps <= 0.75/(L a)", value, below=1e-6)
        for depth, value in zip(depths, margin, strict=False)
    ]
    claims += [
        gf.Claim(f"never_{depth}", f"L = {depth}: none converges for steps >= 1.1/(L a)", value, above=1e-6)
        for depth, value in zip(depths, misses, strict=False)
    ]
    return fig, data, claims
