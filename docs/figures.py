"""Pictures of the documentation: run ``python docs/figures.py`` to draw them anew into docs/figures/."""

from pathlib import Path

import numpy as np

import gradflow as gf

FOLDER = Path(__file__).parent / "figures"
HALF_SUM = gf.losses.Square("sum", half=True)


def sliding_neuron():
    """One relu neuron whose pre-activation reaches zero on a sample and stays there; gradient descent chatters."""
    problem = gf.Problem(gf.FullyConnected([2, 1, 1]), HALF_SUM, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    start = np.array([0.4, -0.1, 0.3 / np.sqrt(2)])
    flow = gf.simulate(problem, start, gf.GradientFlow(), t_end=2.0, save_at=400)
    descent = gf.simulate(problem, start, gf.GD(0.01), t_end=2.0, save_at="steps")
    figure, axes = gf.plots.subplots(1, 2, figsize=(8.6, 3.1))
    for run, look in ((descent, {"color": "#D55E00", "lw": 0.8, "label": "GD, $h = 0.01$"}),
                      (flow, {"color": "black", "label": "gradient flow"})):  # fmt: skip
        axes[0].plot(run.t, run.theta[:, 1], **look)
        axes[1].plot(run.theta[:, 0], run.theta[:, 1], **look)
    time = flow.kinks.events["time"][0]
    axes[0].axvline(time, color="0.6", ls=":", label=f"slides from $t = {time:.4f}$")
    axes[0].set(xlabel="time $t$", ylabel="pre-activation on sample 2", ylim=(-0.12, 0.03))
    axes[1].set(xlabel="$w_1$", ylabel="$w_2$", ylim=(-0.12, 0.03))
    axes[0].legend(loc="lower right")
    return figure


def branch_fan():
    """A sliding kink that turns into a ridge: three continuations of the flow, and where gradient descents go."""
    x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    problem = gf.Problem(gf.FullyConnected([2, 1, 1]), HALF_SUM, x, y)
    start = np.array([1.0, 0.0, 0.3])
    rng = np.random.default_rng(0)
    starts = start + 1e-3 * rng.uniform(-1.0, 1.0, (4000, 3))
    descents = gf.simulate(problem, starts, gf.GD(1e-3), t_end=2.0, save_at=80)
    stay = gf.simulate(problem, start, gf.GradientFlow(), t_end=2.0, at_branch="stay")
    paths = gf.branches(gf.simulate(problem, start, gf.GradientFlow(), t_end=2.0))
    figure, ax = gf.plots.subplots()
    ax.plot(descents.t, descents.theta[:200, :, 1].T, color="#D55E00", lw=0.5, alpha=0.4, zorder=5)
    active = (descents.end[:, 1] > 0).mean()
    ax.plot(stay.t, stay.theta[:, 1], color="0.5", ls="--", label="flow, staying on the ridge")
    for (share, path), name in zip(paths, ("active", "inactive"), strict=True):
        measured = active if name == "active" else 1 - active
        label = f"flow, {name} side: share {share:.2f}; of 4,000 GD runs {measured:.2f}"
        colour = "black" if name == "active" else "#0072B2"
        ax.plot(path.t, path.theta[:, 1], color=colour, lw=4, alpha=0.5, label=label)
    ax.plot([], [], color="#D55E00", lw=0.8, label="GD, $h = 0.001$ (200 of the runs)")
    ax.set(xlabel="time $t$", ylabel="pre-activation on sample 2")
    figure.legend(loc="outside upper center")
    return figure


def digits_kinks():
    """Kinks of a relu network on real digits."""
    x, y = gf.data.digits(classes=(0, 1), n=60, seed=0)
    problem = gf.Problem(gf.FullyConnected([64, 12, 1]), gf.losses.Square(), x, y)
    run = gf.simulate(problem, problem.init(0.5), gf.GradientFlow(), t_end=20.0, rtol=1e-7)
    return gf.plots.kinks(run)[0]


def four_clocks():
    """One run of a deep linear net on separable data against t, log t, s and log(1 + s)."""
    x, y = gf.data.separable(n=20, d=4, margin=0.3, seed=0)
    problem = gf.Problem(gf.DeepLinear([4, 6, 1]), gf.losses.Exponential(), x, y)
    stop, places = gf.LossBelow(log10=-1000), gf.at(s=np.expm1(np.linspace(0.0, np.log(2300.0), 300))[1:])
    run = gf.simulate(problem, problem.init(0.5, seed=0), gf.GradientFlow(), stop=stop, save_at=places)
    margin = run.measure(lambda problem, theta: gf.measure.normalised_margin(problem, theta, by="theta"))
    limit = margin[-1]
    figure, axes = gf.plots.subplots(2, 4, figsize=(11.0, 4.6), sharex="col", sharey="row")
    variables = (
        (run.t, "time $t$", (0.0, 60.0)),
        (run.log10_t, r"$\log_{10} t$", (-1.0, 1000.0)),
        (run.s, r"$s = \log(L_0/L)$", None),
        (np.log1p(run.s), r"$\log(1 + s)$", None),
    )
    colour = gf.plots.colours(gf.GradientFlow())
    for (top, bottom), (values, label, limits) in zip(axes.T, variables, strict=True):
        shown = np.isfinite(values)
        top.plot(values[shown], run.log10_loss[shown], color=colour)
        bottom.plot(values[shown], margin[shown] / limit, color=colour)
        bottom.set(xlabel=label, xlim=limits)
    axes[0, 0].set_ylabel(r"$\log_{10} L$")
    axes[1, 0].set(ylabel="margin / its end", ylim=(-0.1, 1.1))
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for draw in (sliding_neuron, branch_fan, digits_kinks, four_clocks):
        draw().savefig(FOLDER / f"{draw.__name__}.png", dpi=110)
