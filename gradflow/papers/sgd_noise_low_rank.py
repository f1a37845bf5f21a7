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


def floor(problem, theta):
    """4 lambda^2 (|W_1|^2 - mean |W_1 x_n|^2 / |x_n|^2), below the mean squared gradient there."""
    first = problem.layers(theta)["W1"]
    directions = problem.x / np.linalg.norm(problem.x, axis=1, keepdims=True)
    return 4 * problem.decay**2 * ((first**2).sum() - ((directions @ first.T) ** 2).sum(1).mean())


def noise(problem, theta):
    """Mean squared gradient of a sample in the first layer."""
    first = problem.layers(gf.measure.sample_gradients(problem, theta))["W1"]
    return (first**2).sum((1, 2)).mean()


RUNS = ((1, 0.0), (1, 2e-3), (2, 2e-3), (4, 2e-3), (8, 2e-3), (1, 1e-3), (1, 4e-3), (1, 8e-3))


@PAPER.figure(minutes=0.5, claims=6, small={"runs": tuple(run for run in RUNS if run not in ((2, 2e-3), (1, 8e-3)))})
def step_lengths(runs=RUNS, steps=30_000, step=0.05):
    """Relative length of the steps of SGD, mean over a hundred steps, and its plateau against the decay.

    Batch sizes 1, 2, 4 and all 8 samples with decay 0.002, and batch size 1 without decay. Right: the plateau of batch
    size 1 is proportional to the decay (dashed: 0.316 lambda).
    """
    fig, axes = gf.plots.subplots(1, 2)
    plateau, sound, sizes = {}, [], []
    shades = dict(gf.plots.coloured((1, 2, 4, 8), gf.SGD(step)))
    times = step * np.arange(steps + 1)
    for batch, decay in runs:
        problem = interpolating(decay)
        rule = gf.SGD(step, batch_size=batch, seed=2)
        run = gf.simulate(problem, problem.init(seed=1), rule, t_end=times[-1], save_at=times)
        lengths = np.linalg.norm(np.diff(run.theta, axis=0), axis=1) / np.linalg.norm(run.theta[:-1], axis=1)
        plateau[batch, decay] = lengths[-1000:].mean()
        sound.append(floor(problem, run.end) - noise(problem, run.end))
        sizes.append(np.linalg.norm(problem.layers(run.end)["W1"]))
        if decay in (0.0, 2e-3):
            mean = np.maximum(lengths.reshape(-1, 100).mean(1), 1e-17)
            look = {"color": shades[batch]} if decay else {"color": "k", "linestyle": ":"}
            axes[0].loglog(
                100 * np.arange(1, mean.size + 1), mean, label=f"B = {batch}, $\\lambda = {decay:g}$", **look
            )
    decays = np.array(sorted(decay for batch, decay in plateau if batch == 1 and decay))
    ones = np.array([plateau[1, decay] for decay in decays])
    axes[1].loglog(decays, ones, "o", color=shades[1])
    axes[1].loglog(decays, 0.316 * decays, "--", color="0.4", label=r"$0.316\,\lambda$")
    axes[0].set(xlabel="step", ylabel=r"$|\theta_{t+1} - \theta_t|\,/\,|\theta_t|$")
    axes[1].set(xlabel=r"decay $\lambda$", ylabel="plateau, B = 1")
    slope = ones[decays < 5e-3] / decays[decays < 5e-3]
    data = {"batch": ("run", [batch for batch, _ in runs]), "decay": ("run", [decay for _, decay in runs])}
    return fig, data | {"plateau": ("run", [plateau[run] for run in runs])}, [
        gf.Claim("lambda0_converges", "without decay SGD comes to rest", plateau[1, 0.0], below=1e-12),
        gf.Claim("noise_plateau", "the plateau over lambda is 0.316 for lambda = 0.001, 0.002, 0.004", slope,
                 expected=0.316, rtol=0.15),
        gf.Claim("noise_linear", "and the same for all three", np.ptp(slope) / slope.mean(), below=0.05),
        gf.Claim("full_batch_rests", "the full batch moves 100 times less than B = 4",
                 plateau[4, 2e-3] / plateau[8, 2e-3], above=100),
        gf.Claim("noise_floor", "mean |G_n|^2 >= 4 lambda^2 (|W_1|^2 - mean |W_1 x_n|^2/|x_n|^2): floor minus noise",
                 sound, below=1e-12),
        gf.Claim("no_collapse", "the first layer has not vanished", sizes, above=0.1),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=12)
def stationary_rank(t_end=1500.0, batches=(1, 2, 3, 8)):
    """Left: singular values of the layers of a linear network 8-10-10-5 at a stationary point with three samples.

    All layers have rank three and equal singular values. Right: ranks of batch gradients of a random ReLU network
    64-48-48-5 in its three layers, at most the batch size (dashed).
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 8)), rng.standard_normal((3, 5))
    problem = gf.Problem(gf.DeepLinear([8, 10, 10, 5]), gf.losses.Square(), x, y, decay=0.02)
    tight = {"rtol": 1e-9, "atol": 1e-12}
    run = gf.simulate(problem, problem.init(seed=5), gf.GradientFlow(), t_end=t_end, **tight)
    values = gf.measure.layer_singular_values(problem, run.end)
    norms = gf.measure.layer_norms(problem, run.end)
    eight = interpolating(2e-3)
    rest = gf.simulate(eight, eight.init(seed=1), gf.GradientFlow(), t_end=8000.0, **tight)
    ratios = [v[3] / v[0] for v in values.values()]
    net = gf.FullyConnected([64, 48, 48, 5])
    rng = np.random.default_rng(0)
    ranks = []
    for size in batches:
        batch = gf.Problem(net, gf.losses.Square(), gf.data.unit_inputs(size, 64, rng), rng.standard_normal((size, 5)))
        gradient = batch.gradient(batch.init(seed=1, scheme="he"))
        ranks.append(gf.measure.numerical_rank(batch, gradient, tolerance=1e-10))
    ranks, bound = np.array(ranks), np.minimum(np.array(batches)[:, None], [[48, 48, 5]])
    fig, axes = gf.plots.subplots(1, 2)
    for name, marker in zip(values, "os^", strict=True):
        drawn = np.maximum(values[name], 1e-18)
        axes[0].semilogy(np.arange(1, drawn.size + 1), drawn, marker, label=f"$W_{name[1]}$", fillstyle="none")
    for layer, marker in enumerate("os^"):
        axes[1].plot(batches, ranks[:, layer], marker, label=f"$W_{layer + 1}$", fillstyle="none", markersize=6 + layer)
    axes[1].plot(batches, batches, "--", color="0.4")
    axes[0].set(xlabel="index", ylabel="singular value")
    axes[1].set(xlabel="batch size B", ylabel="rank of the batch gradient")
    data = {name: (f"index{name}", v) for name, v in values.items()} | {"rank": (("batch", "layer"), ranks)}
    return fig, data | {"batch": ("batch", list(batches))}, [
        gf.Claim("stationary_rank", "three samples: sigma_4/sigma_1 of every layer is 0", ratios, below=1e-8),
        gf.Claim("three_modes", "the three others are 0.952136, 0.799944, 0.711489", values["W2"][:3],
                 expected=[0.952136, 0.799944, 0.711489], within=1e-6),
        gf.Claim("norm", "all layers have norm 1.432721", norms, expected=1.432721, within=1e-6),
        gf.Claim("balanced", "equal for all", np.ptp(norms), below=1e-8),
        gf.Claim("at_rest", "the gradient there", np.abs(problem.gradient(run.end)).max(), below=1e-10),
        gf.Claim("sharp_rest", "eight samples, lambda = 0.002: mean g_n = -2 lambda W_k in every layer",
                 np.abs(eight.gradient(rest.end)).max(), below=1e-8),
        gf.Claim("sharp_norm", "all layers have norm 1.521187", gf.measure.layer_norms(eight, rest.end),
                 expected=1.521187, within=1e-6),
        gf.Claim("sharp_rank", "and rank one: 1 - sigma_1^2/|W|^2", gf.measure.rank_tail(eight, rest.end, 1) ** 2,
                 below=1e-7),
        gf.Claim("sharp_noise", "mean |G_n|^2 of the first layer is 1.25972e-3 there", noise(eight, rest.end),
                 expected=1.25972e-3, rtol=1e-5),
        gf.Claim("sharp_floor", "and its bound 3.40639e-5", floor(eight, rest.end), expected=3.40639e-5, rtol=1e-5),
        gf.Claim("batch_rank", "ReLU: batch gradients have rank B, B and min(B, 5)", bool((ranks == bound).all())),
        gf.Claim("sgd_cannot_rest", "noise over its bound at the stationary point",
                 noise(eight, rest.end) / floor(eight, rest.end), above=1.0),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=3)
def ridge_covariance(steps=400_000, step=0.1, decay=0.05):
    """SGD for ridge regression with batch size one and replacement: mean squared distance to the ridge solution.

    Running mean over the iterates, and the trace of the stationary covariance in closed form (dashed; derived here).
    """
    full = interpolating(0.0)
    problem = gf.Problem(gf.DeepLinear([3, 1]), gf.losses.Square(), full.x[:4, :3], full.y[:4], decay=decay)
    exact = gf.exact.sgd_ridge(problem.x, problem.y, decay, step)
    times = step * np.arange(steps + 1)
    rule = gf.SGD(step, batch_size=1, replacement=True, seed=0)
    run = gf.simulate(problem, exact.mean, rule, t_end=times[-1], save_at=times)
    squared = ((run.theta - exact.mean) ** 2).sum(1)
    running = squared[1:].cumsum() / np.arange(1, steps + 1)
    kept = np.unique(np.geomspace(1, steps, 400).astype(int)) - 1
    fig, ax = gf.plots.subplots()
    ax.semilogx(kept + 1, running[kept], color=gf.plots.colours(rule), label="mean over the iterates")
    gf.plots.reference(ax, np.trace(exact.covariance), label="trace of the covariance")
    ax.set(xlabel="step", ylabel=r"mean of $|w - w_*|^2$")
    return fig, {"step": ("step", kept + 1), "mean_squared_distance": ("step", running[kept])}, [
        gf.Claim("ridge_trace", "the covariance has trace 0.0196517", np.trace(exact.covariance),
                 expected=0.0196517, within=1e-7),
        gf.Claim("ridge_covariance", "the iterates have that mean squared distance", running[-1],
                 expected=np.trace(exact.covariance), rtol=0.04),
        gf.Claim("ridge_mean", "and the mean w*", np.abs(run.theta.mean(0) - exact.mean), below=5e-3),
    ]  # fmt: skip
