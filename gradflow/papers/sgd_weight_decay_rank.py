"""T. Galanti, Z. Siegel, A. Gupte, T. Poggio: SGD and Weight Decay Secretly Minimize the Rank of Your Neural Network.

2025, arXiv 2206.05794. Weight decay forgets the past at the rate 1 - 2 step decay, and a step of batch size B adds
rank at most B: hence weights are close to rank B log(2/eps)/(2 step decay). Smaller batches, larger steps and stronger
decay give lower rank, without decay the rank stays full. The tail and null-space identities are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)


def random_labels(n, widths, decay, activation="relu"):
    """Network on random inputs with random classes and one-hot targets."""
    rng = np.random.default_rng(0)
    x = gf.data.unit_inputs(n, widths[0], rng)
    y = np.eye(widths[-1])[rng.integers(0, widths[-1], n)]
    return gf.Problem(gf.FullyConnected(widths, activation), gf.losses.Square(), x, y, decay=decay)


def ranks(problem, theta, tolerance):
    """Numbers of singular values of the layers above the tolerance times the Frobenius norm."""
    return gf.measure.numerical_rank(problem, theta, tolerance=tolerance, relative_to="norm")


def trained(problem, step, batch, steps, start_seed=1, batch_seed=2, save_at=2):
    """Run of SGD from a He start."""
    rule = gf.SGD(step, batch_size=batch, seed=batch_seed)
    return gf.simulate(problem, problem.init(seed=start_seed, scheme="he"), rule, t_end=step * steps, save_at=save_at)


def sweep(make_problem, settings, steps, epochs=None):
    """Ranks at two tolerances, accuracy and least layer norm for settings (batch, step, decay)."""
    rows = []
    for batch, step, decay in settings:
        problem = make_problem(decay)
        count = steps if epochs is None else epochs * -(-problem.n // batch)
        end = trained(problem, step, batch, count).end
        norms = gf.measure.layer_norms(problem, end).min()
        hidden = [ranks(problem, end, tolerance)[:2].mean() for tolerance in (1e-3, 1e-2)]
        rows.append((*hidden, gf.measure.accuracy(problem, end), norms))
    return np.array(rows).T


def draw_sweep(ax, values, table, label, log=True):
    """Ranks at both tolerances against a setting."""
    places = values if log else range(len(values))
    for row, marker, tolerance in zip(table, ("o-", "s--"), ("10^{-3}", "10^{-2}"), strict=False):
        ax.plot(places, row, marker, label=rf"above ${tolerance}\,|W|_F$")
    if log:
        ax.set_xscale("log")
    else:
        ax.set_xticks(places, [f"{value:g}" for value in values])
    ax.set(xlabel=label, ylabel="mean rank of hidden layers")


@PAPER.figure(
    minutes=3, claims=8, small={"batches": (1, 64), "batches_at_steps": (), "rates": (0.02, 0.2), "decays": (0.0, 4e-3)}
)
def trends(
    batches=(1, 2, 4, 8, 16, 64, 256),
    batches_at_steps=(1, 2, 4, 8, 16, 64),
    rates=(0.02, 0.05, 0.1, 0.2),
    decays=(0.0, 5e-4, 1e-3, 2e-3, 4e-3),
    steps=20_000,
):
    """Mean rank of the hidden layers of a ReLU network on random labels, at two tolerances.

    Against the batch size after 100 epochs and after 20,000 steps, the step and the decay (20,000 steps); elsewhere
    batch size 8, step 0.1, decay 0.002. At equal epochs small batches take more steps, which is most of their effect.
    """

    def problem(decay):
        return random_labels(256, [64, 64, 64, 10], decay)

    by_epochs = sweep(problem, [(b, 0.1, 2e-3) for b in batches], steps, epochs=100)
    by_rate = sweep(problem, [(8, h, 2e-3) for h in rates], steps)
    by_decay = sweep(problem, [(8, 0.1, decay) for decay in decays], steps)
    fig, axes = gf.plots.subplots(2, 2)
    draw_sweep(axes[0, 0], batches, by_epochs, "batch size, after 100 epochs")
    if batches_at_steps:
        by_steps = sweep(problem, [(b, 0.1, 2e-3) for b in batches_at_steps], steps)
        draw_sweep(axes[0, 1], batches_at_steps, by_steps, f"batch size, after {steps} steps")
    draw_sweep(axes[1, 0], rates, by_rate, "step")
    draw_sweep(axes[1, 1], decays, by_decay, "decay", log=False)
    for ax in axes.flat:
        ax.set_ylim(30, 66)
    data = {"batch": ("batch", list(batches)), "step": ("step", list(rates)), "decay": ("decay", list(decays))}
    for name, table in (("batch", by_epochs), ("step", by_rate), ("decay", by_decay)):
        data[f"rank_by_{name}"] = (("tolerance", name), table[:2])
    coarse_rate, coarse_decay = by_rate[1], by_decay[1]
    large = batches.index(64)
    return fig, data, [
        gf.Claim("decay_lowers_rank", "rank at lambda = 0 minus rank at 0.004 (singular values above 0.01 |W|)",
                 coarse_decay[0] - coarse_decay[-1], above=15),
        gf.Claim("step_lowers_rank", "rank at step 0.02 minus rank at 0.2", coarse_rate[0] - coarse_rate[-1], above=15),
        gf.Claim("monotone_decay", "the rank falls with the decay, within 1", np.diff(coarse_decay), below=1),
        gf.Claim("monotone_step", "and with the step, within 1", np.diff(coarse_rate), below=1),
        gf.Claim("batch_at_epochs", "at 100 epochs: rank at B = 64 minus rank at B = 1",
                 by_epochs[1, large] - by_epochs[1, 0], above=15),
        gf.Claim("measured_decay", "ranks without decay and at 0.004 are 60.5 and 36.5", coarse_decay[[0, -1]],
                 expected=[60.5, 36.5], within=2.0),
        gf.Claim("fitted", "accuracy after 20,000 steps", [*by_rate[2], *by_decay[2]], above=0.99),
        gf.Claim("no_collapse", "norms of all layers", [*by_epochs[3], *by_rate[3], *by_decay[3]], above=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=8)
def theorem(eps=1e-2):
    """Two classes, batch size 1, step 0.5, decay 0.1. Left: rank of the first layer with and without decay.

    Dashed: the bound log(2/eps)/(2 step decay) = 53 of the theorem. Right: part of W_T beyond rank B k, full, and its
    bound (1 - 2 step decay)^k |W_{T-k}|/|W_T|, dashed, for this run and one on random labels.
    """
    rng = np.random.default_rng(0)
    x, y = gf.data.unit_inputs(64, 128, rng), np.arange(64) % 2 * 2.0 - 1
    shift = rng.standard_normal(128)
    x = x + y[:, None] * shift / np.linalg.norm(shift)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    clouds = gf.Problem(gf.FullyConnected([128, 128, 1]), gf.losses.Square(), x, y, decay=0.1)
    free = gf.Problem(clouds.network, clouds.loss, x, y)
    run, bare = (trained(p, 0.5, 1, 400, batch_seed=3, save_at=0.5 * np.arange(401)) for p in (clouds, free))
    labels = random_labels(40, [64, 48, 48, 5], 0.05)
    other = trained(labels, 0.1, 1, 500, save_at=0.1 * np.arange(501))
    bound = int(np.ceil(np.log(2 / eps) / (2 * 0.5 * 0.1)))
    shown = (10, 20, 40, 80, 160, 400)
    found = {name: ranks(clouds, r.theta[list(shown)], 1e-3)[:, 0] for name, r in (("0.1", run), ("0", bare))}
    fig, axes = gf.plots.subplots(1, 2)
    for name, row in found.items():
        axes[0].semilogx(shown, row, "o-", label=rf"$\lambda = {name}$")
    gf.plots.reference(axes[0], bound, label="bound")
    ks, excess, low, high = (1, 5, 20, 40), [], [], []
    for r, factor, name in ((run, 0.9, "classes"), (other, 0.99, "random labels")):
        tails, sizes = [], gf.measure.layer_norms(r.problem, r.end)
        for k in ks:
            before = factor**k * r.theta[-1 - k]
            tails.append((gf.measure.rank_tail(r.problem, r.end, k), gf.measure.layer_norms(r.problem, before) / sizes))
            if r is other:
                change = gf.measure.numerical_rank(labels, r.end - before, tolerance=1e-10)
                high.append((change - k).max())
                low += (k - change[:2]).tolist() if k <= 20 else []
        tail, limit = np.moveaxis(tails, 1, 0)
        excess += (tail - limit).ravel().tolist()
        line = axes[1].semilogy(ks, np.maximum(tail[:, 0], 1e-18), "o-", label=name)
        axes[1].semilogy(ks, limit[:, 0], "--", color=line[0].get_color())
    axes[0].set(xlabel="step", ylabel=r"rank of $W_1$")
    axes[1].set(xlabel="k", ylabel=r"part of $W_1$ beyond rank $B k$")
    norms = np.concatenate([gf.measure.layer_norms(r.problem, r.end) for r in (run, other)])
    data = {"t": ("t", list(shown)), "rank": ("t", found["0.1"]), "rank_without_decay": ("t", found["0"])}
    return fig, data, [
        gf.Claim("update_rank", "W_T - (1 - 2 h lambda)^k W_{T-k} has rank at most B k", high, below=0),
        gf.Claim("update_rank_exact", "and exactly k in the hidden layers for k = 1, 5, 20", low, below=0),
        gf.Claim("tail_bound", "the part beyond rank B k is at most (1 - 2 h lambda)^k |W_{T-k}|/|W_T|", excess,
                 below=1e-12),
        gf.Claim("theorem_tail", "W_1/|W_1| is within 0.01 of rank 53",
                 gf.measure.rank_tail(clouds, run.end, bound, "W1"), below=eps),
        gf.Claim("theorem_rank", "its rank ends below 53", found["0.1"][-1], below=bound),
        gf.Claim("early_rank", "and is above 120 at step 10", found["0.1"][0], above=120),
        gf.Claim("needs_decay", "without decay it stays above 120", found["0"][-1], above=120),
        gf.Claim("no_collapse", "norms of all layers", norms, above=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=2)
def null_space(steps=200):
    """Part of the first layer that no input sees: it decays as (1 - 2 step decay)^t, exactly, for any batch size.

    Points: SGD with several batch sizes and decays on a ReLU network; lines: the law. The flow's is exp(-2 decay t).
    """
    fig, ax = gf.plots.subplots()
    error, data = [], {}
    for number, (batch, decay) in enumerate(((2, 0.0), (2, 0.01), (2, 0.05), (40, 0.05))):
        problem = random_labels(40, [64, 48, 48, 5], decay)
        run = trained(problem, 0.1, batch, steps, save_at=0.1 * np.arange(steps + 1))
        unseen = np.eye(64) - np.linalg.pinv(problem.x) @ problem.x
        parts = problem.layers(run.theta)["W1"] @ unseen
        law = (1 - 0.2 * decay) ** np.arange(steps + 1)
        error.append(np.linalg.norm(parts - law[:, None, None] * parts[0], axis=(1, 2)) / np.linalg.norm(parts[0]))
        shown = np.arange(number, steps + 1, 12)
        size = np.linalg.norm(parts, axis=(1, 2)) / np.linalg.norm(parts[0])
        line = ax.semilogy(shown, size[shown], "os^v"[number], label=rf"B = {batch}, $\lambda = {decay:g}$")
        ax.semilogy(law, "-", color=line[0].get_color(), linewidth=0.8)
        data[f"unseen{number}"] = ("step", size)
    six = random_labels(40, [64, 48, 48, 5], 0.0)
    flow_problem = gf.Problem(gf.DeepLinear([64, 8, 5]), six.loss, six.x[:6], six.y[:6], decay=0.05)
    flow = gf.simulate(flow_problem, flow_problem.init(seed=1), gf.GradientFlow(), t_end=30.0, rtol=1e-10)
    unseen = np.eye(64) - np.linalg.pinv(flow_problem.x) @ flow_problem.x
    first, last = (flow_problem.layers(theta)["W1"] @ unseen for theta in (flow.theta[0], flow.end))
    ax.set(xlabel="step", ylabel=r"$|W_1 P| / |W_1(0) P|$")
    return fig, data, [
        gf.Claim("null_space_decay", "W_1(T) P = (1 - 2 h lambda)^T W_1(0) P, relative", error, below=1e-12),
        gf.Claim("null_space_flow", "flow: the ratio at t = 30, lambda = 0.05 is e^-3",
                 np.linalg.norm(last) / np.linalg.norm(first), expected=np.exp(-3), within=1e-7),
    ]  # fmt: skip


@PAPER.figure(minutes=1.3, claims=4, small={"batches": (4, 64), "rates": (0.02, 0.2), "decays": (0.0, 4e-3)})
def digits(
    batches=(4, 16, 64), rates=(0.02, 0.05, 0.1, 0.2), decays=(0.0, 5e-4, 1e-3, 2e-3, 4e-3), steps=12_000, seed=0
):
    """Handwritten digits (14 x 14 pixels, 1000 images, ReLU 196-64-64-10, cross-entropy), as in the paper's figures.

    Mean rank of the hidden layers against batch size (60 epochs), step and decay (at equal steps); elsewhere batch
    size 16, step 0.1, decay 0.002. Last panel: accuracy on held-out digits.
    """
    x, y = gf.data.mnist(n=2000, pool=2, seed=seed)
    network = gf.FullyConnected([196, 64, 64, 10])

    def problem(decay):
        return gf.Problem(network, gf.losses.CrossEntropy(), x[:1000], y[:1000], decay=decay)

    fig, axes = gf.plots.subplots(2, 2)
    by_batch = sweep(problem, [(b, 0.1, 2e-3) for b in batches], steps, epochs=60)
    by_rate = sweep(problem, [(16, h, 2e-3) for h in rates], steps)
    by_decay = sweep(problem, [(16, 0.1, decay) for decay in decays], steps)
    held_out = []
    for decay in decays:
        end = trained(problem(decay), 0.1, 16, steps).end
        held_out.append(gf.measure.accuracy(problem(decay).with_data(x[1000:], y[1000:]), end))
    draw_sweep(axes[0, 0], batches, by_batch, "batch size, after 60 epochs")
    draw_sweep(axes[0, 1], rates, by_rate, f"step, after {steps} steps")
    draw_sweep(axes[1, 0], decays, by_decay, f"decay, after {steps} steps", log=False)
    axes[1, 1].plot(range(len(decays)), held_out, "o-")
    axes[1, 1].set(xlabel="decay", ylabel="held-out accuracy", ylim=(0.8, 1))
    axes[1, 1].set_xticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    data = {"decay": ("decay", list(decays)), "rank": (("tolerance", "decay"), by_decay[:2])}
    return fig, data | {"held_out": ("decay", held_out)}, [
        gf.Claim("decay_lowers_rank", "rank without decay minus rank with the strongest (above 0.01 |W|)",
                 by_decay[1, 0] - by_decay[1, -1], above=15),
        gf.Claim("step_lowers_rank", "rank with the smallest minus rank with the largest step",
                 by_rate[1, 0] - by_rate[1, -1], above=10),
        gf.Claim("batch_lowers_rank", "at equal epochs: rank with the largest minus rank with the smallest batch",
                 by_batch[1, -1] - by_batch[1, 0], above=10),
        gf.Claim("accuracy", "the accuracy on held-out digits hardly changes", np.ptp(held_out), below=0.05),
    ]  # fmt: skip
