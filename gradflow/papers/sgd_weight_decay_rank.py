"""T. Galanti, Z. Siegel, A. Gupte, T. Poggio: SGD and Weight Decay Secretly Minimize the Rank of Your Neural Network.

2025, arXiv 2206.05794. Weight decay forgets the past at the rate 1 - 2 step decay, and a step of batch size B adds
rank at most B: hence weights are close to rank B log(2/eps)/(2 step decay). Smaller batches, larger steps and stronger
decay give lower rank, without decay the rank stays full. The tail and null-space identities are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
ABOVE = [r"above $10^{-3}\,|W|_F$", r"above $10^{-2}\,|W|_F$"]


def random_labels(n, widths, decay):
    """ReLU network on random labels."""
    x, y = gf.data.random_labels(n, widths[0], widths[-1])
    return gf.Problem(gf.FullyConnected(widths), gf.losses.Square(), x, y, decay=decay)


def ranks(problem, theta, tolerance):
    """Numbers of singular values of the layers above the tolerance times the Frobenius norm."""
    return gf.measure.numerical_rank(problem, theta, tolerance=tolerance, relative_to="norm")


def trained(problem, step, batch, steps, seed=2, points=2):
    """Run of SGD from a He start."""
    theta0, rule = problem.init(seed=1, scheme="he"), gf.SGD(step, batch_size=batch, seed=seed)
    return gf.simulate(problem, theta0, rule, t_end=step * steps, save_at=points)


def one_by_one(problem, titles, settings, varied, measures):
    """Figure and sweeps of SGD with one setting varied at a time: mean rank of the hidden layers at two tolerances."""

    def run(batch, step, decay, steps, epochs=None):
        made = problem(decay)
        return trained(made, step, batch, epochs * -(-made.n // batch) if epochs else steps)

    measures |= {"accuracy": gf.measure.accuracy, "norms": gf.measure.layer_norms}
    measures["hidden"] = lambda *at: [ranks(*at, tolerance)[:2].mean() for tolerance in (1e-3, 1e-2)]
    found = [gf.sweep(run, measures, **settings | change) for change in varied]
    scales = ["linear" if title.startswith("decay") else "log" for title in titles]
    fig, axes = gf.plots.subplots(2, 2, xlabel=titles, ylabel="mean rank of hidden layers", xscale=scales)
    for ax, runs in zip(axes.flat, found, strict=False):
        gf.plots.lines(ax, runs.hidden.T, label=ABOVE, marker="o")
    return fig, axes, found


@PAPER.figure(minutes=3, claims=8, small={"batches": (1, 64), "batches_at_steps": (1,), "rates": (0.02, 0.2),
                                          "decays": (0.0, 4e-3)})  # fmt: skip
def trends(batches=(1, 2, 4, 8, 16, 64, 256), batches_at_steps=(1, 2, 4, 8, 16, 64), rates=(0.02, 0.05, 0.1, 0.2),
           decays=(0.0, 5e-4, 1e-3, 2e-3, 4e-3), steps=20_000):  # fmt: skip
    """Mean rank of the hidden layers of a ReLU network on random labels, against the batch size after 100 epochs and
    after 20,000 steps, the step and the decay; elsewhere batch size 8, step 0.1, decay 0.002. At equal epochs small
    batches take more steps, which is most of their effect.
    """
    fig, axes, (by_epochs, _, by_step, by_decay) = one_by_one(
        lambda decay: random_labels(256, [64, 64, 64, 10], decay),
        ["batch size, after 100 epochs", f"batch size, after {steps} steps", "step", "decay"],
        {"batch": 8, "step": 0.1, "decay": 2e-3, "steps": steps},
        [{"batch": batches, "epochs": 100}, {"batch": batches_at_steps}, {"step": rates}, {"decay": decays}], {},
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_ylim(30, 66)
    rate, decay, batch = by_step.hidden[:, 1].values, by_decay.hidden[:, 1].values, by_epochs.hidden[:, 1]
    accuracy, norms = ([*by_step[name].values, *by_decay[name].values] for name in ("accuracy", "norms"))
    return fig, gf.plots.drawn(fig), [
        gf.Claim("decay_lowers_rank", "rank above 0.01 |W|: lambda = 0 minus 0.004", decay[0] - decay[-1], above=15),
        gf.Claim("step_lowers_rank", "rank at step 0.02 minus rank at 0.2", rate[0] - rate[-1], above=15),
        gf.Claim("monotone_decay", "the rank falls with the decay, within 1", np.diff(decay), below=1),
        gf.Claim("monotone_step", "and with the step, within 1", np.diff(rate), below=1),
        gf.Claim("batch_at_epochs", "at 100 epochs: rank, B = 64 minus 1", batch.sel(batch=64) - batch[0], above=15),
        gf.Claim("measured_decay", "ranks at lambda = 0 and 0.004", decay[[0, -1]], expected=[60.5, 36.5], within=2.0),
        gf.Claim("fitted", "accuracy after 20,000 steps", accuracy, above=0.99),
        gf.Claim("no_collapse", "norms of all layers", [*norms, *by_epochs.norms.values], above=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.2, claims=8)
def theorem(eps=1e-2, shown=(10, 20, 40, 80, 160, 400), ks=(1, 5, 20, 40)):
    """Two classes, batch size 1, step 0.5, decay 0.1. Left: rank of the first layer with and without decay, and the
    bound log(2/eps)/(2 step decay) = 53 of the theorem (dashed). Right: part of W_T beyond rank B k, and its bound
    (1 - 2 step decay)^k |W_{T-k}|/|W_T| (dashed), for this run and one on random labels.
    """
    rng = np.random.default_rng(0)
    x, y = gf.data.unit_inputs(64, 128, rng), np.arange(64) % 2 * 2.0 - 1
    x = gf.data.unit_rows(x + y[:, None] * gf.data.unit_inputs(1, 128, rng))
    clouds, free = (gf.Problem(gf.FullyConnected([128, 128, 1]), gf.losses.Square(), x, y, decay=d) for d in (0.1, 0))
    run, bare = (trained(problem, 0.5, 1, 400, seed=3, points=401) for problem in (clouds, free))
    other = trained(random_labels(40, [64, 48, 48, 5], 0.05), 0.1, 1, 500, points=501)
    bound = int(np.ceil(np.log(2 / eps) / (2 * 0.5 * 0.1)))
    found = [ranks(clouds, r.theta[list(shown)], 1e-3)[:, 0] for r in (run, bare)]
    fig, axes = gf.plots.subplots(
        1, 2, xlabel=["step", "k"], ylabel=["rank of $W_1$", "part of $W_1$ beyond rank $B k$"],
        xscale=["log", "linear"], yscale=["linear", "log"])  # fmt: skip
    gf.plots.lines(axes[0], found, shown, of=(0.1, 0), label=r"$\lambda = {:g}$", marker="o")
    gf.plots.reference(axes[0], bound, label="bound")

    def forgotten(r, k):
        before = (1 - 2 * r.dynamics.step * r.problem.decay) ** k * r.theta[-1 - k]
        change = gf.measure.numerical_rank(r.problem, r.end - before, tolerance=1e-10)
        norms = gf.measure.layer_norms(r.problem, np.stack([before, r.end]))
        tail = gf.measure.rank_tail(r.problem, r.end, k)
        return {"beyond": tail, "limit": norms[0] / norms[1], "change": change - k, "norms": norms[1]}

    parts = [gf.sweep(forgotten, r=r, k=ks) for r in (run, other)]
    tails, limits = ([part[name].values[:, 0] for part in parts] for name in ("beyond", "limit"))
    gf.plots.lines(axes[1], np.maximum(tails, 1e-18), ks, label=["classes", "random labels"], marker="o")
    gf.plots.lines(axes[1], limits, ks, linestyle="--")
    excess = np.concatenate([(part.beyond - part.limit).values.ravel() for part in parts])
    tail = gf.measure.rank_tail(clouds, run.end, bound, "W1")
    change, norms = parts[1].change, np.concatenate([part.norms.values.ravel() for part in parts])
    return fig, gf.plots.drawn(fig), [
        gf.Claim("update_rank", "W_T - (1 - 2 h lambda)^k W_{T-k} has rank at most B k", change, below=0),
        gf.Claim("update_rank_exact", "and at least k in the hidden layers, k = 1, 5, 20", -change[:3, :2], below=0),
        gf.Claim("tail_bound", "part beyond rank B k minus (1 - 2 h lambda)^k |W_{T-k}|/|W_T|", excess, below=1e-12),
        gf.Claim("theorem_tail", "W_1/|W_1| is this far from rank 53", tail, below=eps),
        gf.Claim("theorem_rank", "its rank ends below 53", found[0][-1], below=bound),
        gf.Claim("early_rank", "and is above 120 at step 10", found[0][0], above=120),
        gf.Claim("needs_decay", "without decay it stays above 120", found[1][-1], above=120),
        gf.Claim("no_collapse", "norms of all layers", norms, above=0.5),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=2)
def null_space(steps=200, runs=((2, 0.0), (2, 0.01), (2, 0.05), (40, 0.05))):
    """Part of the first layer that no input sees: it decays as (1 - 2 step decay)^t, exactly, for any batch size.
    Points: SGD on a ReLU network; lines: the law. The flow's is exp(-2 decay t).
    """

    def measured(run):
        batch, decay = run
        problem, law = random_labels(40, [64, 48, 48, 5], decay), (1 - 0.2 * decay) ** np.arange(steps + 1)
        parts = gf.measure.unseen(problem, trained(problem, 0.1, batch, steps, points=steps + 1).theta)
        size, apart = (np.linalg.norm(v, axis=(1, 2)) for v in (parts, parts - law[:, None, None] * parts[0]))
        return {"size": ("step", size / size[0]), "law": ("step", law), "error": ("step", apart / size[0])}

    found = gf.sweep(measured, run=runs)
    fig, ax = gf.plots.subplots(xlabel="step", ylabel=r"$|W_1 P| / |W_1(0) P|$", yscale="log")
    names = [rf"B = {batch}, $\lambda = {decay:g}$" for batch, decay in runs]
    gf.plots.lines(ax, found.law, linewidth=0.8)
    for place, line in enumerate(gf.plots.lines(ax, found["size"], label=names, linestyle="")):
        line.set(marker="os^v"[place % 4], markevery=(place, 12))
    x, y = gf.data.random_labels(40, 64, 5)
    linear = gf.Problem(gf.DeepLinear([64, 8, 5]), gf.losses.Square(), x[:6], y[:6], decay=0.05)
    flow = gf.simulate(linear, linear.init(seed=1), gf.GradientFlow(), t_end=30.0, rtol=1e-10, save_at=2)
    first, last = np.linalg.norm(gf.measure.unseen(linear, flow.theta), axis=(1, 2))
    return fig, found, [
        gf.Claim("null_space_decay", "W_1(T) P = (1 - 2 h lambda)^T W_1(0) P, relative", found.error, below=1e-12),
        gf.Claim("null_space_flow", "flow: the ratio at t = 30, lambda = 0.05 is e^-3", last / first,
                 expected=np.exp(-3), within=1e-7),
    ]  # fmt: skip


@PAPER.figure(minutes=1.3, claims=4, small={"batches": (4, 64), "rates": (0.02, 0.2), "decays": (0.0, 4e-3)})
def digits(batches=(4, 16, 64), rates=(0.02, 0.05, 0.1, 0.2), decays=(0.0, 5e-4, 1e-3, 2e-3, 4e-3), steps=12_000,
           seed=0):  # fmt: skip
    """Handwritten digits (14 x 14 pixels, 1000 images, ReLU 196-64-64-10, cross-entropy), as in the paper's figures:
    mean rank of the hidden layers against batch size (60 epochs), step and decay (at equal steps); elsewhere batch size
    16, step 0.1, decay 0.002. Last panel: accuracy on held-out digits.
    """
    x, y = gf.data.mnist(n=2000, pool=2, seed=seed)
    network, loss, held_out = gf.FullyConnected([196, 64, 64, 10]), gf.losses.CrossEntropy(), (x[1000:], y[1000:])
    fig, axes, (by_batch, by_step, by_decay) = one_by_one(
        lambda decay: gf.Problem(network, loss, x[:1000], y[:1000], decay=decay),
        ["batch size, after 60 epochs", f"step, after {steps} steps", f"decay, after {steps} steps", "decay"],
        {"batch": 16, "step": 0.1, "decay": 2e-3, "steps": steps},
        [{"batch": batches, "epochs": 60}, {"step": rates}, {"decay": decays}],
        {"held_out": lambda problem, theta: gf.measure.accuracy(problem.with_data(*held_out), theta)},
    )  # fmt: skip
    gf.plots.lines(axes[1, 1], by_decay.held_out, marker="o")
    axes[1, 1].set(ylabel="held-out accuracy", ylim=(0.8, 1))
    batch, step, decay = (runs.hidden[:, 1] for runs in (by_batch, by_step, by_decay))
    return fig, gf.plots.drawn(fig), [
        gf.Claim("decay_lowers_rank", "rank without decay minus with the strongest", decay[0] - decay[-1], above=15),
        gf.Claim("step_lowers_rank", "rank at the smallest minus largest step", step[0] - step[-1], above=10),
        gf.Claim("batch_lowers_rank", "rank at the largest minus smallest batch", batch[-1] - batch[0], above=10),
        gf.Claim("accuracy", "spread of the held-out accuracy", np.ptp(by_decay.held_out.values), below=0.05),
    ]  # fmt: skip
