"""T. Galanti, Z. Siegel, A. Gupte, T. Poggio: SGD and Weight Decay Secretly Minimize the Rank of Your Neural Network.
2025, arXiv 2206.05794. Weight decay forgets the past at the rate 1 - 2 step decay, and a step of batch size B adds rank
at most B: hence weights are close to rank B log(2/eps)/(2 step decay). Smaller batches, larger steps and stronger decay
give lower rank, without decay the rank stays full. The tail and null-space identities are derived here.
"""

from functools import partial

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
RATES, DECAYS = (0.02, 0.05, 0.1, 0.2), (0.0, 5e-4, 1e-3, 2e-3, 4e-3)
rank = partial(gf.measure.numerical_rank, relative_to="norm")
FEW = {"rates": (0.02, 0.2), "decays": (0.0, 4e-3)}  # what is varied at small size


def random_labels(n, widths, decay):
    """ReLU network on random labels."""
    x, y = gf.data.random_labels(n, widths[0], widths[-1])
    return gf.Problem(gf.FullyConnected(widths), gf.losses.Square(), x, y, decay=decay)


def trained(problem, step, batch, steps, epochs=0, seed=2, save_at=2):
    """Run of SGD from a He start, for a number of steps or of epochs."""
    theta0, rule = problem.init(seed=1, scheme="he"), gf.SGD(step, batch_size=batch, seed=seed)
    return gf.simulate(problem, theta0, rule, step * (epochs * problem.n // batch or steps), save_at=save_at)


def one_by_one(problem, varied, measures, **settings):
    """Figure and sweeps of SGD, a panel each for what is varied: mean rank of the two hidden layers."""
    measures |= {"hidden": lambda *at: [rank(*at, tolerance=tolerance)[:2].mean() for tolerance in (1e-3, 1e-2)]}
    (fig, axes), found = gf.plots.subplots(2, 2, ylabel="mean rank", ylim=(28, 66)), []
    for ax, (label, change) in zip(axes.flat, varied.items(), strict=False):
        runs = gf.sweep(lambda decay, **how: trained(problem(decay), **how), measures, **settings | change)
        found.append(runs)
        ax.set(xlabel=label, xscale="linear" if "decay" in label else "log")
        gf.plots.lines(ax, runs.hidden.T, label=[r"above $10^{-3}\,|W|_F$", r"above $10^{-2}\,|W|_F$"], marker="o")
    return fig, axes, found


@PAPER.figure(minutes=0.5, claims=4, small=FEW | {"batches": (1, 64), "batches_at_steps": (1,)})
def trends(batches=(1, 2, 4, 8, 16, 64, 256), batches_at_steps=(1, 2, 4, 8, 16, 64), rates=RATES, decays=DECAYS):
    """Mean rank of the hidden layers of a ReLU network on random labels, against batch size, step and decay; elsewhere
    batch size 8, step 0.1, decay 0.002. At equal epochs small batches take more steps, most of their effect.
    """
    fig, _, (by_epochs, _, by_step, by_decay) = one_by_one(
        lambda decay: random_labels(256, [64, 64, 64, 10], decay),
        {"batch size, 100 epochs": {"batch": batches, "epochs": 100},
         "batch size, 20,000 steps": {"batch": batches_at_steps}, "step size, 20,000 steps": {"step": rates},
         "decay, 20,000 steps": {"decay": decays}}, {"accuracy": gf.measure.accuracy, "norms": gf.measure.layer_norms},
        batch=8, step=0.1, decay=2e-3, steps=20_000)  # fmt: skip
    rate, decay, batch = (runs.hidden[:, 1] for runs in (by_step, by_decay, by_epochs))
    ends = [*decay[[0, -1]], *rate[[0, -1]], *batch.sel(batch=[64, 1])]
    return fig, [
        gf.Claim("trends", "rank above 0.01 |W| for lambda = 0 and 0.004, step 0.02 and 0.2, batch size 64 and 1 at 100"
                 " epochs", ends, expected=[60.5, 36.5, 59.5, 36, 60.5, 36.5], within=1),
        gf.Claim("monotone", "it falls with decay and step, within 1", [*np.diff(decay), *np.diff(rate)], below=1),
        gf.Claim("fitted", "accuracy after 20,000 steps", [*by_step.accuracy, *by_decay.accuracy], above=0.99),
        gf.Claim("no_collapse", "norms", [*by_step.norms, *by_decay.norms, *by_epochs.norms], above=0.5)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6)
def theorem(shown=(10, 20, 40, 80, 160, 400), ks=(1, 5, 20, 40)):
    """Two classes, batch size 1, step 0.5: rank of the first layer, and the bound log(2/eps)/(2 step decay) = 53 of the
    theorem for eps = 0.01. Right: part of W_T beyond rank B k, and its bound (1 - 2 step decay)^k |W_{T-k}|/|W_T|.
    """
    rng, y = np.random.default_rng(0), np.arange(64)[:, None] % 2 * 2.0 - 1
    x = gf.data.unit_rows(gf.data.unit_inputs(64, 128, rng) + y * gf.data.unit_inputs(1, 128, rng))
    clouds, free = (gf.Problem(gf.FullyConnected([128, 128, 1]), gf.losses.Square(), x, y, decay=d) for d in (0.1, 0))
    run, bare = (trained(problem, 0.5, 1, 400, seed=3, save_at=401) for problem in (clouds, free))
    both = [run, trained(random_labels(40, [64, 48, 48, 5], 0.05), 0.1, 1, 500, save_at=501)]
    ranks = np.array([rank(r.problem, r.theta[list(shown)], tolerance=1e-3)[:, 0] for r in (run, bare)])
    found = [gf.sweep(gf.measure.forgetting, trajectory=r, steps=ks) for r in both]
    labels = {"xlabel": ["step", "k"], "ylabel": ["rank of $W_1$", "part of $W_1$ beyond rank $B k$"]}
    fig, axes = gf.plots.subplots(1, 2, xscale=["log", "linear"], yscale=["linear", "log"], **labels)
    gf.plots.lines(axes[0], ranks, shown, (0.1, 0), label=r"$\lambda = {:g}$", marker="o")
    gf.plots.reference(axes[0], 53, label="bound")
    gf.plots.lines(axes[1], [at["tail"][:, 0] for at in found], ks, label=["classes", "random labels"], marker="o")
    gf.plots.lines(axes[1], [at.bound[:, 0] for at in found], ks, label="bound", linestyle="--")
    norms = [norm for r in both for norm in gf.measure.layer_norms(r.problem, r.end)]
    beyond, shares = found[1]["rank"] - found[1].steps, [(at["tail"] / at.bound).max() for at in found]
    return fig, [
        gf.Claim("update_rank", "W_T - (1 - 2 h lambda)^k W_{T-k} has rank at most B k", beyond, below=0),
        gf.Claim("update_rank_exact", "and no less in the hidden layers for k = 1, 5, 20", beyond[:3, :2], above=0),
        gf.Claim("tail_bound", "part beyond rank B k over (1 - 2 h lambda)^k |W_{T-k}|/|W_T|", shares, below=1),
        gf.Claim("theorem_tail", "W_1 beyond rank 53", gf.measure.rank_tail(clouds, run.end, 53)[0], below=1e-15),
        gf.Claim("theorem_rank", "its rank at step 10, at the end, and there without decay",
                 [ranks[0, 0], *ranks[:, -1]], expected=[127, 2, 127], within=1),
        gf.Claim("no_collapse", "the norms of the layers", norms, above=0.5)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=3)
def null_space(steps=200, runs=((2, 0.0), (2, 0.01), (2, 0.05), (40, 0.05))):
    """Part of W_1 that no input sees under SGD, and (1 - 2 step decay)^t (lines); the flow's is exp(-2 decay t)."""

    def measured(run):
        problem = random_labels(40, [64, 48, 48, 5], run[1])
        return gf.measure.unseen_decay(trained(problem, 0.1, run[0], steps, save_at=steps + 1))

    found, names = gf.sweep(measured, run=runs), [rf"B = {batch}, $\lambda = {decay:g}$" for batch, decay in runs]
    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"$|W_1 P| / |W_1(0) P|$", yscale="log")
    gf.plots.lines(ax, found.law, linewidth=0.8)
    places = [(3 * place, 12) for place in range(len(runs))]
    gf.plots.lines(ax, found["size"], label=names, linestyle="", marker="o", markevery=places)
    x, y = gf.data.random_labels(40, 64, 5)
    linear = gf.Problem(gf.DeepLinear([64, 8, 5]), gf.losses.Square(), x[:6], y[:6], decay=0.05)
    flow = gf.simulate(linear, linear.init(seed=1), gf.GradientFlow(), t_end=30.0, rtol=1e-10)
    return fig, found, [
        gf.Claim("null_space_decay", "|W_1(T) P| = (1 - 2 h lambda)^T |W_1(0) P|", found["size"][:, -1],
                 expected=[(1 - 0.2 * decay) ** steps for _, decay in runs], rtol=1e-13),
        gf.Claim("null_space_direction", "and so in every entry, relative", found.error, below=1e-14),
        gf.Claim("null_space_flow", "flow: exp(-2 lambda t) |W_1(0) P|", gf.measure.unseen_decay(flow).size[-1],
                 expected=np.exp(-3), rtol=1e-12)]  # fmt: skip


@PAPER.figure(minutes=0.4, claims=2, small=FEW | {"batches": (4, 64)})
def digits(batches=(4, 16, 64), rates=RATES, decays=DECAYS, seed=0):
    """Digits (1000 of 14 x 14 pixels, ReLU 196-64-64-10, cross-entropy); elsewhere batch 16, step 0.1, decay 0.002."""
    x, y = gf.data.mnist(n=2000, pool=2, seed=seed)
    network, loss = gf.FullyConnected([196, 64, 64, 10]), gf.losses.CrossEntropy()
    fig, axes, (by_batch, by_step, by_decay) = one_by_one(
        lambda decay: gf.Problem(network, loss, x[:1000], y[:1000], decay=decay),
        {"batch size, 60 epochs": {"batch": batches, "epochs": 60}, "step size, 12,000 steps": {"step": rates},
         "decay, 12,000 steps": {"decay": decays}},
        {"held_out": lambda problem, theta: gf.measure.accuracy(problem.with_data(x[1000:], y[1000:]), theta)},
        batch=16, step=0.1, decay=2e-3, steps=12_000)  # fmt: skip
    gf.plots.lines(axes[1, 1], by_decay.held_out, color="k", marker="o")
    axes[1, 1].set(xlabel="decay, 12,000 steps", ylabel="accuracy on other digits", ylim=(0.8, 1))
    batch, step, decay = (runs.hidden[[0, -1], 1].values for runs in (by_batch, by_step, by_decay))
    return fig, [
        gf.Claim("ranks", "rank above 0.01 |W|: largest batch minus smallest, smallest step and decay minus largest",
                 -np.diff([batch[::-1], step, decay]), above=24),
        gf.Claim("accuracy", "spread on other digits", np.ptp(by_decay.held_out.values), below=0.03)]  # fmt: skip
