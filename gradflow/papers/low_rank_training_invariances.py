"""T. Le, S. Jegelka: Training Invariances and the Low-Rank Phenomenon: Beyond Linear Networks.

ICLR, 2022, arXiv 2201.11968. On separable data the flow turns the last, linear layers of a network to rank one and
aligns them, whatever relu layers come before, because it conserves W_{l+1}^T W_{l+1} - W_l W_l^T between linear layers;
relu layers conserve only its diagonal and the blocks of neurons that are active together, and stay of higher rank. The
flows go through the kinks. The setting follows the paper's abstract; the bound of the rank is derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
DECADES, RATIO, CHANGE = r"$\log_{10}(1/\ell)$", r"$|W_l|_2 / |W_l|_F$", "change of entries"
RELU_TAIL = {  # seed -> log of the loss at the end, and |W_l|_2/|W_l|_F there by Runge-Kutta steps over the kinks
    0: (-592, (0.642, 0.742, 0.945, 0.910)), 1: (-607, (0.724, 0.697, 0.926, 0.935)),
    2: (-720, (0.861, 0.762, 0.924, 0.947)), 3: (-1308, (0.714, 0.671, 0.960, 0.972)),
}  # fmt: skip


def separable(rng, x, y, widths, relus):
    """Exponential loss on samples (the columns of x), and a start with variance 2/fan-in (relu) or 1/fan-in."""
    activations = ["relu"] * relus + ["linear"] * (len(widths) - 2 - relus)
    problem = gf.Problem(gf.FullyConnected(widths, activations), gf.losses.Exponential(), x.T, y)
    draws = [rng.standard_normal((m, n)) / np.sqrt(n) for n, m in zip(widths, widths[1:], strict=False)]
    return problem, np.concatenate([np.sqrt(1 + (i < relus)) * w.ravel() for i, w in enumerate(draws)])


def down(problem, theta0, decades, rtol, first=0.1):
    """Flow to a loss of 10^-decades, saved evenly in log log(1/loss); the places and |W_l|_2/|W_l|_F of all layers."""
    options = {"clock": "log_loss", "save_at": gf.at(log10_loss=-np.geomspace(first, decades, 81)[:-1]), "rtol": rtol}
    run = gf.simulate(problem, theta0, gf.GradientFlow(), gf.at(log10_loss=-decades), **options)
    return run, -run.log10_loss, gf.measure.spectral_ratio(problem, run.theta)


def changes(run):
    """Change of every entry of W_{l+1}^T W_{l+1} - W_l W_l^T along a run."""
    return [abs(d - d[0]) for d in gf.measure.gram_differences(run.problem, run.theta).values()]


def excess_gap(run):
    """Largest excess of |W_l|_F^2 - |W_l|_2^2 over its bound, in the linear layers but the last."""
    gaps, bounds = gf.measure.rank_gap(run.problem, run.theta), gf.measure.rank_gap_bound(run.problem, run.theta[0])
    return (gaps - bounds)[:, :-1].max()


@PAPER.figure(minutes=0.1, claims=8)
def deep_linear(log_loss=-17_500):
    """Deep linear network 4-6-5-1 under the flow of the exponential loss, to a loss of e^-17500: ratio |W_l|_2/|W_l|_F
    of the layers, with its lower bound (dashed), misalignment of adjacent layers, and margin of the end-to-end map over
    its norm, with the largest margin (dashed).
    """
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((4, 20)), np.array([1, -1, 0.5, 0])
    y = np.sign(v @ x)
    problem, theta0 = separable(rng, x + 0.3 * np.outer(v / np.linalg.norm(v), y), y, [4, 6, 5, 1], 0)
    run, decades, ratios = down(problem, theta0, -log_loss / np.log(10), rtol=1e-10)
    norms, maps = gf.measure.layer_norms(problem, run.theta), gf.measure.effective_map(problem, run.theta)[:, 0]
    best, bounds = gf.exact.diagonal_max_margin(problem.x * problem.y, 1e9), gf.measure.rank_gap_bound(problem, theta0)
    margins = gf.measure.margin(problem, run.theta) / np.linalg.norm(maps, axis=1)
    cosine = maps[-1] @ best / np.linalg.norm(maps[-1]) / np.linalg.norm(best)
    fig, axes = gf.plots.subplots(
        1, 3, xlabel=DECADES, ylabel=[RATIO, r"$1 - |\langle u_l, v_{l+1}\rangle|$", "margin over norm"],
        xscale="log", yscale=["linear", "log", "linear"], ylim=[(0.2, 1.03), None, None])  # fmt: skip
    least = gf.measure.spectral_ratio_bound(problem, run.theta, theta0)
    gf.plots.lines(axes[0], ratios.T, decades, label="$W_{}$")
    gf.plots.lines(axes[0], least.T, decades, linestyle="--", linewidth=1.0)
    turned = 1 - gf.measure.alignment(problem, run.theta)
    gf.plots.lines(axes[1], turned.T, decades, label=["layers 1, 2", "layers 2, 3"])
    gf.plots.lines(axes[2], margins, decades)
    gf.plots.reference(axes[2], 1 / np.linalg.norm(best))
    return fig, gf.plots.drawn(fig), [
        gf.Claim("linear_invariant", "W_{l+1}^T W_{l+1} - W_l W_l^T is constant", run.max_drift, below=1e-5),
        gf.Claim("growth", "while the norm of W_1 grows by this factor", norms[-1, 0] / norms[0, 0], above=10),
        gf.Claim("rank_one_bound", "|W_l|_F^2 - |W_l|_2^2 minus its bound D_l, always", excess_gap(run), below=1e-9),
        gf.Claim("bounds", "D_1, D_2 and D_3", bounds, expected=[6.5652, 3.7617, 0.0], within=1e-4),
        gf.Claim("rank_one", "1 - |W_l|_2/|W_l|_F at the end", 1 - ratios[-1], below=2e-3),
        gf.Claim("ratios", "the ratios of W_1 and W_2 end", ratios[-1, :2], expected=[0.99844, 0.99893], within=2e-5),
        gf.Claim("max_margin", "the margin tends to the largest one", margins[-1], expected=0.3989963, within=1e-4),
        gf.Claim("direction", "and the map to its direction: 1 - cosine", 1 - cosine, below=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=8, small={"seeds": (0, 3)})
def relu_tail(seeds=(0, 1, 2, 3)):
    """Two relu layers, then three linear ones (3-8-8-5-5-1), four data sets: the linear layers tend to rank one, the
    relu layers do not. Right, for the last data set: change of the entries of W_{l+1}^T W_{l+1} - W_l W_l^T, relu
    layers on the diagonal and off it, and linear layers.
    """

    def measured(seed):
        rng = np.random.default_rng(100 + seed)
        x = rng.standard_normal((2, 16))
        y = np.where(x[1] > 0.8 * abs(x[0]), 1.0, -1.0)
        problem, theta0 = separable(rng, np.vstack([x[0], x[1] + 0.3 * y, np.ones(16)]), y, [3, 8, 8, 5, 5, 1], 2)
        run, decades, ratios = down(problem, theta0, -RELU_TAIL[seed][0] / np.log(10), rtol=1e-6)
        apart, aligned = changes(run), gf.measure.alignment(problem, run.end)[2:]
        all_, linear = [a.max((1, 2)) for a in apart[:2]], [a.max((1, 2)) for a in apart[2:]]
        diagonal = [np.diagonal(a, axis1=1, axis2=2).max(1) for a in apart[:2]]
        curves = {"decades": decades, "relu": all_, "relu_diagonal": diagonal, "linear": linear}
        return curves | {"ratio": ratios.T, "gap": excess_gap(run), "aligned": aligned}

    runs = gf.sweep(measured, seed=seeds)
    ends, beside = runs.ratio[..., -1], np.array([RELU_TAIL[seed][1] for seed in seeds])
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=DECADES, ylabel=[RATIO, CHANGE], xscale="log", yscale=["linear", "log"],
        ylim=[(0.2, 1.03), None])  # fmt: skip
    for decades, ratios in zip(runs.decades, runs.ratio, strict=True):
        gf.plots.lines(axes[0], ratios.values, decades, label="$W_{}$", linewidth=1.1)
    curves = [row[-1].max(row.dims[1]) for row in (runs.relu, runs.relu_diagonal, runs.linear)]
    names = ["relu, off the diagonal", "relu, diagonal", "linear"]
    gf.plots.lines(axes[1], np.maximum(curves, 1e-16)[:, 1:], runs.decades[-1, 1:], label=names)
    return fig, runs, [
        gf.Claim("linear_interfaces", "between linear layers the matrix is constant", runs.linear, below=1e-4),
        gf.Claim("relu_diagonal", "at relu layers its diagonal is", runs.relu_diagonal, below=5e-3),
        gf.Claim("relu_contrast", "and other entries change", runs.relu.max(runs.relu.dims[-1]), above=0.5),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_F^2 - |W_l|_2^2 minus its bound D_l", runs.gap, below=1e-5),
        gf.Claim("tail_ratios", "linear layers: the ratio at the end", ends[:, 2:], above=0.9),
        gf.Claim("relu_ratios", "relu layers: it stays below", ends[:, :2], below=0.87),
        gf.Claim("ratios", "all ratios are those of steps over the kinks", abs(ends[:, :4] - beside), below=2e-3),
        gf.Claim("alignment", "the linear layers are aligned: |<u_l, v_{l+1}>|", runs.aligned, above=0.995),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def stable_neurons(decades=39.9, steps=(0.02, 0.01, 0.005, 0.0025), t_end=10.0):
    """One relu layer, then linear ones (3-6-5-4-1). Left: change of the entries of W_2^T W_2 - W_1 W_1^T. Pairs of the
    three neurons that are active on all samples keep theirs, other pairs only until their patterns part. Right: change
    of what the flow conserves between linear layers, by descent, against the step.
    """
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1.5, (3, 12))
    y = np.sign(x[0] - x[1])
    problem, theta0 = separable(rng, x + 0.15 * np.outer([1, 0, 0], y), y, [3, 6, 5, 4, 1], 1)
    theta0[:9] = abs(theta0[:9])  # three neurons that are active on all samples
    run, places, _ = down(problem, theta0, decades, rtol=1e-8)
    active = (problem.layers(run.theta)["W1"] @ problem.x.T > 0).all((0, 2))
    pairs = np.triu_indices(6, 1)
    change, together = changes(run)[0][:, pairs[0], pairs[1]], np.outer(active, active)[pairs]
    drift = [max(c.max() for c in changes(gf.simulate(problem, theta0, gf.GD(h), t_end=t_end))[1:]) for h in steps]
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=[DECADES, "step $h$"], ylabel=[CHANGE, "drift at linear layers"], xscale="log", yscale="log"
    )
    names = ["active together" if both else "other pairs" for both in together]
    gf.plots.lines(axes[0], np.maximum(change[1:].T, 1e-16), places[1:], of=names, label="{}")
    gf.plots.lines(axes[1], drift, steps, dynamics=gf.GD(1.0), marker="o")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("active", "three neurons are always active on all samples", active.sum(), expected=3, within=0.5),
        gf.Claim("stable_submatrix", "pairs of them keep their entry", change[:, together], below=1e-4),
        gf.Claim("other_pairs", "others change by 0.39", change[:, ~together].max(), expected=0.39, within=0.01),
        gf.Claim("gd_drift", "drift by descent: h over h/2", np.array(drift[:-1]) / drift[1:], above=1.5, below=3.5),
    ]  # fmt: skip


@PAPER.figure(minutes=1, claims=6, small={"decades": 100.0, "epochs": 1500})
def digits(decades=300.0, n=60, width=16, step=0.1, batch=10, epochs=10_000, seed=0):
    """Handwritten 3 and 5 (14 x 14 pixels), two relu layers and three linear ones, logistic loss: ratio |W_l|_2/|W_l|_F
    of every layer along the flow through the kinks (left; dashed: lower bounds of the linear layers) and along SGD
    (right), which ends where the flow has hardly begun.
    """
    x, y = gf.data.mnist(classes=(3, 5), n=n, pool=2, seed=seed)
    network = gf.FullyConnected([196, width, width, width // 2, width // 2, 1], ["relu", "relu", "linear", "linear"])
    problem = gf.Problem(network, gf.losses.Logistic(), gf.data.unit_rows(x), y)
    theta0, rule = problem.init(seed=1, scheme="xavier"), gf.SGD(step, batch_size=batch, seed=2)
    run, places, ratios = down(problem, theta0, decades, rtol=1e-6, first=0.2)
    noisy = gf.simulate(problem, theta0, rule, t_end=step * epochs * n / batch, save_at="log")
    stochastic = gf.measure.spectral_ratio(problem, noisy.theta)
    least = gf.measure.spectral_ratio_bound(problem, run.theta, theta0)
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=[DECADES, r"time $t = k h$"], ylabel=[RATIO, ""], xscale="log", ylim=(0.2, 1.03), sharey=True
    )
    gf.plots.lines(axes[0], ratios.T, places, label="$W_{}$")
    gf.plots.lines(axes[1], stochastic.T, noisy.t, label="$W_{}$")
    gf.plots.lines(axes[0], least.T, places, linestyle="--", linewidth=1.0)
    drift, lowest = [run.drift[f"layer {k}"] for k in (1, 2, 3, 4)], ratios[-1, 2:].min()
    rise, noisy_rise = ratios[-1] - ratios[1], stochastic[-1] - stochastic[1]
    return fig, gf.plots.drawn(fig), [
        gf.Claim("reached", "the flow through the kinks reaches its end", run.status == gf.Status.REACHED_END),
        gf.Claim("conserved", "what linear and relu layers conserve is constant", drift, below=1e-5),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_F^2 - |W_l|_2^2 minus its bound", excess_gap(run), below=1e-5),
        gf.Claim("tail_above_relu", "linear layers end above relu layers", lowest - ratios[-1, :2], above=0.05),
        gf.Claim("rises", "and rise", rise[2:4], above=0.1),
        gf.Claim("sgd_rises", "those of SGD rise less: over the flow's", noisy_rise[2:4] / rise[2:4], below=0.7),
    ]  # fmt: skip
