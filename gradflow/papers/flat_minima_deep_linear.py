"""P. Marion, L. Chizat: Deep linear networks for regression are implicitly regularized towards flat minima. 2024, arXiv
2405.13456. No minimum of a deep linear regression is flatter than 2 L a: descent with a step above 1/(L a) cannot
converge, and ends below the sharpness 2/step. From small starts the flow ends at a nearly flattest minimum with aligned
layers of rank one. The balanced minimum and the bounds of rank and alignment are derived here.
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
    """Where the flow ends, what it keeps on the way, and the sharpness of the balanced minimum built from w."""
    problem, w, minima = regression(depth)
    start, tight = problem.init(np.sqrt(5) * scale, seed=7), {"rtol": 1e-10, "atol": 1e-12}
    run = gf.simulate(problem, start, gf.GradientFlow(), stop=gf.LossBelow(1e-20), **tight)
    excess = max(values.max() for values in gf.measure.rank_one_excess(problem, run.theta, start).values())
    ends = np.array([run.end, problem.with_data(np.eye(5), w).init(scheme="aligned")])
    found, balanced = gf.measure.sharpness(problem, ends)
    off, off_formula = abs(np.array([found, balanced]) / minima.balanced - 1)
    misalignment, gap = 1 - gf.measure.alignment(problem, run.end).min() ** 2, gf.measure.rank_gap(problem, run.end)
    return {"ratio": found / minima.bound, "above_balanced": off, "misalignment": misalignment, "gap": gap.max(),
            "excess": excess, "drift": run.max_drift, "balanced": balanced, "formula": off_formula}  # fmt: skip


@PAPER.figure(minutes=0.3, claims=8, small={"scales": {3: (0.003, 0.1, 0.5), 5: (0.05, 0.4)}})
def flow_sharpness(scales=SCALES):
    """Where the flow ends: from small starts at a minimum as flat as the balanced one, its layers aligned."""
    labels = [r"sharpness $S / (2 L a)$", r"$|S / S_{\rm balanced} - 1|$", r"$1 - \langle u_k, v_{k+1}\rangle^2$"]
    fig, axes = gf.plots.subplots(1, 3, xlabel=SCALE, ylabel=labels, xscale="log", yscale=["linear", "log", "log"])
    parts = []
    for depth, colour in gf.plots.coloured(scales):
        parts.append(gf.sweep(flow, depth=[depth], scale=scales[depth]))
        for ax, name in zip(axes, ("ratio", "above_balanced", "misalignment"), strict=True):
            gf.plots.lines(ax, parts[-1][name], label="{} layers", color=colour, marker="o")
    gf.plots.reference(axes[0], 1.0)
    found = xarray.concat(parts, "depth", join="outer")
    (small, large), five = (found.sel(depth=3, scale=[s]) for s in (0.003, 0.5)), found.balanced.sel(depth=5).max()
    return fig, found, [
        gf.Claim("lower_bound", "S >= 2 L a |w*|^(2-2/L) at every minimum reached", found.ratio.min(), above=1 - 1e-9),
        gf.Claim("balanced_sharpness", "that of the balanced minimum is S_bal", found.formula.max(), below=3e-14),
        gf.Claim("balanced_five", "10.564939 for five layers", five, expected=10.564939, within=1e-6),
        gf.Claim("small_scale_limit", "scale 0.003: S = S_bal, relative", small.above_balanced, below=5e-6),
        gf.Claim("scale_matters", "scale 0.5: S over S_bal - 1", large.above_balanced, above=0.5),
        gf.Claim("balancedness", "W_{k+1}^T W_{k+1} - W_k W_k^T is constant", found.drift.max(), below=2e-11),
        gf.Claim("rank_one_alignment", "bounds of rank, norm, alignment at all times", found.excess.max(), below=1e-9),
        gf.Claim("rank_one", "scale 0.003: |W_k|_F^2 - |W_k|_2^2 at the end", small.gap, below=2e-4)]  # fmt: skip


@PAPER.figure(minutes=0.3, claims=5, small={"scales": (0.25, 0.4), "repetitions": 2, "steps": (0.07, 0.1)})
def descent_sharpness(scales=STARTS, repetitions=4, steps=(0.005, 0.02, 0.07, 0.1)):
    """Ten layers: final sharpness where descent did not diverge, 2/h (dashed); h = 0.1 > 1/(L a): where it stopped."""
    problem, w, minima = regression(10)

    def descent(step, scale):
        starts = np.array([problem.init(np.sqrt(5) * scale, seed=7 + k) for k in range(repetitions)])
        runs = gf.simulate(problem, starts, gf.GD(step), max(200.0, 4000 * step), save_at=2)
        end = np.where((runs.status == gf.Status.REACHED_END)[:, None], runs.end, np.nan)
        distance = ((gf.measure.effective_map(problem, end)[:, 0] - w) ** 2).sum(1)
        before, after = gf.measure.sharpness(problem, starts), gf.measure.sharpness(problem, end)
        return {"start": before.mean(), "sharpness": ("run", after), "squared_distance": ("run", distance)}

    runs = gf.sweep(descent, step=steps, scale=scales)
    fig, ax = gf.plots.subplots(xlabel=SCALE, ylabel="sharpness", yscale="log", ylim=(0.1, 3e4))
    gf.plots.lines(ax, runs.start[0], color="k", label="start")
    ends = gf.plots.lines(ax, runs.sharpness.mean("run"), label="$h = {:g}$", dynamics=gf.GD(1.0), marker="o")
    gf.plots.reference(ax, 2 / np.array(steps), of=ends)
    start, upper = problem.init(np.sqrt(5) * 0.35, seed=7), 80 * np.linalg.norm(problem.x, 2) ** 2 / problem.n
    gf.plots.reference(ax, [minima.bound, upper], r"$2La$, $8L\lambda_{\max}$", number=1)
    drifts = [gf.simulate(problem, start, gf.GD(h), 100.0, save_at=11).max_drift for h in (0.02, 0.01, 0.005)]
    distance, flattest = runs.squared_distance, runs.sharpness.loc[:0.09, 0.25]
    edge = runs.sharpness.loc[0.07, 0.4][distance.loc[0.07, 0.4] < 1e-8] * 0.07 / 2
    return fig, runs, [
        gf.Claim("edge", "h = 0.07, scale 0.4: S over 2/h where converged", edge, above=0.98, below=1 + 1e-6),
        gf.Claim("above_critical", "h = 0.1 > 1/(L a): least |w - w*|^2", distance.loc[0.1].min(), above=5e-3),
        gf.Claim("below_critical", "h = 0.07, scale 0.25: all |w - w*|^2", distance.loc[0.07, 0.25], below=1e-28),
        gf.Claim("flat", "scale 0.25, other steps: S over 2 L a", flattest / minima.bound, above=1.0, below=1.2),
        gf.Claim.halves("gd_drift", "the drift of the balance halves with h, t = 100", drifts, within=0.1)]  # fmt: skip


@PAPER.figure(minutes=0.5, claims=2, small={"depths": (5, 10, 20), "repetitions": 2, "points": 5})
def critical_step(depths=(5, 10, 20, 40), repetitions=10, points=19, iterations=1000, strength=0.25):
    """Residual networks: squared distance to the solution after a thousand steps of descent, mean of the runs that do
    not diverge, against the step; dashed: 1/(L a). Start I + strength/sqrt(L d) N, a fixed random read-out.
    """
    readout = gf.data.unit_rows(np.random.default_rng(3).standard_normal((1, 5)))

    def descent(depth, ratio):
        problem, w, minima = regression(depth, gf.ResidualLinear(depth, 5, readout))
        starts = np.array([problem.init(strength / np.sqrt(depth), seed=k) for k in range(repetitions)])
        critical, step = 2 / minima.bound, ratio * 2 / minima.bound
        last = step * np.arange(iterations - 100, iterations + 1)
        runs = gf.simulate(problem, starts, gf.GD(step), last[-1], save_at=last)
        squared = ((runs.measure(gf.measure.effective_map)[:, :, 0] - w) ** 2).mean(2)
        squared[runs.status != gf.Status.REACHED_END] = np.nan
        return {"step": step, "critical": critical, "squared": (("run", "saved"), squared)}

    runs = gf.sweep(descent, depth=depths, ratio=np.unique([*np.geomspace(0.3, 3.0, points), 0.75, 1.1]))
    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"mean of $|w - w_*|^2 / d$", xscale="log", ylim=(-0.01, 0.21))
    ends = gf.plots.lines(ax, runs.squared[..., -1].mean("run"), runs.step, label="$L = {}$", marker=".")
    gf.plots.reference(ax, runs.critical[:, 0], axis="x", of=ends)
    furthest = runs.squared.max("saved").fillna(np.inf).sel(depth=slice(None, 20))
    small, large = furthest.sel(ratio=slice(None, 0.75)), furthest.sel(ratio=slice(1.1, None))
    return fig, runs, [
        gf.Claim("converges", "L = 5, 10, 20: all converge for steps up to 0.75/(L a)", small, below=5e-12),
        gf.Claim("never", "L = 5, 10, 20: none converges for steps from 1.1/(L a)", large, above=1e-3)]  # fmt: skip
