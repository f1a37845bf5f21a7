"""T. Le, S. Jegelka: Training Invariances and the Low-Rank Phenomenon: Beyond Linear Networks.

ICLR, 2022, arXiv 2201.11968. On separable data the flow turns the last, linear layers of a network to rank one and
aligns them, whatever relu layers come before, because it conserves W_{l+1}^T W_{l+1} - W_l W_l^T between linear layers;
relu layers conserve only its diagonal and the blocks of neurons that are active together, and stay of higher rank. The
flows go through the kinks. The setting follows the paper's abstract; the bound of the rank is derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
RELU_TAIL = {  # seed -> log of the loss at the end, and |W_l|_2/|W_l|_F there by Runge-Kutta steps over the kinks
    0: (-592, (0.642, 0.742, 0.945, 0.910)),
    1: (-607, (0.724, 0.697, 0.926, 0.935)),
    2: (-720, (0.861, 0.762, 0.924, 0.947)),
    3: (-1308, (0.714, 0.671, 0.960, 0.972)),
}


def separable(rng, x, y, widths, relus):
    """Exponential loss on samples (the columns of x), and a start with variance 2/fan-in (relu) or 1/fan-in."""
    activations = ["relu"] * relus + ["linear"] * (len(widths) - 2 - relus)
    problem = gf.Problem(gf.FullyConnected(widths, activations), gf.losses.Exponential(), x.T, y)
    shapes = zip(widths[1:], widths[:-1], strict=True)
    layers = [rng.standard_normal(s) * np.sqrt((1 + (i < relus)) / s[1]) for i, s in enumerate(shapes)]
    return problem, {f"W{i}": layer for i, layer in enumerate(layers, start=1)}


def down(problem, theta0, decades, rtol=1e-7, first=0.1):
    """Flow to a loss of 10^-decades, saved evenly in log log(1/loss)."""
    saved = gf.at(log10_loss=-np.geomspace(first, decades, 81)[:-1])
    flow, end = gf.GradientFlow(), gf.at(log10_loss=-decades)
    return gf.simulate(problem, theta0, flow, end, clock="log_loss", save_at=saved, rtol=rtol)


def drawn_ratios(ax, run, labels=True, **look):
    """Ratio |W_l|_2/|W_l|_F of every layer against log10(1/loss) of a flow, or against the time of a discrete run."""
    ratios = gf.measure.spectral_ratio(run.problem, run.theta)[1:]
    places = run.t[1:] if run.dynamics.discrete else -run.log10_loss[1:]
    for layer, colour in gf.plots.coloured(range(ratios.shape[1])):
        ax.semilogx(places, ratios[:, layer], color=colour, label=f"$W_{layer + 1}$" if labels else None, **look)
    ax.set(xlabel=r"time $t = k h$" if run.dynamics.discrete else r"$\log_{10}(1/\ell)$", ylim=(0.2, 1.03))
    return ratios


def changes(run):
    """Largest change of every entry of W_{l+1}^T W_{l+1} - W_l W_l^T along a run."""
    return [abs(d - d[0]).max(0) for d in gf.measure.gram_differences(run.problem, run.theta).values()]


def excess_gap(run):
    """Largest excess of |W_l|_F^2 - |W_l|_2^2 over its bound, in the linear layers at the end but the last."""
    gaps, bounds = gf.measure.rank_gap(run.problem, run.theta), gf.measure.rank_gap_bound(run.problem, run.theta[0])
    return (gaps - bounds)[:, :-1].max()


@PAPER.figure(minutes=0.1, claims=8)
def deep_linear(log_loss=-17_500):
    """Deep linear network 4-6-5-1 under the flow of the exponential loss, to a loss of e^-17500.

    Left: ratio |W_l|_2/|W_l|_F of the layers, with its lower bound (dashed). Middle: misalignment of adjacent layers.
    Right: margin of the end-to-end map over its norm, and the largest margin (dashed).
    """
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((4, 20)), np.array([1, -1, 0.5, 0])
    y = np.sign(v @ x)
    problem, layers = separable(rng, x + 0.3 * np.outer(v / np.linalg.norm(v), y), y, [4, 6, 5, 1], 0)
    run = down(problem, problem.flatten(layers), -log_loss / np.log(10), rtol=1e-10)
    places, bound = -run.log10_loss[1:], gf.measure.rank_gap_bound(problem, run.theta[0])
    fig, axes = gf.plots.subplots(1, 3)
    ratios, norms = drawn_ratios(axes[0], run), run.measure(gf.measure.layer_norms)
    for layer, colour in gf.plots.coloured(range(2)):
        least = np.sqrt(np.maximum(1 - bound[layer] / norms[1:, layer] ** 2, 0))
        axes[0].semilogx(places, least, "--", color=colour, linewidth=1.0)
    turned = 1 - run.measure(gf.measure.alignment)[1:]
    axes[1].loglog(places, turned, label=["layers 1, 2", "layers 2, 3"])
    maps, best = (
        run.measure(gf.measure.effective_map)[1:].reshape(places.size, -1),
        gf.exact.diagonal_max_margin(problem.x * problem.y, 1e9),
    )
    margins = gf.measure.margin(problem, run.theta)[1:] / np.linalg.norm(maps, axis=1)
    axes[2].semilogx(places, margins)
    gf.plots.reference(axes[2], 1 / np.linalg.norm(best))
    axes[0].set(ylabel=r"$|W_l|_2 / |W_l|_F$")
    axes[1].set(xlabel=r"$\log_{10}(1/\ell)$", ylabel=r"$1 - |\langle u_l, v_{l+1}\rangle|$")
    axes[2].set(xlabel=r"$\log_{10}(1/\ell)$", ylabel="margin over norm")
    cosine = maps[-1] @ best / np.linalg.norm(maps[-1]) / np.linalg.norm(best)
    data = {"log10_loss": ("loss", -places), "ratio": (("loss", "layer"), ratios), "margin": ("loss", margins)}
    return fig, data, [
        gf.Claim("linear_invariant", "W_{l+1}^T W_{l+1} - W_l W_l^T is constant", run.max_drift, below=1e-5),
        gf.Claim("growth", "while the norm of W_1 grows by this factor", norms[-1, 0] / norms[0, 0], above=10),
        gf.Claim("rank_one_bound", "|W_l|_F^2 - |W_l|_2^2 minus its bound D_l, always", excess_gap(run), below=1e-9),
        gf.Claim("bounds", "D = 6.5652, 3.7617, 0", bound, expected=[6.5652, 3.7617, 0.0], within=1e-4),
        gf.Claim("rank_one", "1 - |W_l|_2/|W_l|_F at the end", 1 - ratios[-1], below=2e-3),
        gf.Claim("ratios", "the ratios of W_1 and W_2 end at 0.99844 and 0.99893", ratios[-1, :2],
                 expected=[0.99844, 0.99893], within=2e-5),
        gf.Claim("max_margin", "the margin tends to the largest one, 0.3989963", margins[-1], expected=0.3989963,
                 within=1e-4),
        gf.Claim("direction", "and the map to its direction: 1 - cosine", 1 - cosine, below=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=8, small={"seeds": (0, 3)})
def relu_tail(seeds=(0, 1, 2, 3)):
    """Two relu layers, then three linear ones (3-8-8-5-5-1): ratio |W_l|_2/|W_l|_F for four data sets.

    The linear layers tend to rank one, the relu layers do not. Right, for the last data set: change of the entries of
    W_{l+1}^T W_{l+1} - W_l W_l^T, relu layers on the diagonal and off it, and linear layers.
    """
    fig, axes = gf.plots.subplots(1, 2)
    linear, diagonal, off, gaps, ends, turned, missed = [], [], [], [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(100 + seed)
        x = rng.standard_normal((2, 16))
        y = np.where(x[1] > 0.8 * abs(x[0]), 1.0, -1.0)
        x[1] += 0.3 * y
        problem, layers = separable(rng, np.vstack([x, np.ones(16)]), y, [3, 8, 8, 5, 5, 1], 2)
        run = down(problem, problem.flatten(layers), -RELU_TAIL[seed][0] / np.log(10), rtol=1e-6)
        ends.append(drawn_ratios(axes[0], run, labels=seed == seeds[0], linewidth=1.1)[-1])
        missed.append(ends[-1][:4] - RELU_TAIL[seed][1])
        change = changes(run)
        linear.append(max(change[2].max(), change[3].max()))
        diagonal.append(max(np.diag(c).max() for c in change[:2]))
        off.append(min(c.max() for c in change[:2]))
        gaps.append(excess_gap(run))
        turned.append(gf.measure.alignment(problem, run.end)[2:])
    matrices = gf.measure.gram_differences(problem, run.theta).values()
    apart = [abs(d - d[0])[1:] for d in matrices]
    for name, curve in {
        "relu, off the diagonal": np.max([a.max((1, 2)) for a in apart[:2]], axis=0),
        "relu, diagonal": np.max([np.diagonal(a, axis1=1, axis2=2).max(1) for a in apart[:2]], axis=0),
        "linear": np.max([a.max((1, 2)) for a in apart[2:]], axis=0),
    }.items():
        axes[1].loglog(-run.log10_loss[1:], np.maximum(curve, 1e-16), label=name)
    axes[0].set(ylabel=r"$|W_l|_2 / |W_l|_F$")
    axes[1].set(xlabel=r"$\log_{10}(1/\ell)$", ylabel="change of entries")
    data = {"seed": ("seed", list(seeds)), "ratio": (("seed", "layer"), ends)}
    return fig, data, [
        gf.Claim("linear_interfaces", "between linear layers the matrix is constant", linear, below=1e-4),
        gf.Claim("relu_diagonal", "at relu layers its diagonal is", diagonal, below=5e-3),
        gf.Claim("relu_contrast", "and other entries change", off, above=0.5),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_F^2 - |W_l|_2^2 minus its bound D_l", gaps, below=1e-5),
        gf.Claim("tail_ratios", "linear layers: the ratio at the end", np.array(ends)[:, 2:], above=0.9),
        gf.Claim("relu_ratios", "relu layers: it stays below", np.array(ends)[:, :2], below=0.87),
        gf.Claim("ratios", "all ratios are those of steps over the kinks", np.abs(missed), below=2e-3),
        gf.Claim("alignment", "the linear layers are aligned: |<u_l, v_{l+1}>|", turned, above=0.995),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def stable_neurons(decades=39.9, steps=(0.02, 0.01, 0.005, 0.0025), t_end=10.0):
    """One relu layer, then linear ones (3-6-5-4-1). Left: change of the entries of W_2^T W_2 - W_1 W_1^T.

    Pairs of the three neurons that are active on all samples keep theirs, other pairs only until their patterns part.
    Right: change of what the flow conserves between linear layers, by descent, against the step.
    """
    rng = np.random.default_rng(1)
    x = rng.uniform(0.5, 1.5, (3, 12))
    y = np.sign(x[0] - x[1])
    x[0] += 0.15 * y
    problem, layers = separable(rng, x, y, [3, 6, 5, 4, 1], 1)
    layers["W1"][:3] = abs(layers["W1"][:3])
    theta0 = problem.flatten(layers)
    run = down(problem, theta0, decades, rtol=1e-8)
    active = (problem.layers(run.theta)["W1"] @ problem.x.T > 0).all((0, 2))
    entries = gf.measure.gram_differences(problem, run.theta)["layer 1"]
    change, pairs = abs(entries - entries[0]), np.triu_indices(6, 1)
    together = np.outer(active, active)[pairs]
    fig, axes = gf.plots.subplots(1, 2)
    for both, colour, name in ((True, "#0072B2", "active together"), (False, "#D55E00", "other pairs")):
        curves = np.maximum(change[1:, pairs[0], pairs[1]][:, together == both], 1e-16)
        axes[0].loglog(-run.log10_loss[1:], curves, color=colour, label=[name] + ["_"] * (curves.shape[1] - 1))
    drift = [max(c.max() for c in changes(gf.simulate(problem, theta0, gf.GD(h), t_end=t_end))[1:]) for h in steps]
    axes[1].loglog(steps, drift, "o-", color=gf.plots.colours(gf.GD(1.0)))
    axes[0].set(xlabel=r"$\log_{10}(1/\ell)$", ylabel="change of entries")
    axes[1].set(xlabel="step $h$", ylabel="drift at linear layers")
    largest = change.max(0)[pairs]
    return fig, {"h": ("h", list(steps)), "drift": ("h", drift), "change": ("pair", largest)}, [
        gf.Claim("active", "three neurons are always active on all samples", active.sum(), expected=3, within=0.5),
        gf.Claim("stable_submatrix", "pairs of them keep their entry", largest[together], below=1e-4),
        gf.Claim("other_pairs", "the largest change of others is 0.39", largest[~together].max(),
                 expected=0.39, within=0.01),
        gf.Claim("gd_drift", "descent breaks what linear layers conserve at first order: halving h halves it",
                 np.array(drift[:-1]) / drift[1:], above=1.5, below=3.5),
    ]  # fmt: skip


@PAPER.figure(minutes=1, claims=6, small={"decades": 100.0, "epochs": 1500})
def digits(decades=300.0, n=60, width=16, step=0.1, batch=10, epochs=10_000, seed=0):
    """Handwritten 3 and 5 (14 x 14 pixels), two relu layers and three linear ones, logistic loss.

    Ratio |W_l|_2/|W_l|_F of every layer along the flow through the kinks (left) and along SGD (right), which ends where
    the flow has hardly begun. Dashed: lower bounds of the linear layers.
    """
    x, y = gf.data.mnist(classes=(3, 5), n=n, pool=2, seed=seed)
    network = gf.FullyConnected([196, width, width, width // 2, width // 2, 1], ["relu", "relu", "linear", "linear"])
    problem = gf.Problem(network, gf.losses.Logistic(), x / np.linalg.norm(x, axis=1, keepdims=True), y)
    theta0 = problem.init(seed=1, scheme="xavier")
    run = down(problem, theta0, decades, rtol=1e-6, first=0.2)
    rule = gf.SGD(step, batch_size=batch, seed=2)
    noisy = gf.simulate(problem, theta0, rule, t_end=step * epochs * n / batch, save_at="log")
    fig, axes = gf.plots.subplots(1, 2, sharey=True)
    ratios, stochastic = drawn_ratios(axes[0], run), drawn_ratios(axes[1], noisy)
    norms, bound = run.measure(gf.measure.layer_norms), gf.measure.rank_gap_bound(problem, theta0)
    least = np.sqrt(np.maximum(1 - bound / norms**2, 0))[1:, 2:4]
    for layer, colour in list(gf.plots.coloured(range(5)))[2:4]:
        axes[0].plot(-run.log10_loss[1:], least[:, layer - 2], "--", color=colour, linewidth=1.0)
    axes[0].set(ylabel=r"$|W_l|_2 / |W_l|_F$")
    data = {"log10_loss": ("loss", run.log10_loss[1:]), "ratio": (("loss", "layer"), ratios)}
    data |= {"t": ("t", noisy.t[1:]), "ratio_sgd": (("t", "layer"), stochastic)}
    return fig, data, [
        gf.Claim("reached", "the flow through the kinks reaches its end", run.status == gf.Status.REACHED_END),
        gf.Claim("conserved", "what linear and relu layers conserve is constant",
                 [run.drift[f"layer {k}"].max() for k in (1, 2, 3, 4)], below=1e-5),
        gf.Claim("rank_one_bound", "linear layers: |W_l|_F^2 - |W_l|_2^2 minus its bound", excess_gap(run), below=1e-5),
        gf.Claim("tail_above_relu", "the linear layers have higher ratios than the relu layers at the end",
                 ratios[-1, 2:].min() - ratios[-1, :2].max(), above=0.05),
        gf.Claim("rises", "and rise", ratios[-1, 2:4] - ratios[0, 2:4], above=0.1),
        gf.Claim("sgd_rises", "those of SGD rise less: its gain over the flow's",
                 (stochastic[-1] - stochastic[0])[2:4] / (ratios[-1] - ratios[0])[2:4], below=0.7),
    ]  # fmt: skip
