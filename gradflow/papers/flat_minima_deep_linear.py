"""P. Marion, L. Chizat: Deep linear networks for regression are implicitly regularized towards flat minima.

2024, arXiv 2405.13456. No minimum of a deep linear regression is flatter than 2 L a, so descent with a step above 1/(L
a) cannot converge. From small starts the flow ends at a nearly flattest minimum with aligned layers of rank one; below
the critical step descent follows the flow until its sharpness would exceed 2/step. The balanced minimum and the bounds
of rank and alignment along the flow are derived here.
"""

import numpy as np
import xarray

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
SCALES = {3: (0.003, 0.03, 0.1, 0.3, 0.5), 5: (0.02, 0.05, 0.1, 0.25, 0.4), 10: (0.25, 0.35, 0.45)}
STARTS, SCALE = (0.25, 0.29, 0.33, 0.37, 0.4, 0.44, 0.48, 0.52, 0.56, 0.6), "scale of the start"


def regression(depth, network=None):
    """Fifty Gaussian samples without noise and their solution w of norm one; the sharpness of the minima."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 5))
    w = np.linalg.lstsq(x, x @ rng.standard_normal(5) + rng.standard_normal(50), rcond=None)[0]
    w /= np.linalg.norm(w)
    problem = gf.Problem(network or gf.DeepLinear([5] * depth + [1]), gf.losses.Square(), x, x @ w)
    return problem, w, gf.exact.flat_minima(x, w, depth)


def flow(depth, scale):
    """Where the flow ends, and what it keeps on the way."""
    problem, _, minima = regression(depth)
    start, tight = problem.init(np.sqrt(5) * scale, seed=7), {"rtol": 1e-10, "atol": 1e-12}
    run = gf.simulate(problem, start, gf.GradientFlow(), stop=gf.LossBelow(1e-20), **tight)
    ratio, gap = gf.measure.sharpness(problem, run.end) / minima.bound, gf.measure.rank_gap(problem, run.end).max()
    excess = max(values.max() for values in gf.measure.rank_one_excess(problem, run.theta, start).values())
    found = {"misalignment": 1 - gf.measure.alignment(problem, run.end).min() ** 2, "drift": run.max_drift}
    return found | {"ratio": ratio, "gap": gap, "excess": excess}


@PAPER.figure(minutes=0.3, claims=8, small={"scales": {3: (0.003, 0.1, 0.5), 5: (0.05, 0.4)}})
def flow_sharpness(scales=SCALES):
    """Where the flow ends, against the scale of the start: sharpness over its lower bound, and misalignment.

    Crosses at the left: the balanced minimum, the limit of small scales.
    """
    labels = [r"sharpness $S / (2 L a)$ at the end", r"misalignment $1 - \langle u_k, v_{k+1}\rangle^2$"]
    fig, axes = gf.plots.subplots(1, 2, xlabel=SCALE, ylabel=labels, xscale="log", yscale="log")
    parts, explicit, balanced = [], [], {}
    for depth, colour in gf.plots.coloured(scales):
        problem, w, minima = regression(depth)
        aligned = problem.with_data(np.eye(5), w).init(scheme="aligned")
        explicit.append(gf.measure.sharpness(problem, aligned) / minima.balanced - 1)
        balanced[depth] = minima.balanced / minima.bound
        parts.append(gf.sweep(flow, depth=[depth], scale=scales[depth]))
        for ax, name in zip(axes, ("ratio", "misalignment"), strict=True):
            gf.plots.lines(ax, parts[-1][name], label="{} layers", color=colour, marker="o")
        axes[0].plot(0.002, balanced[depth], "x", color=colour)
    every = {name: np.concatenate([part[name][0] for part in parts]) for name in ("ratio", "drift", "excess")}
    found = xarray.concat(parts, "depth", join="outer")
    smallest, largest = found.ratio.loc[3, [0.003, 0.5]]
    return fig, found, [
        gf.Claim("lower_bound", "S >= 2 L a |w*|^(2-2/L) at every minimum reached", every["ratio"], above=1 - 1e-9),
        gf.Claim("balanced_sharpness", "that of the balanced minimum is S_bal, relative", np.abs(explicit), below=1e-8),
        gf.Claim("balanced_five", "S_bal for five layers", regression(5)[2].balanced, expected=10.564939, within=1e-6),
        gf.Claim("small_scale_limit", "scale 0.003: S = S_bal, relative", abs(smallest / balanced[3] - 1), below=1e-4),
        gf.Claim("scale_matters", "scale 0.5: S over S_bal", largest / balanced[3], above=1.5),
        gf.Claim("balancedness", "W_{k+1}^T W_{k+1} - W_k W_k^T is constant", every["drift"], below=1e-8),
        gf.Claim("rank_one_alignment", "bounds of rank, norm, alignment at all times", every["excess"], below=1e-9),
        gf.Claim("rank_one", "scale 0.003: |W_k|_F^2 - |W_k|_2^2 at the end", found.gap.loc[3, 0.003], below=2e-4),
    ]  # fmt: skip


@PAPER.figure(minutes=0.3, claims=6, small={"scales": (0.25, 0.4), "repetitions": 2, "steps": (0.07, 0.1)})
def descent_sharpness(scales=STARTS, repetitions=4, steps=(0.005, 0.02, 0.07, 0.1)):
    """Final sharpness of gradient descent on ten layers against the scale of the start, for several steps.

    Dashed: 2/step; dotted: the lower bound 2 L a and the upper line 8 L lambda_max. Black: sharpness of the start.
    Descent ends below 2/step, or diverges at large scales (not drawn); with step 0.1 > 1/(L a) = 0.095 it does not
    converge, and what is drawn is where it stopped.
    """
    problem, w, minima = regression(10)

    def start(scale, seed=7):
        return problem.init(np.sqrt(5) * scale, seed=seed)

    def descent(step, scale):
        starts = np.array([start(scale, 7 + k) for k in range(repetitions)])
        runs = gf.simulate(problem, starts, gf.GD(step), t_end=max(200.0, 4000 * step), save_at=2)
        end = np.where((runs.status == gf.Status.REACHED_END)[:, None], runs.end, np.nan)
        distance = ((gf.measure.effective_map(problem, end)[:, 0] - w) ** 2).sum(1)
        before, after = gf.measure.sharpness(problem, starts), gf.measure.sharpness(problem, end)
        return {"start": before.mean(), "sharpness": ("run", after), "squared_distance": ("run", distance)}

    runs = gf.sweep(descent, step=steps, scale=scales)
    fig, ax = gf.plots.subplots(xlabel=SCALE, ylabel="sharpness", yscale="log", ylim=(5, 3e4))
    gf.plots.lines(ax, runs.start[0], color="k", label="start")
    look = {"label": "$h = {:g}$", "dynamics": gf.GD(1.0), "marker": "o"}
    for line, h in zip(gf.plots.lines(ax, runs.sharpness.mean("run"), **look), steps, strict=True):
        ax.axhline(2 / h, color=line.get_color(), linestyle="--", linewidth=1.0)
    gf.plots.reference(ax, minima.bound, r"$2La$, $8L\lambda_{\max}$", number=1)
    gf.plots.reference(ax, 80 * np.linalg.norm(problem.x, 2) ** 2 / 50, number=1)
    drifts = [gf.simulate(problem, start(0.35), gf.GD(h), 100.0, save_at=11).max_drift for h in (0.02, 0.01, 0.005)]
    distance, flattest = runs.squared_distance, runs.sharpness.loc[:0.09, 0.25]
    edge = runs.sharpness.loc[0.07, 0.4][distance.loc[0.07, 0.4] < 1e-8] * 0.07 / 2
    return fig, runs, [
        gf.Claim("below_two_over_step", "step 0.07, scale 0.4: S <= 2/h where converged", edge, below=1 + 1e-6),
        gf.Claim("edge", "and S is just below it", edge, above=0.98),
        gf.Claim("above_critical", "step 0.1 > 1/(L a): least |w - w*|^2", distance.loc[0.1].min(), above=1e-3),
        gf.Claim("below_critical", "step 0.07, scale 0.25: all |w - w*|^2", distance.loc[0.07, 0.25], below=1e-8),
        gf.Claim("flat", "scale 0.25, other steps: S over 2 L a", flattest / minima.bound, above=1.0, below=1.2),
        gf.Claim.halves("gd_drift", "halving h halves the drift of the balance at t = 100", drifts, within=0.2),
    ]  # fmt: skip


@PAPER.figure(minutes=0.5, claims=6, small={"depths": (5, 10, 20), "repetitions": 2, "steps": 9})
def critical_step(depths=(5, 10, 20, 40), repetitions=10, steps=25, iterations=1000, strength=0.25):
    """Residual networks: squared distance to the solution after a thousand steps of descent, against the step.

    Dashed: the critical step 1/(L a). Start I + strength/sqrt(L d) N with a fixed random read-out; diverged runs are
    left out of the means.
    """
    readout = gf.data.unit_rows(np.random.default_rng(3).standard_normal((1, 5)))

    def descent(depth, step):
        problem, w, _ = regression(depth, gf.ResidualLinear(depth, 5, readout))
        starts = np.array([problem.init(strength / np.sqrt(depth), seed=k) for k in range(repetitions)])
        last = step * np.arange(iterations - 100, iterations + 1)
        runs = gf.simulate(problem, starts, gf.GD(step), t_end=step * iterations, save_at=last)
        squared = ((runs.measure(gf.measure.effective_map)[:, :, 0] - w) ** 2).mean(2)
        squared[runs.status != gf.Status.REACHED_END] = np.nan
        return {"distance": ("run", squared[:, -1]), "furthest": ("run", squared.max(1))}

    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"mean of $|w - w_*|^2 / d$", xscale="log", ylim=(-0.01, 0.21))
    claims = []
    for depth, colour in gf.plots.coloured(depths):
        critical = 2 / regression(depth)[2].bound
        grid = np.unique(np.append(np.geomspace(1e-2, 10**-0.3, steps), [0.75 * critical, 1.1 * critical]))
        runs = gf.sweep(descent, depth=[depth], step=grid)
        gf.plots.lines(ax, runs.distance.mean("run"), label="$L = {}$", color=colour, marker=".")
        ax.axvline(critical, color=colour, linestyle="--", linewidth=1.0)
        furthest = runs.furthest.fillna(np.inf)
        most = furthest.sel(step=slice(0.7500001 * critical)).max()
        least = furthest.sel(step=slice(1.0999999 * critical, None)).min()
        claims += [
            gf.Claim(f"converges_{depth}", f"L = {depth}: all converge for steps <= 0.75/(L a)", most, below=1e-6),
            gf.Claim(f"never_{depth}", f"L = {depth}: none converges for steps >= 1.1/(L a)", least, above=1e-6),
        ] if depth <= 20 else []  # fmt: skip
    return fig, gf.plots.drawn(fig), claims
