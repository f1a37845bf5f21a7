"""T. Galanti, T. Poggio: SGD Noise and Implicit Low-Rank Bias in Deep Neural Networks. CBMM memo 134, 2022.

With weight decay and batches smaller than the data set, stochastic gradient descent never comes to rest: its step
length has a plateau that grows with the decay. A batch gradient has at most as high a rank as the batch has samples,
hence so has every stationary point of the full gradient. The proofs and constants behind the checks are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)


def interpolating(decay):
    """Deep linear network 12-10-10-1 on eight samples with alternating labels."""
    y = np.tile([1.0, -1.0], 4)
    return gf.Problem(gf.DeepLinear([12, 10, 10, 1]), gf.losses.Square(), gf.data.unit_inputs(8, 12, 0), y, decay=decay)


@PAPER.figure(minutes=0.5, claims=6, small={"batches": (1, 4, 8), "decays": (0.0, 1e-3, 2e-3, 4e-3)})
def step_lengths(batches=(1, 2, 4, 8), decays=(0.0, 1e-3, 2e-3, 4e-3, 8e-3), steps=30_000, step=0.05):
    """Relative length of the steps of SGD, mean over a hundred steps, and its plateau against the decay.

    Batch sizes 1, 2, 4 and all 8 samples with decay 0.002, and batch size 1 without decay. Right: the plateau of batch
    size 1 is proportional to the decay (dashed: 0.316 lambda).
    """

    def descent(batch, decay):
        problem, times = interpolating(decay), step * np.arange(steps + 1)
        rule = gf.SGD(step, batch_size=batch, seed=2)
        run = gf.simulate(problem, problem.init(seed=1), rule, t_end=times[-1], save_at=times)
        lengths = gf.measure.step_lengths(run)
        noise, floor = gf.measure.gradient_noise(problem, run.end), gf.measure.gradient_noise_floor(problem, run.end)
        return {
            "steps": ("steps", 100 * np.arange(1, steps // 100 + 1)),
            "length": ("steps", np.maximum(lengths.reshape(-1, 100).mean(1), 1e-17)),
            "plateau": lengths[-1000:].mean(),
            "excess": floor - noise[0],
            "norm": gf.measure.layer_norms(problem, run.end)[0],
        }

    sizes, ones = gf.sweep(descent, batch=batches, decay=2e-3), gf.sweep(descent, batch=1, decay=decays)
    plateau = ones.plateau.sel(decay=slice(1e-9, None))
    slope, (four, full) = (plateau / plateau.decay).sel(decay=slice(5e-3)), sizes.plateau.sel(batch=[4, 8])
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=["step", r"decay $\lambda$"], xscale="log", yscale="log",
        ylabel=[r"$|\theta_{t+1} - \theta_t|\,/\,|\theta_t|$", "plateau, B = 1"],
    )  # fmt: skip
    gf.plots.lines(axes[0], sizes.length, label=r"B = {}, $\lambda = 0.002$", dynamics=gf.SGD(step))
    gf.plots.lines(axes[0], ones.length.sel(decay=0), color="k", linestyle=":", label=r"B = 1, $\lambda = 0$")
    gf.plots.lines(axes[1], plateau, dynamics=gf.SGD(step), marker="o", linestyle="none")
    gf.plots.lines(axes[1], 0.316 * plateau.decay, color="0.4", linestyle="--", label=r"$0.316\,\lambda$")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("lambda0_converges", "without decay SGD comes to rest", ones.plateau.sel(decay=0), below=1e-12),
        gf.Claim("noise_plateau", "the plateau over lambda for lambda <= 0.004", slope, expected=0.316, rtol=0.15),
        gf.Claim("noise_linear", "and the same for all three", np.ptp(slope.values) / slope.mean(), below=0.05),
        gf.Claim("full_batch_rests", "plateau of B = 4 over that of the full batch", four / full, above=100),
        gf.Claim("noise_floor", "mean |G_n|^2 >= 4 lambda^2 (|W_1|^2 - mean |W_1 x_n|^2/|x_n|^2): floor minus noise",
                 [*sizes.excess, *ones.excess], below=1e-12),
        gf.Claim("no_collapse", "the first layer has not vanished: norm", [*sizes.norm, *ones.norm], above=0.1),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=12)
def stationary_rank(t_end=1500.0, batches=(1, 2, 3, 8)):
    """Left: singular values of the layers of a linear network 8-10-10-5 at a stationary point with three samples.

    All layers have rank three and equal singular values. Right: ranks of batch gradients of a random ReLU network
    64-48-48-5 in its three layers, at most the batch size (dashed).
    """
    rng, tight = np.random.default_rng(0), {"rtol": 1e-9, "atol": 1e-12}
    x, y = rng.standard_normal((3, 8)), rng.standard_normal((3, 5))
    problem, eight = (
        gf.Problem(gf.DeepLinear([8, 10, 10, 5]), gf.losses.Square(), x, y, decay=0.02),
        interpolating(2e-3),
    )
    end = gf.simulate(problem, problem.init(seed=5), gf.GradientFlow(), t_end, **tight).end
    rest = gf.simulate(eight, eight.init(seed=1), gf.GradientFlow(), 8000.0, **tight).end
    values = list(gf.measure.layer_singular_values(problem, end).values())
    norms, eight_norms = gf.measure.layer_norms(problem, end), gf.measure.layer_norms(eight, rest)
    noise, floor = gf.measure.gradient_noise(eight, rest)[0], gf.measure.gradient_noise_floor(eight, rest)

    def batch_rank(size):
        x, y = gf.data.unit_inputs(size, 64, seed=0), np.random.default_rng(1).standard_normal((size, 5))
        batch = gf.Problem(gf.FullyConnected([64, 48, 48, 5]), gf.losses.Square(), x, y)
        return gf.measure.numerical_rank(batch, batch.gradient(batch.init(seed=1, scheme="he")), tolerance=1e-10)

    ranks, least = gf.sweep(batch_rank, size=batches).value.values, np.minimum(np.array(batches)[:, None], [48, 48, 5])
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=["index", "batch size B"], ylabel=["singular value", "rank of the batch gradient"],
        yscale=["log", "linear"],
    )  # fmt: skip
    for layer, (marker, spectrum) in enumerate(zip("os^", values, strict=True), 1):
        look = {"label": f"$W_{layer}$", "marker": marker, "markersize": 5 + layer, "fillstyle": "none", "ls": "none"}
        axes[0].plot(np.arange(1, spectrum.size + 1), np.maximum(spectrum, 1e-18), **look)
        axes[1].plot(batches, ranks[:, layer - 1], **look)
    axes[1].plot(batches, batches, "--", color="0.4")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("stationary_rank", "three samples: sigma_4/sigma_1", [v[3] / v[0] for v in values], below=1e-8),
        gf.Claim("three_modes", "the three others are 0.952136, 0.799944, 0.711489", values[1][:3],
                 expected=[0.952136, 0.799944, 0.711489], within=1e-6),
        gf.Claim("norm", "all layers have norm 1.432721", norms, expected=1.432721, within=1e-6),
        gf.Claim("balanced", "equal for all", np.ptp(norms), below=1e-8),
        gf.Claim("at_rest", "the gradient there", np.abs(problem.gradient(end)).max(), below=1e-10),
        gf.Claim("sharp_rest", "eight samples: mean g_n = -2 lambda W_k", abs(eight.gradient(rest)).max(), below=1e-8),
        gf.Claim("sharp_norm", "all layers have norm 1.521187", eight_norms, expected=1.521187, within=1e-6),
        gf.Claim("sharp_rank", "rank one: 1 - sigma_1^2/|W|^2", gf.measure.rank_tail(eight, rest, 1) ** 2, below=1e-7),
        gf.Claim("sharp_noise", "mean |G_n|^2 of the first layer there", noise, expected=1.25972e-3, rtol=1e-5),
        gf.Claim("sharp_floor", "and its bound", floor, expected=3.40639e-5, rtol=1e-5),
        gf.Claim("batch_rank", "ReLU: batch gradients have rank B, B and min(B, 5)", ranks == least),
        gf.Claim("sgd_cannot_rest", "noise over its bound at the stationary point", noise / floor, above=1.0),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=3)
def ridge_covariance(steps=400_000, step=0.1, decay=0.05):
    """SGD for ridge regression with batch size one and replacement: mean squared distance to the ridge solution.

    Running mean over the iterates, and the trace of the stationary covariance in closed form (dashed; derived here).
    """
    full, times = interpolating(0.0), step * np.arange(steps + 1)
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(), full.x[:4, :3], full.y[:4], decay=decay)
    exact, rule = gf.exact.sgd_ridge(problem.x, problem.y, decay, step), gf.SGD(step, replacement=True)
    run = gf.simulate(problem, exact.mean, rule, t_end=times[-1], save_at=times)
    running = ((run.theta[1:] - exact.mean) ** 2).sum(1).cumsum() / np.arange(1, steps + 1)
    kept, trace = np.unique(np.geomspace(1, steps, 400).astype(int)), np.trace(exact.covariance)
    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"mean of $|w - w_*|^2$", xscale="log")
    gf.plots.lines(ax, running[kept - 1], kept, color=gf.plots.colours(rule), label="mean over the iterates")
    gf.plots.reference(ax, trace, label="trace of the covariance")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("ridge_trace", "the covariance has trace 0.0196517", trace, expected=0.0196517, within=1e-7),
        gf.Claim("ridge_covariance", "that of the iterates about w*", running[-1], expected=trace, rtol=0.04),
        gf.Claim("ridge_mean", "and the mean w*", np.abs(run.theta.mean(0) - exact.mean), below=5e-3),
    ]  # fmt: skip
