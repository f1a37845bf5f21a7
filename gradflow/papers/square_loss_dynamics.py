"""M. Xu, A. Rangamani, Q. Liao, T. Galanti, T. Poggio: Dynamics in Deep Classifiers Trained with the Square Loss.
Research 6, 2023, arXiv 2101.00072. f = rho f_V has layers of unit norm, held by a Lagrange multiplier, and decay
lambda rho^2. With decay the flow forgets its first rho and finds the largest margin, for deep linear networks the ridge
solution; without, it keeps a large rho. On balanced classes the features collapse. The limits are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
T, TIME, RHO, AWAY = r"time $t$", r"time $t = k h$", r"$\rho(t)$", "distance from collapse"
COLLAPSE, MARGINS = {"nc": gf.measure.collapse}, {"margins": lambda *at: gf.measure.margins(*at, by="layers")}


def six_samples(decay=0.0):
    """Deep linear network 10-8-8-1 on six samples with random labels."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 10)) / np.sqrt(10), np.sign(rng.standard_normal((6, 1)))
    return gf.Problem(gf.DeepLinear([10, 8, 8, 1]), gf.losses.Square(), x, y, decay=decay)


def normalised(problem, decay, rho0, t_end, rule=None, **options):
    """LM flow, or the rule along it, from random unit layers times rho0, turned to a mean margin that is positive."""
    flow, unit = gf.LMFlow(decay), problem.init(seed=1, scheme="unit")
    start = flow.scaled(problem, unit, rho0 * np.sign(gf.measure.margins(problem, unit).mean()))
    return gf.simulate(problem, start, rule(flow) if rule else flow, t_end, save_at="log", **options)


@PAPER.figure(minutes=0.1, claims=7, small={"radii": (0.01, 1.0, 30.0), "decays": (0.0, 1e-2)})
def rho_and_margin(radii=(0.01, 1.0, 5.0, 10.0, 30.0, 100.0), decays=(0.0, 1e-3, 1e-2), t_end=2000.0):
    """Scale rho(t) of the normalised flow from several rho(0): without decay it fans out, with lambda = 0.01 it merges.
    Right: final rho, with the norms of the interpolant of least norm and of the ridge solutions; the margin is 1/rho.
    That the decay acts on rho only, and the ridge limit, follow the derivation stated in the library.
    """
    problem, tight = six_samples(), {"rtol": 1e-9, "atol": 1e-11}
    measures = MARGINS | {"tail": lambda *at: gf.measure.rank_tail(*at, 1), "maps": gf.measure.effective_map}
    runs = gf.sweep(normalised, measures, problem=problem, decay=decays, rho0=radii, t_end=t_end, **tight)
    end, ridge = runs.rho[..., -1], np.array([gf.exact.ridge(problem.x, problem.y, decay) for decay in decays])
    norms, rests = np.linalg.norm(ridge, axis=1), gf.exact.resting_scale(runs.margins[-1], decays[-1])
    fig, axes = gf.plots.subplots(
        1, 3, title=[r"$\lambda = 0$", rf"$\lambda = {decays[-1]:g}$", "end"], xlabel=[T, T, r"start $\rho(0)$"],
        ylabel=[RHO, RHO, r"final $\rho$ = 1/margin"], xscale="log", yscale="log")  # fmt: skip
    gf.plots.lines(axes[0], runs.rho[0], dynamics=gf.LMFlow())
    gf.plots.lines(axes[1], runs.rho[-1], dynamics=gf.LMFlow())
    gf.plots.lines(axes[2], end, label=r"$\lambda = {:g}$", marker="o")
    gf.plots.reference(axes[2], norms, "least norm, ridge")
    return fig, runs, [
        gf.Claim("ridge_limit", "lambda = 0.01: rho ends at the ridge norm |w|", abs(end[-1] - norms[-1]), below=1e-8),
        gf.Claim("ridge_map", "and the network is w: rho V_3 V_2 V_1 - w", abs(runs.maps[-1] - ridge[-1]), below=2e-8),
        gf.Claim("rank_one", "with rank one: 1 - sigma^2", runs["tail"][1:].sel(rho0=slice(0, 99)) ** 2, below=1e-22),
        gf.Claim("equilibrium", "rho = M/(Q + lambda) at the end", abs(end[-1] - rests), below=1e-8),
        gf.Claim("init_small", "lambda = 0, 0.01: from rho(0) = 1 to the least norm, |w|", end[[0, -1]].sel(rho0=1),
                 expected=[7.538291, 3.096658], within=1e-6),
        gf.Claim("init_large", "lambda = 0: rho(0) = 30 stays", end[0].sel(rho0=30), above=30.0, below=30.01),
        gf.Claim("interpolation", "both fit: loss", runs.loss[0, :, -1].sel(rho0=[1, 30]), below=1e-15)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def neural_collapse(decay=1e-3, t_end=4000.0):
    """Collapse of a linear network 18-10-3 on orthonormal inputs; the closed form of the limit is derived here."""
    x, y = gf.data.orthonormal_classes(3, 6)
    problem = gf.Problem(gf.DeepLinear([18, 10, 3]), gf.losses.Square(), x, y)
    options = {"rtol": 1e-12, "atol": 1e-14, "save_at": "log", "record": COLLAPSE}
    run = gf.simulate(problem, problem.init(seed=1, scheme="unit"), gf.LMFlow(decay), t_end, **options)
    nc, theory, limits = np.array(run.records["nc"]), gf.exact.neural_collapse(decay, 3, 6, 2), (1e-17, 30)
    fig, ax = gf.plots.subplots(xlabel=T, ylabel=AWAY, xscale="log", yscale="log", xlim=(0.1, t_end), ylim=limits)
    gf.plots.lines(ax, nc[:, :3].T, run.t, label="NC{}")
    return fig, [
        gf.Claim("gain", "the network gives s y, s = 1/(1 + lambda n C^2)", problem.outputs(run.end),
                 expected=theory.gain * y, within=1e-9),
        gf.Claim("rho", "with rho = s C sqrt(n)", run.records["rho"][-1], expected=theory.rho, within=1e-9),
        gf.Claim("collapse", "NC1, NC2, NC3 end at zero", nc[-1, :3], below=1e-12),
        gf.Claim("nc4", "the nearest class mean decides as the outputs do", nc[-1, 3], below=0.0)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=4)
def plain_and_polar(decay=0.01, t_end=20.0):
    """Decay makes the layers of the plain flow equal: rho_1^2 - rho_2^2 falls like exp(-4 lambda t), derived here."""
    problem, free, tight = six_samples(decay), six_samples(), {"rtol": 1e-12, "solver": "dop853"}
    scaled = problem.init([1.2, 0.8, 1.0], seed=1, scheme="unit")
    plain = gf.simulate(problem, scaled, gf.GradientFlow(), t_end, **tight)
    polar = gf.simulate(problem, scaled, gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), t_end, **tight)
    lm = gf.simulate(free, free.init([1, 1, 0.1], seed=1, scheme="unit"), gf.LMFlow(decay), 50.0, save_at=4001, **tight)
    first, second, _ = gf.measure.layer_norms(problem, plain.theta).T ** 2
    law = (1.2**2 - 0.8**2) * np.exp(-4 * decay * plain.t)
    fall, spent = lm.loss[0] - lm.loss[-1], gf.measure.dissipation(lm)
    ax = gf.plots.layer_norms(plain)
    gf.plots.lines(ax, polar.records["radius"].T, polar.t, label=r"polar $\rho_k$", color="k", linestyle=":")
    return ax.figure, [
        gf.Claim("plain_vs_polar", "plain is polar, rates 1, 1/rho_k^2", abs(plain.theta - polar.theta), below=2e-12),
        gf.Claim("imbalance", "rho_1^2 - rho_2^2 = 0.8 exp(-4 lambda t)", abs(first - second - law), below=2e-12),
        gf.Claim("dissipation", "LM flow: L(0) - L(T) = int rho'^2 + |V'|^2 dt", abs(fall - spent), below=1e-12),
        gf.Claim("fall", "the loss falls to t = 50 by", fall, expected=0.7934497, within=1e-7)]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=3, small={"runs": ((0.1, 1.0), (0.1, 3.0), (0.01, 0.1))})
def relu_reference(runs=((0.1, 0.1), (0.1, 1.0), (0.1, 3.0), (0.01, 0.1), (0.01, 1.0)), t_end=300.0):
    """Scale of a ReLU network 4-12-1 on orthogonally separable samples, and of its convex problem, derived here."""
    x, y = gf.data.orthogonally_separable(10, 4)
    problem = gf.Problem(gf.FullyConnected([4, 12, 1]), gf.losses.Square(), x, y)
    sigma, decays = {"sigma": lambda *at: gf.measure.singular_values(*at, "W1")}, [decay for decay, _ in runs]
    flows = gf.sweep(lambda run: normalised(problem, *run, t_end), sigma, run=runs)
    known = {decay: gf.exact.separable_relu(x, y, decay)[:2] for decay in decays}
    least, ends = np.array([known[decay] for decay in decays]), np.transpose([flows.rho[:, -1], flows.loss[:, -1]])
    fig, ax = gf.plots.subplots(xlabel=T, ylabel=RHO, xscale="log", yscale="log")
    gf.plots.lines(ax, flows.rho, of=decays, label=r"$\lambda = {:g}$", dynamics=gf.LMFlow())
    gf.plots.reference(ax, least[:, 0], "$|w_+| + |w_-|$")
    return fig, flows, [
        gf.Claim("relu_convex_reference", "final rho and loss: |w_+| + |w_-|, and its", abs(ends - least), below=2e-8),
        gf.Claim("relu_minimum", "which are, for lambda = 0.1 and 0.01", [known[0.1], known[0.01]],
                 expected=[[1.504590, 0.349339], [2.198229, 0.052169]], within=1e-6),
        gf.Claim("relu_rank", "the first layer has rank two: sigma_3", flows.sigma[:, 2], below=1e-10)]  # fmt: skip


@PAPER.figure(minutes=1.2, claims=6, small={"flows": ((1e-2, 1.0),)})
def digits(radii=(1.0, 30.0), decays=(0.0, 1e-2), flows=((0.0, 1.0), (1e-2, 1.0), (1e-2, 30.0)), t_end=200.0, seed=0):
    """Handwritten 3 and 5 (200 images of 14 x 14 pixels of norm one), ReLU 196-20-1, normalised SGD. Left: rho(t), and
    that of the flow through its kinks, but from the large start with decay only: without, a curvature of 390 holds its
    steps below 0.01, so that it takes three minutes. Middle and right: margins at the end, and collapse, from there.
    """
    x, y = gf.data.mnist(classes=(3, 5), n=200, pool=2, seed=seed)
    problem = gf.Problem(gf.FullyConnected([196, 20, 1]), gf.losses.Square(), gf.data.unit_rows(x), y)
    options = {"t_end": t_end, "rule": lambda flow: gf.SGD(0.01, flow, batch_size=20, seed=2), "record": COLLAPSE}
    sgd = gf.sweep(normalised, MARGINS, problem=problem, decay=decays, rho0=radii, **options)
    flow, shown = gf.sweep(lambda at: normalised(problem, *at, t_end, rtol=1e-6), at=flows), (1e-2, 1.5 * t_end)
    fig, axes = gf.plots.subplots(
        1, 3, xlabel=[TIME, r"normalised margin $y f_V(x)$", TIME], ylabel=[RHO, "images", AWAY], yscale="log",
        xscale=["log", "linear", "log"], xlim=[shown, None, shown])  # fmt: skip
    for i, (decay, colour) in enumerate(gf.plots.coloured(decays)):
        kind, nc = rf"$\lambda = {decay:g}$", sgd.nc[i, -1, :, [0, 2]].T
        gf.plots.lines(axes[0], sgd.rho[i], color=colour, label=f"SGD, {kind}")
        axes[1].hist(sgd.margins[i, -1], np.linspace(-0.06, 0.28, 35), color=colour, log=True, alpha=0.6, label=kind)
        gf.plots.lines(axes[2], nc, color=colour, linestyle=["-", "--"], label=[f"NC1, {kind}", f"NC3, {kind}"])
    gf.plots.lines(axes[0], flow.rho, color="k", linestyle="--", label="normalised flow")
    end, scatter, medians = sgd.rho[..., -1], sgd.nc[:, -1, -1, 0], sgd.margins[:, -1].median("margins_0")
    rests = gf.exact.resting_scale(sgd.margins[-1], decays[-1])
    near = [end.sel(decay=decay, rho0=rho0) for decay, rho0 in flows] / flow.rho[:, -1]
    return fig, sgd, [
        gf.Claim("forgetting", "with decay: spread of the final rho", np.ptp(end[-1].values) / end[-1, 0], below=5e-3),
        gf.Claim("memory", "without decay rho = 30 stays", end[0, -1], above=30.0, below=30.1),
        gf.Claim("equilibrium", "rho = M/(Q + lambda), relative", abs(end[-1] / rests - 1), below=5e-3),
        gf.Claim("larger_margin", "decay multiplies the median margin", medians[-1] / medians[0], above=4),
        gf.Claim("collapse", "and brings NC1 down", scatter[-1] / scatter[0], below=0.15),
        gf.Claim("sgd", "the flow ends at the same rho, relative", abs(near - 1), below=1e-2)]  # fmt: skip
