"""T. Le, S. Jegelka: Training Invariances and the Low-Rank Phenomenon: Beyond Linear Networks. ICLR, 2022, arXiv
2201.11968. On separable data the flow turns the last, linear layers of a network to rank one and aligns them, because
it conserves W_{l+1}^T W_{l+1} - W_l W_l^T between them; relu layers before them conserve only its diagonal and the
blocks of neurons that are active together. The setting follows the abstract; the bound is derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
EXPONENTIAL, CHANGE, LOSS = gf.losses.Exponential(), "change of entries", r"$\log_{10}(1/F)$"


def down(problem, theta0, decades, rtol):
    """Flow to a loss of 10^-decades; |W_l|_2/|W_l|_F of all layers on it, and its height above the bound but of W_L."""
    saved, end = gf.at(log10_loss=-np.geomspace(0.2, decades, 81)[:-1]), gf.at(log10_loss=-decades)
    run = gf.simulate(problem, theta0, gf.GradientFlow(), end, clock="log_loss", save_at=saved, rtol=rtol)
    ratios = gf.measure.spectral_ratio(problem, run.theta)
    return run, ratios, (ratios - gf.measure.spectral_ratio_bound(problem, run.theta, theta0))[:, :-1]


@PAPER.figure(minutes=0.1, claims=7)
def deep_linear(log_loss=-17_500):
    """Deep linear network 4-6-5-1, exponential loss: rank with its bound (dashed), misalignment, margin."""
    rng, v = np.random.default_rng(0), np.array([1, -1, 0.5, 0]) / 1.5
    x = rng.standard_normal((4, 20)).T
    y = np.sign(x @ v)
    problem = gf.Problem(gf.FullyConnected([4, 6, 5, 1], "linear"), EXPONENTIAL, x + 0.3 * np.outer(y, v), y)
    run, ratios, slack = down(problem, problem.init(seed=rng), -log_loss / np.log(10), rtol=1e-10)
    norms, margins = gf.measure.layer_norms(problem, run.theta), gf.measure.normalised_margin(problem, run.theta, "map")
    w, best = gf.measure.effective_map(problem, run.end)[0], gf.exact.diagonal_max_margin(problem.x * problem.y, 1e9)
    cosine, gaps = w @ best / np.linalg.norm(w) / np.linalg.norm(best), gf.measure.rank_gap_bound(problem, run.theta[0])
    fig, axes = gf.plots.subplots(1, 3, xlabel=LOSS, ylabel="margin over norm", xscale="log")
    gf.plots.spectral_ratio(run, axes[0], over="loss", bounds=True)
    gf.plots.alignment(run, axes[1], over="loss", missing=True)
    gf.plots.lines(axes[2], margins, -run.log10_loss)
    gf.plots.reference(axes[2], 1 / np.linalg.norm(best), "largest margin")
    return fig, [
        gf.Claim("linear_invariant", "W_{l+1}^T W_{l+1} - W_l W_l^T is constant", run.max_drift, below=5e-9),
        gf.Claim("growth", "while the norm of W_1 grows by this factor", norms[-1, 0] / norms[0, 0], above=10),
        gf.Claim("rank_one_bound", "|W_l|_2/|W_l|_F minus its bound (1 - D_l/|W_l|_F^2)^(1/2)", slack, above=-1e-9),
        gf.Claim("bounds", "D_1, D_2, D_3", gaps, expected=[6.5652, 3.7617, 0.0], within=1e-4),
        gf.Claim("ratios", "the ratios of W_1 and W_2 end", ratios[-1, :2], expected=[0.99844, 0.99893], within=1e-5),
        gf.Claim("max_margin", "the margin tends to the largest one", margins[-1], expected=0.3989963, within=5e-5),
        gf.Claim("direction", "and the map to its direction: 1 - cosine", 1 - cosine, below=5e-8)]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=7, small={"seeds": (0, 3)})
def relu_tail(seeds=(0, 1, 2, 3)):
    """Two relu, three linear layers (3-8-8-5-5-1), four data sets; W_{l+1}^T W_{l+1} - W_l W_l^T for the last one."""
    fig, axes = gf.plots.subplots(1, 2, xlabel=LOSS, ylabel=["", CHANGE], xscale="log", yscale=["linear", "log"])
    ends, known = PAPER.independent("relu_log_loss"), PAPER.independent("relu_ratios")

    def measured(seed):
        rng = np.random.default_rng(100 + seed)
        x = rng.standard_normal((2, 16))
        y = np.where(x[1] > 0.8 * abs(x[0]), 1.0, -1.0)
        x = np.column_stack([x[0], x[1] + 0.3 * y, np.ones(16)])
        network = gf.FullyConnected([3, 8, 8, 5, 5, 1], ["relu", "relu", "linear", "linear"])
        problem = gf.Problem(network, EXPONENTIAL, x, y)
        theta0 = problem.init(seed=rng, scheme="he-relu")
        run, ratios, slack = down(problem, theta0, -float(ends.sel(seed=seed)) / np.log(10), rtol=1e-6)
        gf.plots.spectral_ratio(run, axes[0], over="loss")
        entries = gf.measure.gram_differences(problem, run.theta, theta0)
        curves = [abs(entries[f"layer {k}"]).max((1, 2)) for k in (1, 2)] + [run.drift[name] for name in entries]
        return {"decades": -run.log10_loss, "change": curves, "ratio": ratios[-1], "slack": slack.min(),
                "aligned": gf.measure.alignment(problem, run.end)[2:]}  # fmt: skip

    runs = gf.sweep(measured, seed=seeds)
    names = [name for name in ("relu, all entries", "relu, diagonal", "linear") for _ in (1, 2)]
    gf.plots.lines(axes[1], runs.change[-1, :, 1:], runs.decades[-1, 1:], of=names, label="{}")
    above, off = runs.ratio[:, 2:].min() - runs.ratio[:, :2].max(), runs.ratio[:, :4].values - known.sel(seed=[*seeds])
    every, diagonal, linear = runs.change[:, :2].max(runs.change.dims[-1]), runs.change[:, 2:4], runs.change[:, 4:]
    return fig, runs, [
        gf.Claim("linear_interfaces", "between linear layers the matrix is constant", linear, below=5e-6),
        gf.Claim("relu_diagonal", "at relu layers its diagonal is", diagonal, below=3e-5),
        gf.Claim("relu_contrast", "and other entries change", every, above=0.5),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_2/|W_l|_F minus its bound", runs.slack, above=-1e-6),
        gf.Claim("ratios", "all ratios are those of steps over the kinks", abs(off), below=1e-3),
        gf.Claim("tail_above_relu", "linear layers end above relu layers", above, above=0.04),
        gf.Claim("alignment", "and are aligned: |<u_l, v_{l+1}>|", runs.aligned, above=0.995)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def stable_neurons(decades=39.9, steps=(0.02, 0.01, 0.005, 0.0025), t_end=10.0):
    """One relu layer, then linear ones (3-6-5-4-1). Left: change of entries of W_2^T W_2 - W_1 W_1^T; pairs that are
    not always active together keep theirs until their patterns part. Right: drift of what the flow conserves.
    """
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1.5, (3, 12)).T
    y = np.sign(x[:, 0] - x[:, 1])
    network = gf.FullyConnected([3, 6, 5, 4, 1], ["relu", "linear", "linear"])
    problem = gf.Problem(network, EXPONENTIAL, x + 0.15 * np.outer(y, [1, 0, 0]), y)
    theta0 = problem.init(seed=rng, scheme="he-relu")
    theta0[:9] = abs(theta0[:9])  # three neurons that are active on all samples
    run, _, _ = down(problem, theta0, decades, rtol=1e-8)
    active = (problem.layers(run.theta)["W1"] @ problem.x.T > 0).all((0, 2))
    pairs, entries = np.triu_indices(6, 1), gf.measure.gram_differences(problem, run.theta, theta0)["layer 1"]
    moved, together = abs(entries)[:, pairs[0], pairs[1]], np.outer(active, active)[pairs]
    drift = [gf.simulate(problem, theta0, gf.GD(h), t_end=t_end).max_drift for h in steps]
    labels = {"xlabel": [LOSS, "step $h$"], "ylabel": [CHANGE, "drift by descent"]}
    fig, axes = gf.plots.subplots(1, 2, xscale="log", yscale="log", **labels)
    names = ["active together" if both else "other pairs" for both in together]
    gf.plots.lines(axes[0], np.maximum(moved[1:].T, 1e-16), -run.log10_loss[1:], of=names, label="{}")
    gf.plots.lines(axes[1], drift, steps, color=gf.plots.colours(gf.GD(1.0)), marker="o")
    return fig, [
        gf.Claim("active", "three neurons are always active on all samples", active.sum(), expected=3, within=0.5),
        gf.Claim("stable_submatrix", "pairs of them keep their entry", moved[:, together], below=1e-8),
        gf.Claim("other_pairs", "others change by 0.39", moved[:, ~together].max(), expected=0.39, within=0.01),
        gf.Claim.halves("gd_drift", "the drift by descent halves with the step", drift, within=0.1)]  # fmt: skip


@PAPER.figure(minutes=1, claims=6)
def digits(decades=300.0, n=60, width=16, step=0.1, batch=10, epochs=10_000, seed=0):
    """Handwritten 3 and 5 (14 x 14), two relu, three linear layers, logistic loss: flow (left; dashed: bounds), SGD."""
    x, y = gf.data.mnist(classes=(3, 5), n=n, pool=2, seed=seed)
    network = gf.FullyConnected([196, width, width, width // 2, width // 2, 1], ["relu", "relu", "linear", "linear"])
    problem = gf.Problem(network, gf.losses.Logistic(), gf.data.unit_rows(x), y)
    theta0, rule = problem.init(seed=1, scheme="xavier"), gf.SGD(step, batch_size=batch, seed=2)
    run, ratios, slack = down(problem, theta0, decades, rtol=1e-6)
    noisy = gf.simulate(problem, theta0, rule, t_end=step * epochs * n / batch, save_at="log")
    fig, axes = gf.plots.subplots(1, 2, sharey=True)
    gf.plots.spectral_ratio(run, axes[0], over="loss", bounds=True)
    gf.plots.spectral_ratio(noisy, axes[1])
    rise, lowest = (ratios[-1] - ratios[1])[2:4], ratios[-1, 2:].min()
    noisy_rise = np.diff(gf.measure.spectral_ratio(problem, noisy.theta[[0, -1]]), axis=0)[0, 2:4]
    return fig, [
        gf.Claim("reached", "the flow through the kinks reaches its end", run.status == gf.Status.REACHED_END),
        gf.Claim("conserved", "what linear and relu layers conserve is constant", run.max_drift, below=5e-6),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_2/|W_l|_F minus its bound", slack, above=-1e-6),
        gf.Claim("tail_above_relu", "linear layers end above relu layers", lowest - ratios[-1, :2], above=0.05),
        gf.Claim("rises", "and rise", rise, above=0.2),
        gf.Claim("sgd_rises", "those of SGD rise less: over the flow's", noisy_rise / rise, below=0.7)]  # fmt: skip
