"""T. Galanti, T. Poggio: SGD Noise and Implicit Low-Rank Bias in Deep Neural Networks. CBMM memo 134, 2022. With weight
decay and batches smaller than the data set, stochastic gradient descent never comes to rest: its step length has a
plateau that grows with the decay. A batch gradient has at most as high a rank as the batch has samples, hence so has
every stationary point of the full gradient. The proofs and constants behind the checks are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)


def interpolating(decay):
    """Deep linear network 12-10-10-1 on eight samples with alternating labels."""
    x, y = gf.data.unit_inputs(8, 12, 0), np.tile([1.0, -1.0], 4)
    return gf.Problem(gf.DeepLinear([12, 10, 10, 1]), gf.losses.Square(), x, y, decay=decay)


@PAPER.figure(minutes=0.2, claims=5, small={"batches": (1, 4, 8), "decays": (0.0, 1e-3, 2e-3, 4e-3)})
def step_lengths(batches=(1, 2, 4, 8), decays=(0.0, 1e-3, 2e-3, 4e-3, 8e-3), steps=30_000, step=0.05):
    """Relative length of the steps of SGD on 8 samples, mean of a hundred; its plateau is proportional to the decay."""

    def descent(batch, decay):
        problem, rule = interpolating(decay), gf.SGD(step, batch_size=batch, seed=2)
        run = gf.simulate(problem, problem.init(seed=1), rule, t_end=step * steps, save_at=steps + 1)
        lengths, places = gf.measure.step_lengths(run, mean_over=100), 100 * np.arange(1, steps // 100 + 1)
        over = gf.measure.gradient_noise_floor(problem, run.end) - gf.measure.gradient_noise(problem, run.end)[0]
        norm = gf.measure.layer_norms(problem, run.end)[0]
        return {"k": ("k", places), "length": ("k", lengths), "over": over, "norm": norm}

    sizes, ones = gf.sweep(descent, batch=batches, decay=2e-3), gf.sweep(descent, batch=1, decay=decays)
    plateau, ends = ones.length[:, -10:].mean("k"), sizes.length[:, -10:].mean("k")
    slope = (plateau / plateau.decay).sel(decay=slice(1e-9, 5e-3))
    labels = {"xlabel": ["step", "decay"], "ylabel": [r"$|\theta_{k+1} - \theta_k|\,/\,|\theta_k|$", "plateau"]}
    limits = {"title": [r"$\lambda = 0.002$", "B = 1"], "xlim": [(10, 4e4), None], "ylim": [(1e-8, 3e-2), None]}
    fig, axes = gf.plots.subplots(1, 2, xscale="log", yscale="log", **labels, **limits)
    gf.plots.lines(axes[0], sizes.length, label="B = {}", dynamics=gf.SGD(step))
    gf.plots.lines(axes[0], ones.length.sel(decay=0), color="k", linestyle=":", label=r"B = 1, $\lambda = 0$")
    gf.plots.lines(axes[1], plateau, dynamics=gf.SGD(step), marker="o", linestyle="none")
    gf.plots.lines(axes[1], 0.316 * plateau.decay, color="0.4", linestyle="--", label=r"$0.316\,\lambda$")
    return fig, [
        gf.Claim("lambda0_converges", "without decay SGD comes to rest", plateau.sel(decay=0), below=1e-15),
        gf.Claim("noise_plateau", "the plateau over lambda for lambda <= 0.004", slope, expected=0.316, rtol=0.01),
        gf.Claim("full_batch_rests", "plateau: B = 4 over all 8", ends.sel(batch=4) / ends.sel(batch=8), above=100),
        gf.Claim("noise_floor", "mean |G_n|^2 >= 4 lambda^2 (|W_1|^2 - mean |W_1 x_n|^2/|x_n|^2): floor minus noise",
                 [*sizes.over, *ones.over], below=1e-12),
        gf.Claim("no_collapse", "the first layer has not vanished", [*sizes.norm, *ones.norm], above=1.0)]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=8)
def stationary_rank(t_end=1500.0, batches=(1, 2, 3, 8)):
    """Left: singular values of the layers of a linear network 8-10-10-5 at rest with three samples: all have rank 3.
    Right: ranks of batch gradients of a random ReLU network 64-48-48-5 in its layers, at most the batch size (dashed).
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 8)), rng.standard_normal((3, 5))
    three = gf.Problem(gf.DeepLinear([8, 10, 10, 5]), gf.losses.Square(), x, y, decay=0.02)
    eight, tight = interpolating(2e-3), {"rtol": 1e-9, "atol": 1e-12}
    end = gf.simulate(three, three.init(seed=5), gf.GradientFlow(), t_end, **tight).end
    rest = gf.simulate(eight, eight.init(seed=1), gf.GradientFlow(), 8000.0, **tight).end
    modes = gf.sweep(lambda layer: gf.measure.singular_values(three, end, layer), layer=["W1", "W2", "W3"]).value
    noise = [gf.measure.gradient_noise(eight, rest)[0], gf.measure.gradient_noise_floor(eight, rest)]

    def batch_rank(size):
        x, y = gf.data.unit_inputs(size, 64, seed=0), np.random.default_rng(1).standard_normal((size, 5))
        batch = gf.Problem(gf.FullyConnected([64, 48, 48, 5]), gf.losses.Square(), x, y)
        return gf.measure.numerical_rank(batch, batch.gradient(batch.init(seed=1, scheme="he")), tolerance=1e-10)

    ranks, least = gf.sweep(batch_rank, size=batches).value, np.minimum(np.array(batches)[:, None], [48, 48, 5])
    labels = {"xlabel": ["index", "batch size B"], "ylabel": ["singular value", "rank of the batch gradient"]}
    fig, axes = gf.plots.subplots(1, 2, yscale=["log", "linear"], **labels)
    look = {"label": "$W_{}$", "marker": [*"os^"], "markersize": [6, 7, 8], "fillstyle": "none", "linestyle": "none"}
    gf.plots.lines(axes[0], modes, range(1, 11), range(1, 4), **look)
    gf.plots.lines(axes[1], ranks.T, of=range(1, 4), **look)
    gf.plots.lines(axes[1], batches, batches, color="0.4", linestyle="--")
    return fig, [
        gf.Claim("stationary_rank", "three samples: sigma_4/sigma_1", modes[:, 3] / modes[:, 0], below=1e-12),
        gf.Claim("three_modes", "the other singular values", modes[:, :3],
                 expected=3 * [0.952136, 0.799944, 0.711489], within=1e-6),
        gf.Claim("balanced", "so all layers have one norm", np.ptp(gf.measure.layer_norms(three, end)), below=1e-13),
        gf.Claim("sharp_rest", "eight samples: mean g_n = -2 lambda W_k", abs(eight.gradient(rest)).max(), below=1e-12),
        gf.Claim("sharp_norm", "the norms", gf.measure.layer_norms(eight, rest), expected=1.521187, within=1e-6),
        gf.Claim("sharp_rank", "rank one: 1 - sigma_1^2/|W|^2", gf.measure.rank_tail(eight, rest, 1) ** 2, below=1e-20),
        gf.Claim("sharp_noise", "mean |G_n|^2 of W_1, its bound", noise, expected=[1.25972e-3, 3.40639e-5], rtol=1e-5),
        gf.Claim("batch_rank", "ReLU: batch gradients: rank B, B, min(B, 5)", ranks.values == least)]  # fmt: skip


@PAPER.figure(minutes=0.4, claims=3)
def ridge_covariance(steps=400_000, step=0.1, decay=0.05):
    """SGD for ridge regression, one sample a step: mean |w - w*|^2 so far, and its stationary value, derived here."""
    full = interpolating(0.0)
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(), full.x[:4, :3], full.y[:4], decay=decay)
    exact, rule = gf.exact.sgd_ridge(problem.x, problem.y, decay, step), gf.SGD(step, replacement=True)
    run = gf.simulate(problem, exact.mean, rule, t_end=step * steps, save_at=steps + 1)
    running = ((run.theta[1:] - exact.mean) ** 2).sum(1).cumsum() / np.arange(1, steps + 1)
    kept, trace = np.unique(np.geomspace(1, steps, 400).astype(int)), np.trace(exact.covariance)
    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"mean of $|w - w_*|^2$", xscale="log")
    gf.plots.lines(ax, running[kept - 1], kept, dynamics=rule, label="mean over the iterates")
    gf.plots.reference(ax, trace, label="trace of the covariance")
    return fig, [
        gf.Claim("ridge_trace", "the covariance has trace 0.0196517", trace, expected=0.0196517, within=1e-7),
        gf.Claim("ridge_covariance", "that of the iterates about w*", running[-1], expected=trace, rtol=0.04),
        gf.Claim("ridge_mean", "and the mean w*", np.abs(run.theta.mean(0) - exact.mean), below=5e-3)]  # fmt: skip
