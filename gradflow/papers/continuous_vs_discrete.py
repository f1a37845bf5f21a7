"""O. Elkabetz, N. Cohen: Continuous vs. Discrete Optimization of Deep Neural Networks. 2021, arXiv 2107.06608. Gradient
descent is Euler's method for the gradient flow, and on deep networks it stays near the flow although the loss is not
convex. Deep linear networks are held against a closed form, the leading-order error and a step-by-step bound, all
derived here; networks on clouds and digits against the flow itself, with ReLU through its kinks.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
BRANCHING = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]]), np.array([0.3, -2.0, -1.0])


@PAPER.figure(minutes=0.3, claims=9)
def certificates(steps=(0.05, 0.025, 0.0125, 0.00625), horizons=(8.0, 14.0)):
    """Deep linear networks of depth two and three, balanced start near zero: distance of descent to the flow. Right,
    depth two: norm and alignment of the map with their closed forms (crosses), least eigenvalue of the Hessian.
    """
    x, teacher = np.sqrt(6) * np.eye(6), gf.data.unit_inputs(1, 6, seed=0)[0]  # white inputs
    look = {"ylim": [(1e-5, 1), (1e-5, 1), None], "xlabel": "time $t$, depth 2", "figsize": (12.9, 3.9)}
    fig, axes = gf.plots.subplots(1, 3, **look)

    def measured(depth):
        problem = gf.Problem(gf.DeepLinear([6] + [4] * (depth - 1) + [1]), gf.losses.Square(half=True), x, x @ teacher)
        theta0, times = problem.init(0.05, seed=1, scheme="balanced"), np.linspace(0, horizons[depth - 2], 41)
        tight = {"solver": "dop853", "rtol": 1e-12, "atol": 1e-14, "save_at": times}
        flow = gf.simulate(problem, theta0, gf.GradientFlow(), times[-1], **tight)
        gaps = gf.compare(flow, [gf.simulate(problem, theta0, gf.GD(h), times[-1], save_at=times) for h in steps])
        gf.plots.gap(gaps, axes[depth - 2], bounds=True).set_xlabel(f"time $t$, depth {depth}")
        ratios = [bound.distance[1:] / bound.bound[1:] for bound in map(gaps.bound, range(len(steps)))]
        lowest = gf.measure.smallest_eigenvalue(problem, flow.theta)
        above = lowest - gf.measure.smallest_eigenvalue_bound(problem, flow.theta)
        found = {"t": times, "w": gf.measure.effective_map(problem, flow.theta)[:, 0], "lowest": lowest, "above": above}
        found |= {"e1": gaps.prediction_error, "certificate": [ratio.max() for ratio in ratios]}
        return found | {"distance": [distance[::2].max() for distance in gaps.distance]}  # at twenty times

    runs = gf.sweep(measured, depth=(2, 3))
    w, t, lowest = runs.w[0].values, runs.t[0].values, runs.lowest[0]
    drawn = np.array([np.linalg.norm(w, axis=1), w @ teacher / np.linalg.norm(w, axis=1)])
    exact = gf.exact.two_layer_scalar_output(t, *drawn[:, 0])
    gf.plots.lines(axes[2], [*drawn, lowest], t, label=[r"norm $r$", r"alignment $c$", r"$\lambda_{\min}$"])
    gf.plots.lines(axes[2], np.array(exact)[:, ::2], t[::2], color="k", marker="x", markersize=4, linestyle="")
    beside = runs.distance / PAPER.independent("distance").values
    exactly = lowest + np.linalg.norm(w - teacher, axis=1)
    return fig, runs, [
        gf.Claim("closed_form_n2", "r, c equal the closed form", np.abs(exact - drawn), below=1e-12),
        gf.Claim.halves("first_order", "halving h halves the distance", runs.distance[:, 1:], within=0.05),
        gf.Claim("distances", "those of an independent solver", abs(beside - 1), below=2e-3),
        gf.Claim("e1_limit", "h = 0.0125: |(theta_{t/h} - theta(t))/h - e_1|/|e_1|, over 0.011 and 0.014 (depth 3)",
                 runs.e1[:, 2] / [0.011, 0.014], below=1),
        gf.Claim.halves("e1_halves", "it halves with h", runs.e1, within=0.15),
        gf.Claim("certificate", "the distance is below the bound B at every step", runs.certificate, below=1 + 1e-6),
        gf.Claim("tight", "and h = 0.05 comes within 1.2 of it", 1 / runs.certificate[:, 0], below=1.2),
        gf.Claim("hessian_bound", "lambda_min >= -(n-1)|grad phi| max prod |W_i|", runs.above, above=-1e-10),
        gf.Claim("hessian_exact", "depth 2: lambda_min = -|w - teacher|", abs(exactly), below=1e-14)]  # fmt: skip


def linear_and_relu(widths, x, y, steps, t_end, **options):
    """Figure; of both: distances to descent with the first step, way gone, loss at the end; and the flow compared."""
    panels, labels = ["linear"] * 2 + ["ReLU"] * 2, ["training loss", f"distance to GD, $h = {steps[0]:g}$"] * 2
    scales = {"xlabel": "time $t = k h$", "yscale": ["log", "linear"] * 2}
    fig, axes = gf.plots.subplots(2, 2, title=panels, ylabel=labels, **scales)
    times, apart, ends = np.linspace(0, t_end, 51), [], []
    nested = {"dynamics": gf.GD(1.0), "linewidth": np.linspace(5, 1, len(steps)).tolist()}
    for activation, row in zip(("linear", "relu"), axes, strict=True):
        problem = gf.Problem(gf.FullyConnected(widths, activation), gf.losses.CrossEntropy(), x, y)
        theta0 = problem.init(seed=1, scheme="xavier")
        runs = [gf.simulate(problem, theta0, gf.GD(h), t_end, save_at=times) for h in steps]
        apart.append(np.linalg.norm([run.theta - runs[0].theta for run in runs], axis=-1))
        gf.plots.lines(row[0], [run.loss for run in runs], times, steps, label="GD, $h = {:g}$", **nested)
        gf.plots.lines(row[1], apart[-1], times, steps, **nested)
        shown, way = runs[0], np.linalg.norm(runs[0].theta - theta0, axis=1)
        gf.plots.lines(row[1], way, times, color="0.5", label="of its start")
        if activation == "linear":
            shown = gf.simulate(problem, theta0, gf.GradientFlow(), t_end, rtol=1e-9, **options)
            gaps = gf.compare(shown, runs)
            gf.plots.lines(row[1], gaps.distance[0], times, color="k", linestyle="--", label="of the flow")
        ends.append((np.linalg.norm(shown.end - theta0), shown.loss[-1]))
    return fig, apart, *np.transpose(ends), gaps


@PAPER.figure(minutes=0.1, claims=5, small={"ratios": (1, 2, 5)})
def clouds(ratios=(1, 2, 5, 10, 20), step=0.05, t_end=50.0):
    """Four Gaussian clouds, widths 16-12-12-4, cross-entropy: loss, and distances to descent with the largest step."""
    ratios, data, tight = np.array(ratios), gf.data.clouds(60, 16, classes=4), {"solver": "dop853", "atol": 1e-11}
    fig, apart, ways, losses, gaps = linear_and_relu([16, 12, 12, 4], *data, step / ratios, t_end, **tight)
    scaled = np.array([apart[0][1:, -1], apart[1][1:].max(1)]) / (1 - 1 / ratios[1:])
    linear, relu = np.ptp(scaled, axis=1) / scaled.mean(1)
    return fig, [
        gf.Claim("richardson", "linear: |theta^h - theta^{h/r}|/(1 - 1/r) at the end, spread", linear, below=5e-4),
        gf.Claim("richardson_relu", "ReLU: its largest value over time, spread over r", relu, below=3e-2),
        gf.Claim("flow_distance", "linear: from flow to GD", gaps.final_distance[0], expected=0.007118, within=1e-6),
        gf.Claim("far_from_start", "ways gone", ways, expected=[4.436, 5.497], within=5e-4),
        gf.Claim("losses", "losses at the end", losses, expected=[0.00604, 0.00798], within=1e-5)]  # fmt: skip


@PAPER.figure(minutes=4, claims=4, small={"steps": (0.001, 0.005)})
def digits(n=1000, width=50, steps=(0.001, 0.0005, 0.002, 0.005), t_end=10.0, seed=0):
    """MNIST digits, standardised, 784-50-50-10, cross-entropy; the paper's step is 0.001. Curves of a loss coincide."""
    x, y = gf.data.mnist(n=n, seed=seed)
    fig, apart, ways, losses, gaps = linear_and_relu([784, width, width, 10], (x - 0.1307) / 0.3081, y, steps, t_end)
    return fig, [
        gf.Claim("on_the_axis", "distances, below what is read off the paper's figure", apart, below=0.05),
        gf.Claim("first_order", "linear: order of the distance", gaps.overall_order["GD"], expected=1, within=0.05),
        gf.Claim("ways", "ways gone, as in the paper's figure", ways, expected=[2.6, 3.0], within=0.2),
        gf.Claim("losses", "and the losses at the end", losses, expected=[0.08, 0.1], within=0.03)]  # fmt: skip


@PAPER.figure(minutes=1, claims=6, small={"steps": (0.02, 0.0025)})
def through_kinks(n=200, width=20, steps=(0.02, 0.01, 0.005, 0.0025, 0.00125), seed=0):
    """ReLU networks beside their flow through kinks: clouds, digits (196-20-20-10), one neuron whose flow branches."""
    clouds, mnist = gf.data.clouds(60, 16, classes=4, seed=0), gf.data.mnist(n=n, pool=2, seed=seed)
    loss, square = gf.losses.CrossEntropy(), gf.losses.Square("sum", half=True)
    cases = {
        "four clouds": (gf.Problem(gf.FullyConnected([16, 12, 12, 4]), loss, *clouds), 50.0),
        "digits": (gf.Problem(gf.FullyConnected([196, width, width, 10]), loss, *mnist), 10.0),
        "one neuron": (gf.Problem(gf.FullyConnected([2, 1, 1]), square, *BRANCHING), 2.0)}  # fmt: skip
    (fig, axes), gaps = gf.plots.subplots(2, 3, title=[*cases, "", "", ""]), []
    for (name, (problem, t_end)), column in zip(cases.items(), axes.T, strict=True):
        start = [1.0, 0.0, 0.3] if name == "one neuron" else problem.init(seed=1, scheme="xavier")
        flow = gf.simulate(problem, start, gf.GradientFlow(), t_end, rtol=1e-6)
        runs = [gf.simulate(problem, start, gf.GD(h), t_end, save_at=np.linspace(0, t_end, 51)) for h in steps]
        gaps.append(gf.compare(flow, runs))
        gf.plots.gap(gaps[-1], column[0], predicted=False)
        gf.plots.order(gaps[-1], column[1])
    *followed, branching = gaps
    crossed = [np.sum(gap.flow.kinks.events["kind"] == "cross") for gap in followed]
    unique = [gap.flow.status == gf.Status.REACHED_END and np.isinf(gap.unique_until) for gap in followed]
    near = [gap.max_distance / np.linalg.norm(gap.flow.end - gap.flow.theta[0]) for gap in followed]
    orders = [gap.overall_order["GD"] for gap in gaps]
    other = gf.simulate(problem, start, gf.GradientFlow(), t_end, rtol=1e-6, at_branch="inactive")
    sides = branching.final_distance, gf.compare(other, branching.runs).final_distance
    return fig, [
        gf.Claim("reached", "the flows of clouds and digits reach their ends and do not branch", unique),
        gf.Claim("kinks", "on the way they cross kinks, at least", crossed, above=400),
        gf.Claim("near", "largest distance over the way gone, paper: 0.05/3.0", near, below=0.05 / 3),
        gf.Claim("first_order", "order in h, of the one neuron up to the branch", orders, expected=1, within=0.15),
        gf.Claim("sides", "then each run follows one of two flows: distance / h", np.min(sides, 0) / steps, below=0.5),
        gf.Claim("parted", "and not all the same one: furthest from the other", sides[0].max(), above=0.5)]  # fmt: skip
