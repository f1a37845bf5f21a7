"""M. Xu, A. Rangamani, Q. Liao, T. Galanti, T. Poggio: Dynamics in Deep Classifiers Trained with the Square Loss.

Research 6, 2023, arXiv 2101.00072. A network f = rho f_V with layers of unit norm, held by a Lagrange multiplier, is
trained with the square loss and decay lambda rho^2. With decay the flow forgets its first rho and finds the solution
of largest margin, for deep linear networks that of ridge regression; without decay it keeps a large rho. On balanced
classes the features collapse. The closed forms of the limits are derived here.
"""

from functools import partial

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
T, RHO = r"time $t$", r"$\rho(t)$"
COLLAPSE = {"NC1": gf.measure.nc1, "NC2": gf.measure.nc2, "NC3": gf.measure.nc3, "NC4": gf.measure.nc4}


def six_samples(decay=0.0):
    """Deep linear network 10-8-8-1 on six samples with random labels."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 10)) / np.sqrt(10), np.sign(rng.standard_normal((6, 1)))
    return gf.Problem(gf.DeepLinear([10, 8, 8, 1]), gf.losses.Square(), x, y, decay=decay)


def start(problem, rho, turned=True):
    """Random layers of unit norm times rho; the last one is turned round if the mean margin is negative."""
    theta = gf.LMFlow().scaled(problem, problem.init(seed=1), rho)
    against = turned and gf.measure.margins(problem, theta).mean() < 0
    return gf.LMFlow().scaled(problem, theta, -rho) if against else theta


@PAPER.figure(minutes=0.2, claims=10, small={"radii": (0.01, 1.0, 30.0), "decays": (0.0, 1e-2)})
def rho_and_margin(radii=(0.01, 1.0, 5.0, 10.0, 30.0, 100.0), decays=(0.0, 1e-3, 1e-2), t_end=2000.0):
    """Scale rho(t) of the normalised flow from several rho(0): without decay it fans out, with lambda = 0.01 it merges.

    Right: final rho, with the norms of the ridge solutions and of the interpolant of least norm (dashed); the margin is
    1/rho. The form of the decay, on rho only, and the ridge limit follow the derivation stated in the library.
    """
    problem, options = six_samples(), {"save_at": "log", "rtol": 1e-9, "atol": 1e-11}
    measures = {"rank_tail": partial(gf.measure.rank_tail, rank=1), "margins": gf.measure.margins}
    runs = gf.sweep(
        lambda decay, rho0: gf.simulate(problem, start(problem, rho0), gf.LMFlow(decay), t_end, **options),
        measures | {"maps": gf.measure.effective_map}, decay=decays, rho0=radii)  # fmt: skip
    end, ridge = runs.rho[..., -1], [gf.exact.ridge(problem.x, problem.y, decay) for decay in decays]
    fig, axes = gf.plots.subplots(
        1, 3, title=[r"$\lambda = 0$", rf"$\lambda = {decays[-1]:g}$", ""], xlabel=[T, T, r"start $\rho(0)$"],
        ylabel=[RHO, RHO, r"final $\rho$ = 1/margin"], xscale="log", yscale="log")  # fmt: skip
    gf.plots.lines(axes[0], runs.rho[0], dynamics=gf.LMFlow())
    gf.plots.lines(axes[1], runs.rho[-1], dynamics=gf.LMFlow())
    gf.plots.lines(axes[2], end, label=r"$\lambda = {:g}$", marker="o")
    gf.plots.reference(axes[2], norms := [np.linalg.norm(w) for w in ridge])
    rests = gf.exact.resting_scale(runs.margins[-1] / end[-1], decays[-1])
    return fig, runs, [
        gf.Claim("ridge_norm", "the ridge solution has norm 3.096658", norms[-1], expected=3.096658, within=1e-6),
        gf.Claim("ridge_limit", "lambda = 0.01: rho ends at its norm |w|", abs(end[-1] - norms[-1]), below=1e-6),
        gf.Claim("ridge_map", "and the network is w: rho V_3 V_2 V_1 - w", abs(runs.maps[-1] - ridge[-1]), below=1e-6),
        gf.Claim("rank_one", "with rank one: 1 - sigma^2", runs.rank_tail[1:].sel(rho0=slice(0, 99)) ** 2, below=1e-7),
        gf.Claim("equilibrium", "rho = M/(Q + lambda) at the end", abs(end[-1] - rests), below=1e-7),
        gf.Claim("init_small", "lambda = 0: from rho(0) = 1", end[0].sel(rho0=1), expected=7.538291, within=1e-4),
        gf.Claim("least_norm", "to the least norm that fits", norms[0], expected=7.538291, within=1e-6),
        gf.Claim("init_large", "lambda = 0: rho(0) = 30 stays", end[0].sel(rho0=30), above=30.0, below=30.01),
        gf.Claim("interpolation", "both fit the labels: loss", runs.loss[0, :, -1].sel(rho0=[1, 30]), below=1e-12),
        gf.Claim("forgetting", "lambda = 0.01: spread of the final rho", end[-1].max() - end[-1].min(), below=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=7)
def neural_collapse(decay=1e-3, classes=3, per_class=6, t_end=4000.0):
    """Collapse of a linear network 18-10-3 on orthonormal inputs: within-class scatter (NC1), distance of the class
    means from a simplex (NC2) and from the last layer (NC3). The closed form of the limit is derived here.
    """
    x, y = np.eye(classes * per_class), np.repeat(np.eye(classes), per_class, axis=0)
    problem = gf.Problem(gf.DeepLinear([len(x), 10, classes]), gf.losses.Square(), x, y)
    options = {"rtol": 1e-9, "atol": 1e-13, "save_at": "log", "record": COLLAPSE}
    run = gf.simulate(problem, start(problem, 1.0, turned=False), gf.LMFlow(decay), t_end, **options)
    nc, outputs = [run.records[name] for name in COLLAPSE], problem.outputs(run.end)
    limits = {"xlim": (1e-1, t_end), "ylim": (1e-17, 10)}
    fig, ax = gf.plots.subplots(xlabel=T, ylabel="distance from collapse", xscale="log", yscale="log", **limits)
    gf.plots.lines(ax, nc[:3], run.t, label="NC{}")
    theory = gf.exact.neural_collapse(decay, classes, per_class, 2)
    return fig, gf.plots.drawn(fig), [
        gf.Claim("gain", "outputs s y, s = 1/(1 + lambda n C^2)", (outputs * y).sum(1), expected=0.948767, within=1e-6),
        gf.Claim("outputs", "with nothing left over", abs(outputs - theory.gain * y).max(), below=1e-6),
        gf.Claim("rho", "rho = s C sqrt(n)", run.records["rho"][-1], expected=6.971982, within=1e-6),
        gf.Claim("nc1", "features have no scatter within classes", nc[0][-1], below=1e-8),
        gf.Claim("nc2", "class means form a simplex", nc[1][-1], below=1e-8),
        gf.Claim("nc3", "the last layer is parallel to the class means", nc[2][-1], below=1e-8),
        gf.Claim("nc4", "the nearest class mean decides as the outputs do", nc[3][-1], below=0.0),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=5)
def plain_and_polar(decay=0.01, radii=(1.2, 0.8, 1.0), t_end=20.0):
    """Norms of the layers under the plain flow with decay, the same in polar coordinates, and their imbalance: the
    decay makes the norms equal as rho_1^2 - rho_2^2 = 0.8 exp(-4 lambda t) (dashed; derived here).
    """
    problem, free, tight = six_samples(decay), six_samples(), {"rtol": 1e-12, "solver": "dop853"}
    layers = problem.layers(start(free, 1.0, turned=False))
    scaled = problem.flatten({name: r * w for r, (name, w) in zip(radii, layers.items(), strict=True)})
    plain = gf.simulate(problem, scaled, gf.GradientFlow(), t_end, **tight)
    polar = gf.simulate(problem, scaled, gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), t_end, **tight)
    lm = gf.simulate(free, start(free, 0.1, turned=False), gf.LMFlow(decay), 50.0, save_at=4001, **tight)
    norms, fall, spent = plain.measure(gf.measure.layer_norms), lm.loss[0] - lm.loss[-1], gf.measure.dissipation(lm)
    imbalance, law = norms[:, 0] ** 2 - norms[:, 1] ** 2, (radii[0] ** 2 - radii[1] ** 2) * np.exp(-4 * decay * plain.t)
    fig, axes = gf.plots.subplots(1, 2, xlabel=T, ylabel=["norms of the layers", "imbalance"])
    gf.plots.lines(axes[0], norms.T, plain.t, label="$|W_{}|$")
    gf.plots.lines(axes[0], polar.records["radius"].T, polar.t, label=r"polar $\rho_k$", color="k", linestyle=":")
    gf.plots.lines(axes[1], imbalance, plain.t, label=r"$\rho_1^2 - \rho_2^2$", dynamics=plain.dynamics)
    gf.plots.lines(axes[1], law, plain.t, label=r"$0.8\, e^{-4\lambda t}$", color="#D55E00", linestyle="--")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("plain_vs_polar", "plain is polar, rates 1, 1/rho_k^2", abs(plain.theta - polar.theta), below=1e-9),
        gf.Claim("imbalance", "rho_1^2 - rho_2^2 = 0.8 exp(-4 lambda t)", abs(imbalance - law).max(), below=1e-9),
        gf.Claim("imbalance_end", "at t = 20", imbalance[-1], expected=0.359463171, within=1e-9),
        gf.Claim("dissipation", "normalised flow: L(0) - L(T) = int rho'^2 + |V'|^2 dt", abs(fall - spent), below=1e-9),
        gf.Claim("fall", "the loss falls by this much to t = 50 from rho = 0.1", fall, expected=0.7934497, within=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6, small={"runs": ((0.1, 1.0), (0.1, 3.0), (0.01, 0.1))})
def relu_reference(runs=((0.1, 0.1), (0.1, 1.0), (0.1, 3.0), (0.01, 0.1), (0.01, 1.0)), t_end=300.0):
    """Scale rho(t) of a ReLU network 4-12-1 on orthogonally separable samples under the normalised flow, and |w_+| +
    |w_-| of the convex problem that has the same minimum (dashed), which is derived here.
    """
    y = np.repeat([1.0, -1.0], 5)[:, None]
    x = y * gf.data.unit_rows(np.abs(np.random.default_rng(0).standard_normal((10, 4))))
    problem = gf.Problem(gf.FullyConnected([4, 12, 1]), gf.losses.Square(), x, y)
    flows = gf.sweep(
        lambda run: gf.simulate(problem, start(problem, run[1]), gf.LMFlow(run[0]), t_end, save_at="log"),
        {"sigma": partial(gf.measure.singular_values, layer="W1")}, run=runs)  # fmt: skip
    optimum = {decay: gf.exact.separable_relu(x, y, decay) for decay, _ in runs}
    rho, loss = np.transpose([(optimum[decay].rho, optimum[decay].loss) for decay, _ in runs])
    fig, ax = gf.plots.subplots(xlabel=T, ylabel=RHO, xscale="log", yscale="log")
    gf.plots.lines(ax, flows.rho, of=[run[0] for run in runs], label=r"$\lambda = {:g}$", dynamics=gf.LMFlow())
    gf.plots.reference(ax, rho)
    return fig, flows, [
        gf.Claim("relu_convex_reference", "rho ends at |w_+| + |w_-|", abs(flows.rho[:, -1] - rho), below=1e-4),
        gf.Claim("relu_loss", "and the loss at the convex minimum", abs(flows.loss[:, -1] - loss), below=1e-4),
        gf.Claim("relu_rho", "which is 1.504590 at lambda = 0.1", optimum[0.1].rho, expected=1.504590, within=1e-5),
        gf.Claim("relu_minimum", "and 0.349339", optimum[0.1].loss, expected=0.349339, within=1e-6),
        gf.Claim("relu_weak_decay", "lambda = 0.01: 2.198229", optimum[0.01].rho, expected=2.198229, within=1e-5),
        gf.Claim("relu_rank", "the first layer has rank two: sigma_3", flows.sigma[:, 2], below=1e-4),
    ]  # fmt: skip


@PAPER.figure(minutes=2, claims=8, small={"batch": 50, "flows": ((1e-2, 1.0),)})
def digits(radii=(1.0, 30.0), decays=(0.0, 1e-2), flows=((0.0, 1.0), (1e-2, 1.0), (1e-2, 30.0)), n=200, width=20,
           step=0.01, batch=20, t_end=200.0, seed=0):  # fmt: skip
    """Handwritten 3 and 5 (200 images of 14 x 14 pixels of norm one), ReLU 196-20-1. Left: rho(t) by full-batch (full)
    and stochastic (dotted) normalised descent, and by the normalised flow through its kinks (black, dashed); without
    decay from the small start only, as from the large one it takes 40,000 steps over 25,000 kinks, more than two
    minutes, and ends at 30.02. Middle: normalised margins at the end from the large start. Right: collapse of the
    features there (NC1, NC3, NC4; NC2 is 0 for two classes).
    """
    x, y = gf.data.mnist(classes=(3, 5), n=n, pool=2, seed=seed)
    problem = gf.Problem(gf.FullyConnected([x.shape[1], width, 1]), gf.losses.Square(), gf.data.unit_rows(x), y)

    def run(decay, rho0, rule):
        lm = gf.LMFlow(decay)
        rules = {"full": gf.GD(step, flow=lm), "batch": gf.SGD(step, flow=lm, batch_size=batch, seed=2), "flow": lm}
        return gf.simulate(problem, start(problem, rho0), rules[rule], t_end, save_at="log", rtol=1e-6)

    measures = COLLAPSE | {"margins": gf.measure.margins, "theta": lambda _, theta: theta}
    full, noisy = (gf.sweep(run, measures, decay=decays, rho0=radii, rule=rule) for rule in ("full", "batch"))
    flow = gf.sweep(lambda at: run(*at, "flow"), measures, at=flows)
    end, margins, shown = full.rho[..., -1], full.margins / full.rho[..., -1], ["NC1", "NC3", "NC4"]
    fig, axes = gf.plots.subplots(
        1, 3, xlabel=[r"time $t = k h$", r"normalised margin $y f_V(x)$", ""], xscale=["log", "linear", "linear"],
        ylabel=[r"$\rho$", "images", "distance from collapse"], yscale=["log", "linear", "linear"],
        xlim=[(1e-2, 1.5 * t_end), (-0.06, 0.3), (-0.5, 2.5)])  # fmt: skip
    for i, (decay, colour) in enumerate(gf.plots.coloured(decays)):
        look = {"color": colour, "label": rf"$\lambda = {decay:g}$"}
        gf.plots.lines(axes[0], full.rho[i], **look)
        gf.plots.lines(axes[0], noisy.rho[i], color=colour, linestyle=":")
        axes[1].hist(margins[i, -1], bins=np.linspace(-0.06, 0.28, 35), log=True, alpha=0.6, **look)
        axes[2].plot(shown, [full[name][i, -1] for name in shown], "o", **look)
    gf.plots.lines(axes[0], flow.rho, color="k", linestyle="--")
    pairs = [(flow.isel(at=k), full.sel(decay=decay, rho0=rho0)) for k, (decay, rho0) in enumerate(flows)]
    near = [np.linalg.norm(a.theta - b.theta) / np.linalg.norm(a.theta) for a, b in pairs if b.rho0 == radii[0]]
    medians, rests = margins[:, -1].median("margins_0"), gf.exact.resting_scale(margins[-1], decays[-1])
    return fig, full.drop_vars("theta"), [
        gf.Claim("forgetting", "with decay: spread of the final rho", np.ptp(end[-1].values) / end[-1, 0], below=1e-2),
        gf.Claim("memory", "without decay rho = 30 stays", end[0, -1], above=30.0, below=30.1),
        gf.Claim("equilibrium", "rho = M/(Q + lambda), relative", end[-1] / rests - 1, above=-5e-3, below=5e-3),
        gf.Claim("larger_margin", "decay multiplies the median margin", medians[-1] / medians[0], above=3),
        gf.Claim("collapse", "and brings NC1 down", full.NC1[-1, -1] / full.NC1[0, -1], below=0.5),
        gf.Claim("sgd", "SGD ends at the same rho, relative", abs(noisy.rho[-1, :, -1] / end[-1] - 1), below=2e-2),
        gf.Claim("flow", "and so does the flow", [abs(a.rho[-1] / b.rho[-1] - 1) for a, b in pairs], below=1e-4),
        gf.Claim("flow_path", "from rho = 1 descent ends near the flow, relative distance", near, below=5e-3),
    ]  # fmt: skip
