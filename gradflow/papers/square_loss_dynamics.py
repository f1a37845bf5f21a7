"""M. Xu, A. Rangamani, Q. Liao, T. Galanti, T. Poggio: Dynamics in Deep Classifiers Trained with the Square Loss.

Research 6, 2023, arXiv 2101.00072. A network f = rho f_V with layers of unit norm, held by a Lagrange multiplier, is
trained with the square loss and decay lambda rho^2. With decay the flow forgets its first rho and finds the solution
of largest margin, for deep linear networks that of ridge regression; without decay it keeps a large rho. On balanced
classes the features collapse. The closed forms of the limits are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
RADII = (0.01, 1.0, 5.0, 10.0, 30.0, 100.0)


def six_samples(decay=0.0):
    """Deep linear network 10-8-8-1 on six samples with random labels."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 10)) / np.sqrt(10)
    y = np.sign(rng.standard_normal((6, 1)))
    return gf.Problem(gf.DeepLinear([10, 8, 8, 1]), gf.losses.Square(), x, y, decay=decay)


def start(problem, rho, flip=True):
    """Random layers of unit norm times rho; the last one is turned round if the mean margin is negative."""
    flow = gf.LMFlow()
    state = flow.pack(problem, problem.init(seed=1))
    state[0] = rho
    theta = flow.unpack(problem, state)
    if flip and (problem.y * problem.outputs(theta)).mean() < 0:
        state[0] = -rho
    return flow.unpack(problem, state)


@PAPER.figure(minutes=0.2, claims=10, small={"radii": (0.01, 1.0, 30.0), "decays": (0.0, 1e-2)})
def rho_and_margin(radii=RADII, decays=(0.0, 1e-3, 1e-2), t_end=2000.0):
    """Scale rho(t) of the normalised flow from several rho(0), and where it ends.

    Without decay the scales fan out (left), with decay lambda = 0.01 they merge (middle). Right: final rho against
    rho(0), with the norms of the ridge solutions and of the interpolant of least norm (dashed); the margin is 1/rho.
    The form of the decay, on rho only, and the ridge limit follow the derivation stated in the library.
    """
    problem = six_samples()
    fig, axes = gf.plots.subplots(1, 3)
    final = np.empty((len(decays), len(radii)))
    gap, ratio, losses, balance = [], [], [], []
    for i, decay in enumerate(decays):
        w = gf.exact.ridge(problem.x, problem.y, decay)
        for j, (rho, shade) in enumerate(gf.plots.coloured(radii, gf.LMFlow())):
            run = gf.simulate(
                problem, start(problem, rho), gf.LMFlow(decay), t_end=t_end, rtol=1e-9, atol=1e-11, save_at="log"
            )
            final[i, j] = run.records["rho"][-1]
            if decay == decays[0] or decay == decays[-1]:
                axes[int(i > 0)].loglog(run.t[1:], run.records["rho"][1:], color=shade)
            margins = gf.measure.margins(problem, run.end) / final[i, j]
            if decay == 1e-2:
                gap.append(abs(gf.measure.effective_map(problem, run.end) - w).max())
                balance.append(final[i, j] - margins.mean() / ((margins**2).mean() + decay))
            if decay and rho < 100:
                ratio.append(gf.measure.rank_tail(problem, run.end, 1) ** 2)
            if decay == 0 and rho in (1.0, 30.0):
                losses.append(run.loss[-1])
        axes[2].loglog(radii, final[i], "o-", label=rf"$\lambda = {decay:g}$")
        gf.plots.reference(axes[2], np.linalg.norm(w), number=i % 3)
    axes[0].set(title=r"$\lambda = 0$", xlabel=r"time $t$", ylabel=r"$\rho(t)$")
    axes[1].set(title=rf"$\lambda = {decays[-1]:g}$", xlabel=r"time $t$", ylabel=r"$\rho(t)$")
    axes[2].set(xlabel=r"start $\rho(0)$", ylabel=r"final $\rho$ = 1/margin")
    at = {(decay, rho): final[i, j] for i, decay in enumerate(decays) for j, rho in enumerate(radii)}
    least, ridge = (np.linalg.norm(gf.exact.ridge(problem.x, problem.y, decay)) for decay in (0.0, 1e-2))
    merged = np.array([value for (decay, rho), value in at.items() if decay == 1e-2])
    data = {"decay": ("decay", list(decays)), "rho0": ("rho0", list(radii)), "rho": (("decay", "rho0"), final)}
    return fig, data, [
        gf.Claim("ridge_norm", "the ridge solution has norm 3.096658 at lambda = 0.01", ridge,
                 expected=3.096658, within=1e-6),
        gf.Claim("ridge_limit", "lambda = 0.01: rho ends at |w|, w the ridge solution with the same lambda",
                 abs(merged - ridge), below=1e-6),
        gf.Claim("ridge_map", "and the network is w: |rho V_3 V_2 V_1 - w| is 0", gap, below=1e-6),
        gf.Claim("rank_one", "with decay all layers end with rank one: 1 - sigma_1^2", ratio, below=1e-7),
        gf.Claim("equilibrium", "rho = M/(Q + lambda) at the end", np.abs(balance), below=1e-7),
        gf.Claim("init_small", "lambda = 0: from rho(0) = 1 to the least norm 7.538291", at[0.0, 1.0],
                 expected=7.538291, within=1e-4),
        gf.Claim("least_norm", "which is the norm of the interpolant of least norm", least,
                 expected=7.538291, within=1e-6),
        gf.Claim("init_large", "lambda = 0: rho(0) = 30 stays", at[0.0, 30.0], above=30.0, below=30.01),
        gf.Claim("interpolation", "lambda = 0: both fit the labels", losses, below=1e-12),
        gf.Claim("forgetting", "lambda = 0.01: the spread of the final rho over all starts",
                 np.ptp(merged), below=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=7)
def neural_collapse(decay=1e-3, classes=3, per_class=6, t_end=4000.0):
    """Neural collapse of a linear network 18-10-3 on orthonormal inputs under the normalised flow.

    Within-class scatter (NC1), distance of the class means from a simplex (NC2) and from the last layer (NC3). The
    collapsed equilibrium in closed form is derived here.
    """
    n = classes * per_class
    y = np.eye(classes)[np.arange(n) // per_class]
    problem = gf.Problem(gf.DeepLinear([n, 10, classes]), gf.losses.Square(), np.eye(n), y)
    measures = {"NC1": gf.measure.nc1, "NC2": gf.measure.nc2, "NC3": gf.measure.nc3}
    run = gf.simulate(
        problem, start(problem, 1.0, flip=False), gf.LMFlow(decay), t_end=t_end, rtol=1e-9, atol=1e-13,
        save_at="log", record=measures,
    )  # fmt: skip
    fig, ax = gf.plots.subplots()
    for name in measures:
        ax.loglog(run.t[1:], run.records[name][1:], label=name)
    ax.set(xlabel=r"time $t$", ylabel="distance from collapse", xlim=(1e-1, t_end), ylim=(1e-17, 10))
    theory, rho = gf.exact.neural_collapse(decay, classes, per_class, 2), run.records["rho"][-1]
    outputs = problem.outputs(run.end)
    data = {"t": ("t", run.t)} | {name: ("t", np.asarray(run.records[name])) for name in measures}
    return fig, data | {"rho": ("t", np.asarray(run.records["rho"]))}, [
        gf.Claim("gain", "outputs are s times the targets, s = 1/(1 + lambda n C^2) = 0.948767",
                 (outputs * y).sum(1), expected=0.948767, within=1e-6),
        gf.Claim("outputs", "with nothing left over", abs(outputs - theory.gain * y).max(), below=1e-6),
        gf.Claim("rho", "rho = s C sqrt(n) = 6.971982", rho, expected=6.971982, within=1e-6),
        gf.Claim("nc1", "features have no scatter within classes", run.records["NC1"][-1], below=1e-8),
        gf.Claim("nc2", "class means form a simplex", run.records["NC2"][-1], below=1e-8),
        gf.Claim("nc3", "the last layer is parallel to the class means", run.records["NC3"][-1], below=1e-8),
        gf.Claim("nc4", "the nearest class mean decides as the outputs do", gf.measure.nc4(problem, run.end),
                 below=0.0),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=5)
def plain_and_polar(decay=0.01, radii=(1.2, 0.8, 1.0), t_end=20.0):
    """Norms of the layers under the plain flow with decay, the same in polar coordinates, and their imbalance.

    The decay makes the norms equal: rho_1^2 - rho_2^2 = 0.8 exp(-4 lambda t) (dashed; derived here).
    """
    problem = six_samples(decay)
    layers = problem.layers(problem.init(seed=1))
    unit = {name: r * w / np.linalg.norm(w) for r, (name, w) in zip(radii, layers.items(), strict=True)}
    options = {"t_end": t_end, "rtol": 1e-12, "solver": "dop853"}
    plain = gf.simulate(problem, problem.flatten(unit), gf.GradientFlow(), **options)
    polar = gf.simulate(problem, plain.theta[0], gf.PolarFlow(angular_rate=gf.PowerRate(1, -2)), **options)
    norms = plain.measure(gf.measure.layer_norms)
    imbalance = norms[:, 0] ** 2 - norms[:, 1] ** 2
    law = (radii[0] ** 2 - radii[1] ** 2) * np.exp(-4 * decay * plain.t)
    lm = gf.simulate(
        six_samples(), start(six_samples(), 0.1, flip=False), gf.LMFlow(decay), t_end=50.0, rtol=1e-12,
        solver="dop853", save_at=4001,
    )  # fmt: skip
    fall = lm.loss[0] - lm.loss[-1]
    fig, axes = gf.plots.subplots(1, 2)
    for k in range(3):
        axes[0].plot(plain.t, norms[:, k], label=rf"$|W_{k + 1}|$")
        axes[0].plot(polar.t, polar.records["radius"][:, k], "k:", label=r"polar $\rho_k$" if k == 0 else None)
    axes[1].plot(plain.t, imbalance, color=gf.plots.colours(plain.dynamics), label=r"$\rho_1^2 - \rho_2^2$")
    axes[1].plot(plain.t, law, "--", color="#D55E00", label=r"$0.8\, e^{-4\lambda t}$")
    axes[0].set(xlabel=r"time $t$", ylabel="norms of the layers")
    axes[1].set(xlabel=r"time $t$", ylabel="imbalance")
    data = {"t": ("t", plain.t), "norm": (("t", "layer"), norms), "imbalance": ("t", imbalance), "law": ("t", law)}
    return fig, data, [
        gf.Claim("plain_vs_polar", "the plain flow is the polar one with rates 1 and 1/rho_k^2",
                 abs(plain.theta - polar.theta).max(), below=1e-9),
        gf.Claim("imbalance", "rho_1^2 - rho_2^2 = 0.8 exp(-4 lambda t)", abs(imbalance - law).max(), below=1e-9),
        gf.Claim("imbalance_end", "0.359463171 at t = 20", imbalance[-1], expected=0.359463171, within=1e-9),
        gf.Claim("dissipation", "L(0) - L(T) = int rho'^2 + sum |V_k'|^2 dt under the normalised flow",
                 abs(fall - gf.measure.dissipation(lm)), below=1e-9),
        gf.Claim("fall", "the loss falls by 0.7934497 to t = 50 from rho = 0.1", fall, expected=0.7934497, within=1e-6),
    ]  # fmt: skip


@PAPER.figure(minutes=0.1, claims=6, small={"runs": ((0.1, 1.0), (0.1, 3.0), (0.01, 0.1))})
def relu_reference(runs=((0.1, 0.1), (0.1, 1.0), (0.1, 3.0), (0.01, 0.1), (0.01, 1.0)), t_end=300.0):
    """Scale rho(t) of a two-layer ReLU network 4-12-1 on orthogonally separable samples under the normalised flow.

    Dashed: |w_+| + |w_-| of the convex problem that has the same minimum, which is derived here.
    """
    inputs = np.abs(np.random.default_rng(0).standard_normal((10, 4)))
    y = np.repeat([1.0, -1.0], 5)[:, None]
    x = y * inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    problem = gf.Problem(gf.FullyConnected([4, 12, 1]), gf.losses.Square(), x, y)
    fig, ax = gf.plots.subplots()
    optimum = {decay: gf.exact.separable_relu(x, y, decay) for decay in sorted({decay for decay, _ in runs})}
    ends, losses, third = [], [], []
    shades = dict(gf.plots.coloured(optimum, gf.LMFlow()))
    for decay, rho in runs:
        run = gf.simulate(problem, start(problem, rho), gf.LMFlow(decay), t_end=t_end, save_at="log")
        ends.append(run.records["rho"][-1] - optimum[decay].rho)
        losses.append(run.loss[-1] - optimum[decay].loss)
        third.append(gf.measure.singular_values(problem, run.end, "W1")[2])
        ax.loglog(run.t[1:], run.records["rho"][1:], color=shades[decay])
    for decay in optimum:
        ax.plot([], [], color=shades[decay], label=rf"$\lambda = {decay:g}$")
        gf.plots.reference(ax, optimum[decay].rho)
    ax.set(xlabel=r"time $t$", ylabel=r"$\rho(t)$")
    return fig, {"run": ("run", [f"{decay:g}, {rho:g}" for decay, rho in runs]), "excess_rho": ("run", ends)}, [
        gf.Claim("relu_convex_reference", "rho ends at |w_+| + |w_-|", np.abs(ends), below=1e-4),
        gf.Claim("relu_loss", "and the loss at the convex minimum", np.abs(losses), below=1e-4),
        gf.Claim("relu_rho", "which is 1.504590 at lambda = 0.1", optimum[0.1].rho, expected=1.504590, within=1e-5),
        gf.Claim("relu_minimum", "and 0.349339", optimum[0.1].loss, expected=0.349339, within=1e-6),
        gf.Claim("relu_weak_decay", "lambda = 0.01: 2.198229", optimum[0.01].rho, expected=2.198229, within=1e-5),
        gf.Claim("relu_rank", "the first layer has rank two: sigma_3", third, below=1e-4),
    ]  # fmt: skip


@PAPER.figure(minutes=2, claims=8, small={"batch": 50, "flows": ((1e-2, 1.0),)})
def digits(
    radii=(1.0, 30.0), decays=(0.0, 1e-2), flows=((0.0, 1.0), (1e-2, 1.0), (1e-2, 30.0)), n=200, width=20, step=0.01,
    batch=20, t_end=200.0, seed=0,
):  # fmt: skip
    """Handwritten 3 and 5 (200 images of 14 x 14 pixels of norm one), ReLU 196-20-1, normalised layers.

    Left: rho(t) by full-batch (full) and stochastic (dotted) normalised descent from two starts, and by the normalised
    flow through its kinks (black, dashed; without decay from the small start only). Middle: normalised margins at the
    end from the large start. Right: collapse of the features (NC1, NC3, NC4; NC2 is 0 for two classes).
    """
    x, y = gf.data.mnist(classes=(3, 5), n=n, pool=2, seed=seed)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    problem = gf.Problem(gf.FullyConnected([x.shape[1], width, 1]), gf.losses.Square(), x, y)
    fig, axes = gf.plots.subplots(1, 3)
    ends, margins, collapse = {}, {}, {}
    bins, measures = np.linspace(-0.06, 0.28, 35), (gf.measure.nc1, gf.measure.nc3, gf.measure.nc4)
    for decay, colour in zip(decays, ("#D55E00", "#009E73"), strict=True):
        name, lm = rf"$\lambda = {decay:g}$", gf.LMFlow(decay)
        for rho in radii:
            full, noisy = gf.GD(step, flow=lm), gf.SGD(step, flow=lm, batch_size=batch, seed=2)
            rules = {"full": (full, "-", colour), "batch": (noisy, ":", colour)}
            rules |= {"flow": (lm, "--", "k")} if (decay, rho) in flows else {}
            for kind, (rule, dashes, shade) in rules.items():
                run = gf.simulate(problem, start(problem, rho), rule, t_end=t_end, save_at="log", rtol=1e-6)
                label = name if kind == "full" and rho == radii[0] else None
                axes[0].loglog(run.t[1:], run.records["rho"][1:], dashes, color=shade, label=label)
                ends[decay, rho, kind] = run
            run = ends[decay, rho, "full"]
            margins[decay, rho] = gf.measure.margins(problem, run.end) / run.records["rho"][-1]
            collapse[decay, rho] = [measure(problem, run.end) for measure in measures]
        axes[1].hist(margins[decay, radii[-1]], bins=bins, color=colour, alpha=0.6, label=name)
        axes[2].plot([1, 3, 4], collapse[decay, radii[-1]], "o", color=colour, label=name)
    axes[0].set(xlabel=r"time $t = k h$", ylabel=r"$\rho$", xlim=(1e-2, 1.5 * t_end))
    axes[1].set(xlabel=r"normalised margin $y f_V(x)$", ylabel="images", yscale="log")
    axes[2].set(xticks=[1, 3, 4], xticklabels=["NC1", "NC3", "NC4"], ylabel="distance from collapse", xlim=(0.5, 4.5))
    data = {"margin": (("decay", "rho0", "image"), [[margins[d, r] for r in radii] for d in decays])}
    final = {key: run.records["rho"][-1] for key, run in ends.items()}
    merged, noisy = (np.array([final[decays[-1], rho, kind] for rho in radii]) for kind in ("full", "batch"))
    moments = [(f.mean(), (f**2).mean()) for f in (margins[decays[-1], rho] for rho in radii)]
    free, decayed = (np.median(margins[decay, radii[-1]]) for decay in decays)
    flow, descent = ([ends[*key, kind] for key in flows] for kind in ("flow", "full"))
    near = [
        np.linalg.norm(a.end - b.end) / np.linalg.norm(a.end)
        for a, b, (_, rho) in zip(flow, descent, flows, strict=True) if rho == radii[0]
    ]  # fmt: skip
    return fig, data | {"decay": ("decay", list(decays)), "rho0": ("rho0", list(radii))}, [
        gf.Claim("forgetting", "with decay the final rho does not depend on the start, relative spread",
                 np.ptp(merged) / merged[0], below=1e-2),
        gf.Claim("memory", "without decay rho = 30 stays", final[0.0, radii[-1], "full"], above=30.0, below=30.1),
        gf.Claim("equilibrium", "with decay rho = M/(Q + lambda) at the end, relative",
                 [rho * (q + decays[-1]) / m - 1 for rho, (m, q) in zip(merged, moments, strict=True)],
                 above=-5e-3, below=5e-3),
        gf.Claim("larger_margin", "from the large start decay multiplies the median margin", decayed / free, above=3),
        gf.Claim("collapse", "and brings NC1 down", collapse[decays[-1], radii[-1]][0] / collapse[0.0, radii[-1]][0],
                 below=0.5),
        gf.Claim("sgd", "stochastic descent ends at the same rho, relative", abs(noisy / merged - 1), below=2e-2),
        gf.Claim("flow", "the flow through the kinks ends at that rho too, relative",
                 [abs(final[*key, "flow"] / final[*key, "full"] - 1) for key in flows], below=1e-4),
        gf.Claim("flow_path", "from rho = 1 descent ends near the flow: |theta - theta_flow|/|theta_flow|", near,
                 below=5e-3),
    ]  # fmt: skip
