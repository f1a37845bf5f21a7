"""O. Elkabetz, N. Cohen: Continuous vs. Discrete Optimization of Deep Neural Networks. 2021, arXiv 2107.06608.

Gradient descent is Euler's method for the gradient flow, and on deep networks it stays near the flow although the loss
is not convex. Deep linear networks are held against a closed form, the leading-order error and a step-by-step bound;
networks on clouds and on handwritten digits against the flow itself, or against descent with smaller steps as in the
paper. The bound, the leading order and the closed form are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
DISTANCE = [(0.01939, 0.009743, 0.004882, 0.002444), (0.02858, 0.01420, 0.007072, 0.003529)]  # depths 2 and 3


def near_zero(depth, t_end):
    """Flow of a deep linear network 6-4-(4-)1 on white inputs from a small balanced start, and its teacher."""
    teacher, x = np.random.default_rng(0).standard_normal(6), np.sqrt(6) * np.eye(6)
    teacher /= np.linalg.norm(teacher)
    network, tight = gf.DeepLinear([6] + [4] * (depth - 1) + [1]), {"solver": "dop853", "rtol": 1e-12, "atol": 1e-14}
    problem = gf.Problem(network, gf.losses.Square(half=True), x, x @ teacher)
    theta0 = problem.init(0.05, seed=1, scheme="balanced")
    return gf.simulate(problem, theta0, gf.GradientFlow(), t_end, save_at=21, **tight), teacher


def descend(problem, theta0, steps, t_end, save_at=200):
    """Gradient descent with several steps."""
    return [gf.simulate(problem, theta0, gf.GD(h), t_end=t_end, save_at=save_at) for h in steps]


@PAPER.figure(minutes=0.3, claims=11, small={"certified": (0.05,)})
def certificates(steps=(0.05, 0.025, 0.0125, 0.00625), certified=(0.1, 0.05, 0.0125), horizons=(8.0, 14.0)):
    """Deep linear networks, balanced start near zero: distance of gradient descent to the flow, its leading order
    h|e_1| (dotted) and the a-posteriori bound (dashed). Right: norm and alignment of the end-to-end map of depth two,
    with the closed form (crosses), and the smallest eigenvalue of the Hessian, which is -|w - teacher| there.
    """
    fig, axes = gf.plots.subplots(1, 3, ylim=[(1e-5, 1), (1e-5, 1), None])

    def measured(depth):
        flow, _ = near_zero(depth, horizons[depth - 2])
        problem, theta0 = flow.problem, flow.theta[0]
        found = gf.compare(flow, descend(problem, theta0, steps, flow.t_end, flow.t))
        bounded = gf.compare(flow, descend(problem, theta0, certified, flow.t_end))
        gf.plots.gap(bounded, axes[depth - 2], bounds=True)
        pairs = zip(steps, found.difference, found.leading_error, strict=True)
        missed = [(np.linalg.norm(d / h - e, axis=1)[1:] / np.linalg.norm(e, axis=1)[1:]).max() for h, d, e in pairs]
        ratio = [bound.distance[1:] / bound.bound[1:] for bound in map(bounded.bound, range(len(certified)))]
        lowest = gf.measure.smallest_eigenvalue(problem, flow.theta)
        above = lowest - gf.measure.smallest_eigenvalue_bound(problem, flow.theta)
        largest = {"h": ("h", steps), "distance": ("h", found.max_distance), "leading_order_gap": ("h", missed)}
        bound = {"certificate": [r.max() for r in ratio], "tight": 1 / ratio[certified.index(0.05)].max()}
        return {"lowest": lowest, "above_bound": above} | largest | bound

    runs, (flow, teacher) = gf.sweep(measured, depth=(2, 3)), near_zero(2, horizons[0])
    w, e1 = gf.measure.effective_map(flow.problem, flow.theta)[:, 0], runs.leading_order_gap
    norm = np.linalg.norm(w, axis=1)
    cosine, away = w @ teacher / norm, np.linalg.norm(w - teacher, axis=1)
    exact = gf.exact.two_layer_scalar_output(flow.t, norm[0], cosine[0])
    names = [r"norm $r$", r"alignment $c$", r"$\lambda_{\min}$"]
    gf.plots.lines(axes[2], [norm, cosine, runs.lowest[0]], flow.t, label=names)
    gf.plots.lines(axes[2], exact, flow.t, color="k", marker="x", markersize=4, linestyle="")
    for ax, depth in zip(axes, (2, 3, 2), strict=True):
        ax.set_xlabel(f"time $t$, depth {depth}")
    return fig, runs, [
        gf.Claim("closed_form_n2", "r, c equal the closed form", np.abs(exact - np.array([norm, cosine])), below=1e-9),
        gf.Claim.halves("first_order", "halving h halves the distance, depth 2", runs.distance[0, 1:], within=0.05),
        gf.Claim.halves("first_order_n3", "and depth 3", runs.distance[1, 1:], within=0.05),
        gf.Claim("distances", "those of an independent solver", abs(runs.distance / DISTANCE - 1), below=2e-3),
        gf.Claim("e1_limit", "(theta_{t/h} - theta(t))/h tends to e_1, depth 2, h = 0.0125", e1[0, 2], below=0.011),
        gf.Claim("e1_limit_n3", "depth 3", e1[1, 2], below=0.014),
        gf.Claim.halves("e1_halves", "and the difference to e_1 halves with h", e1, within=0.15),
        gf.Claim("certificate", "the distance is below the bound B at every step", runs.certificate, below=1 + 1e-6),
        gf.Claim("tight", "h = 0.05: B comes within 1.2 of the distance", runs.tight, below=1.2),
        gf.Claim("hessian_bound", "lambda_min >= -(n-1)|grad phi| max prod |W_i|", runs.above_bound, above=-1e-10),
        gf.Claim("hessian_exact", "depth 2: lambda_min = -|w - teacher|", abs(runs.lowest[0] + away), below=1e-9),
    ]  # fmt: skip


def linear_and_relu(widths, x, y, step, ratios, t_end, **options):
    """Descent with step/r on a linear and a ReLU network at equal times, and the flow of the linear one; all drawn.

    Returns the figure; loss at the end, distances of descent with step/r from that with step, and way gone, for both
    networks; the flow and its comparison with the runs.
    """
    fig, axes = gf.plots.subplots(
        2, 2, title=["linear", "linear", "relu", "relu"], xlabel="time $t$", yscale=["log", "linear"] * 2,
        ylabel=["training loss", r"distance to GD with $\eta_0$"] * 2)  # fmt: skip
    times, found = np.linspace(0, t_end, 51), {}
    for activation, row in zip(("relu", "linear"), axes[::-1], strict=True):
        problem = gf.Problem(gf.FullyConnected(widths, activation), gf.losses.CrossEntropy(), x, y)
        theta0 = problem.init(seed=1, scheme="xavier")
        runs = descend(problem, theta0, [step / r for r in ratios], t_end, times)
        apart = np.linalg.norm([run.theta - runs[0].theta for run in runs], axis=-1)
        way = np.linalg.norm(runs[0].theta - theta0, axis=1)
        losses = [run.loss for run in runs]
        gf.plots.lines(row[0], losses, times, ratios, label=r"GD, $\eta_0/{}$", dynamics=gf.GD(step))
        gf.plots.lines(row[1], apart, times, ratios, dynamics=gf.GD(step))
        gf.plots.lines(row[1], way, times, color="0.5", label="distance from start")
        found[activation] = losses[0][-1], apart, way[-1]
    flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=t_end, rtol=1e-9, **options)
    gaps = gf.compare(flow, runs)
    gf.plots.lines(axes[0, 1], gaps.distance[0], gaps.t[0], color="k", linestyle="--", label="GD to the flow")
    return fig, *zip(found["linear"], found["relu"], strict=True), flow, gaps


@PAPER.figure(minutes=0.3, claims=6, small={"ratios": (1, 2, 5)})
def clouds(ratios=(1, 2, 5, 10, 20), step=0.05, t_end=50.0):
    """Four Gaussian clouds, widths 16-12-12-4, cross-entropy: loss and distances of descent with several steps. Above
    the linear network, with the distance to the flow itself; below ReLU, where smaller steps stand for it.
    """
    rng, y = np.random.default_rng(0), np.arange(60) % 4
    x = (rng.standard_normal((4, 16))[y] + rng.standard_normal((60, 16))) / 4
    fig, losses, (linear, relu), _, flow, gaps = linear_and_relu(
        [16, 12, 12, 4], x, y, step, ratios, t_end, atol=1e-11, solver="dop853"
    )
    factor, way = 1 - 1 / np.array(ratios[1:]), np.linalg.norm(flow.end - flow.theta[0])
    linear, relu = (np.ptp(v) / v.mean() for v in (linear[1:, -1] / factor, relu[1:].max(1) / factor))
    return fig, gf.plots.drawn(fig), [
        gf.Claim("richardson", "linear: |theta^h - theta^{h/r}|/(1 - 1/r) at the end, spread", linear, below=2e-3),
        gf.Claim("richardson_relu", "ReLU: its largest value over time, spread over r", relu, below=3e-2),
        gf.Claim("flow_distance", "linear: from flow to GD", gaps.final_distance[0], expected=0.007118, within=1e-5),
        gf.Claim("far_from_start", "while the flow went", way, expected=4.436, within=2e-3),
        gf.Claim("loss_linear", "loss of the linear network at the end", flow.loss[-1], expected=0.00604, within=1e-5),
        gf.Claim("loss_relu", "loss of the ReLU network at the end", losses[1], expected=0.00798, within=2e-5),
    ]  # fmt: skip


@PAPER.figure(minutes=4, claims=5, small={"ratios": (1, 2)})
def digits(n=1000, width=50, ratios=(1, 2, 5, 20), step=0.005, t_end=10.0, seed=0):
    """MNIST digits, standardised, widths 784-50-50-10, cross-entropy, to the paper's time with five times its step: its
    own step 0.001 takes ten minutes and was not run. Above the linear network with the distance to the true flow,
    which the paper did not integrate; below ReLU, against descent with smaller steps as in the paper. All curves of one
    loss coincide; the distances lie near the axis.
    """
    x, y = gf.data.mnist(n=n, seed=seed)
    fig, losses, apart, ways, _, gaps = linear_and_relu(
        [784, width, width, 10], (x - 0.1307) / 0.3081, y, step, ratios, t_end
    )
    scaled = gaps.final_distance * np.array(ratios)
    spread = np.ptp(scaled) / scaled.mean()
    return fig, gf.plots.drawn(fig), [
        gf.Claim("on_the_axis", "linear: distances, below what is read off the paper's figure", apart[0], below=0.05),
        gf.Claim("on_the_axis_relu", "and with ReLU", apart[1], below=0.05),
        gf.Claim("first_order", "linear: distance to the flow over the step, spread", spread, below=0.1),
        gf.Claim("ways", "ways gone, as in the paper's figure", ways, expected=[2.6, 3.0], within=0.2),
        gf.Claim("losses", "and the losses at the end", losses, expected=[0.08, 0.1], within=0.03),
    ]  # fmt: skip


@PAPER.figure(minutes=2, claims=3, small={"steps": (0.02, 0.01), "t_end": 2.0})
def digits_through_kinks(n=200, width=20, steps=(0.02, 0.01, 0.005, 0.0025), t_end=10.0, seed=0):
    """Two hundred digits of 14 x 14 pixels, ReLU 196-20-20-10: distance of descent to the true flow through its kinks,
    followed as a differential inclusion; grey: distance of the flow from its start.
    """
    x, y = gf.data.mnist(n=n, pool=2, seed=seed)
    problem = gf.Problem(gf.FullyConnected([196, width, width, 10]), gf.losses.CrossEntropy(), x, y)
    theta0, times = problem.init(seed=1, scheme="xavier"), np.linspace(0, t_end, 51)
    flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=t_end, kinks="follow", rtol=1e-6, save_at=times)
    runs = descend(problem, theta0, steps, t_end, times)
    apart = np.linalg.norm([run.theta - flow.theta for run in runs], axis=-1)
    gone, largest = np.linalg.norm(flow.theta - theta0, axis=1), apart.max(1)
    fig, ax = gf.plots.subplots(xlabel=r"time $t = k h$", ylabel="distance", yscale="log", ylim=(1e-6, 20))
    gf.plots.lines(ax, apart, times, steps, label="GD, $h = {:g}$", dynamics=gf.GD(1.0))
    gf.plots.lines(ax, gone, times, color="0.6", label="flow from its start")
    return fig, gf.plots.drawn(fig), [
        gf.Claim("reached", "the flow through the kinks reaches its end", flow.status == gf.Status.REACHED_END),
        gf.Claim("near", "largest distance over the way gone, paper: 0.05/3.0", largest / gone[-1], below=0.05 / 3),
        gf.Claim("nearer", "smaller steps stay nearer: ratio of distances", largest[1:] / largest[:-1], below=0.8),
    ]  # fmt: skip
