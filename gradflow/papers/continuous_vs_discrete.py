"""O. Elkabetz, N. Cohen: Continuous vs. Discrete Optimization of Deep Neural Networks. 2021, arXiv 2107.06608.

Gradient descent is Euler's method for the gradient flow, and on deep networks it stays near the flow although the loss
is not convex. Deep linear networks are held against a closed form, the leading-order error and a step-by-step bound;
networks on clouds and on handwritten digits against the flow itself, or against descent with smaller steps as in the
paper. The bound, the leading order and the closed form are derived here.
"""

import numpy as np

import gradflow as gf

PAPER = gf.Paper.cited(__name__, __doc__)
DISTANCE = {2: (0.01939, 0.009743, 0.004882, 0.002444), 3: (0.02858, 0.01420, 0.007072, 0.003529)}
HORIZON = {2: 8.0, 3: 14.0}


def whitened(depth):
    """Deep linear network 6-4-(4-)1 on white inputs with a teacher of norm one: F = |w - teacher|^2 / 2."""
    teacher = np.random.default_rng(0).standard_normal(6)
    x = np.sqrt(6) * np.eye(6)
    widths = [6] + [4] * (depth - 1) + [1]
    square = gf.losses.Square(half=True)
    return gf.Problem(gf.DeepLinear(widths), square, x, x @ teacher / np.linalg.norm(teacher))


def curvature_bound(problem, theta):
    """-(n-1) |grad phi| max_{j<k} prod_{i not j,k} |W_i|, below the smallest eigenvalue of the Hessian."""
    norms = [values[0] for values in gf.measure.layer_singular_values(problem, theta).values()]
    rest = [np.prod(np.delete(norms, (j, k))) for k in range(len(norms)) for j in range(k)]
    return -(len(norms) - 1) * np.sqrt(2 * problem.value(theta)) * max(rest)


@PAPER.figure(minutes=0.3, claims=11, small={"certified": (0.05,)})
def certificates(steps=(0.05, 0.025, 0.0125, 0.00625), certified=(0.1, 0.05, 0.0125)):
    """Deep linear networks of depth 2 and 3, balanced start near zero.

    Distance of gradient descent to the flow (full), its leading order h|e_1| (dotted) and the a-posteriori bound
    (dashed). Right: norm and alignment of the end-to-end map of depth two under the flow, with the closed form
    (crosses), and the smallest eigenvalue of the Hessian, which is -|w - teacher| there.
    """
    fig, axes = gf.plots.subplots(1, 3)
    ratios, tightest, largest, e1, gap, table, data = [], [], {}, {}, [], [], {"h": ("h", list(steps))}
    for depth, ax in ((2, axes[0]), (3, axes[1])):
        problem, t_end = whitened(depth), HORIZON[depth]
        theta0 = problem.init(0.05, seed=1, scheme="balanced")
        times = np.linspace(0, t_end, 21)[1:]
        flow = gf.simulate(
            problem, theta0, gf.GradientFlow(), t_end=t_end, solver="dop853", rtol=1e-12, atol=1e-14, save_at=times
        )
        runs = [gf.simulate(problem, theta0, gf.GD(h), t_end=t_end, save_at=times) for h in steps]
        found = gf.compare(flow, runs)
        largest[depth] = found.max_distance
        table += (found.max_distance / DISTANCE[depth] - 1).tolist()
        relative = [
            np.linalg.norm(difference / h - e, axis=1) / np.linalg.norm(e, axis=1)
            for h, difference, e in zip(steps, found.difference, found.leading_error, strict=True)
        ]
        e1[depth] = np.array([r[found.t[0] > 0].max() for r in relative])
        for h, colour in gf.plots.coloured(certified, gf.GD(1.0)):
            bound = gf.compare(flow, gf.simulate(problem, theta0, gf.GD(h), t_end=t_end)).bound()
            ax.semilogy(bound.t[1:], bound.distance[1:], color=colour, label=f"GD, $h = {h:g}$")
            ax.semilogy(bound.t[1:], bound.bound[1:], "--", color=colour)
            ratios.append((bound.distance[1:] / bound.bound[1:]).max())
            if h == 0.05:
                tightest.append((bound.bound[1:] / bound.distance[1:]).min())
                ax.semilogy(found.t[0], h * np.linalg.norm(found.leading_error[0], axis=1), "k:", label=r"$h|e_1|$")
        ax.set(title=f"depth {depth}", xlabel=r"time $t$", ylabel="distance to the flow", ylim=(1e-5, 1))
        lowest = np.array([gf.measure.smallest_eigenvalue(problem, theta) for theta in flow.theta])
        gap.append((lowest - [curvature_bound(problem, theta) for theta in flow.theta]).min())
        data |= {f"distance{depth}": ("h", found.max_distance), f"leading_order_gap{depth}": ("h", e1[depth])}
        if depth == 2:
            w = flow.measure(gf.measure.effective_map)[:, 0]
            teacher = np.linalg.solve(problem.x, problem.y)[:, 0]
            r, c = np.linalg.norm(w, axis=1), w @ teacher / np.linalg.norm(w, axis=1)
            w0 = gf.measure.effective_map(problem, theta0)[0]
            exact = gf.exact.two_layer_scalar_output(flow.t, np.linalg.norm(w0), w0 @ teacher / np.linalg.norm(w0))
            closed = max(abs(r - exact[0]).max(), abs(c - exact[1]).max())
            attained = abs(lowest + np.linalg.norm(w - teacher, axis=1)).max()
            for values, name in ((r, r"norm $r$"), (c, r"alignment $c$"), (lowest, r"$\lambda_{\min}$")):
                axes[2].plot(flow.t, values, label=name)
            axes[2].plot(flow.t, np.transpose(exact), "kx", markersize=4)
            axes[2].set(xlabel=r"time $t$", title="depth 2")
    last = np.array([e1[2][2], e1[3][2]])
    return fig, data, [
        gf.Claim("closed_form_n2", "r and c of the flow equal the closed form", closed, below=1e-9),
        gf.Claim.halves("first_order", "halving h halves the largest distance, depth 2", largest[2][1:], within=0.05),
        gf.Claim.halves("first_order_n3", "and depth 3", largest[3][1:], within=0.05),
        gf.Claim("distances", "distances equal those of an independent solver", np.abs(table), below=2e-3),
        gf.Claim("e1_limit", "(theta_{t/h} - theta(t))/h tends to e_1, depth 2, h = 0.0125", last[0], below=0.011),
        gf.Claim("e1_limit_n3", "depth 3", last[1], below=0.014),
        gf.Claim.halves("e1_halves", "and the difference to e_1 halves with h", list(e1.values()), within=0.15),
        gf.Claim("certificate", "the distance is below the bound B at every step", ratios, below=1 + 1e-6),
        gf.Claim("tight", "h = 0.05: B comes within 1.2 of the distance", tightest, below=1.2),
        gf.Claim("hessian_bound", "lambda_min >= -(n-1)|grad phi| max prod |W_i|", gap, above=-1e-10),
        gf.Claim("hessian_exact", "depth 2: lambda_min = -|w - teacher|", attained, below=1e-9),
    ]  # fmt: skip


def linear_and_relu(widths, loss_data, step, ratios, t_end, **options):
    """Descent with step/r on a linear and a ReLU network at equal times, and the flow of the linear one; all drawn.

    Returns the figure; losses, distances of descent with step/r from that with step, and ways gone, for both networks;
    the flow and its comparison with the runs.
    """
    fig, axes = gf.plots.subplots(2, 2)
    times, losses, apart, ways = np.linspace(0, t_end, 51), [], [], []
    flow = gaps = None
    for activation, row in (("linear", axes[0]), ("relu", axes[1])):
        problem = gf.Problem(gf.FullyConnected(widths, activation), gf.losses.CrossEntropy(), *loss_data)
        theta0 = problem.init(seed=1, scheme="xavier")
        runs = [gf.simulate(problem, theta0, gf.GD(step / r), t_end=t_end, save_at=times) for r in ratios]
        apart.append(np.array([np.linalg.norm(run.theta - runs[0].theta, axis=1) for run in runs]))
        for (r, colour), run, distance in zip(gf.plots.coloured(ratios, gf.GD(step)), runs, apart[-1], strict=True):
            row[0].semilogy(run.t, run.loss, color=colour, label=rf"GD, $\eta_0/{r}$")
            row[1].plot(run.t, distance, color=colour)
        ways.append(np.linalg.norm(runs[0].theta - theta0, axis=1))
        losses.append(runs[0].loss[-1])
        row[1].plot(times, ways[-1], color="0.5", label="distance from start")
        if activation == "linear":
            flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=t_end, rtol=1e-9, **options)
            gaps = gf.compare(flow, runs)
            row[1].plot(gaps.t[0], gaps.distance[0], "k--", label="GD to the flow")
        row[0].set(title=activation, xlabel=r"time $t$", ylabel="training loss")
        row[1].set(title=activation, xlabel=r"time $t$", ylabel=r"distance to GD with $\eta_0$")
    return fig, losses, apart, ways, flow, gaps


@PAPER.figure(minutes=0.3, claims=6, small={"ratios": (1, 2, 5)})
def clouds(ratios=(1, 2, 5, 10, 20), step=0.05, t_end=50.0):
    """Four Gaussian clouds, widths 16-12-12-4, cross-entropy: loss and distances of descent with several steps.

    Above the linear network, with the distances to the flow itself; below ReLU, where descent with smaller steps
    stands for the flow.
    """
    rng = np.random.default_rng(0)
    means, y = rng.standard_normal((4, 16)), np.arange(60) % 4
    x = (means[y] + rng.standard_normal((60, 16))) / 4
    fig, losses, apart, _, flow, gaps = linear_and_relu(
        [16, 12, 12, 4], (x, y), step, ratios, t_end, atol=1e-11, solver="dop853"
    )
    factor = 1 - 1 / np.array(ratios[1:])
    linear, relu = apart[0][1:, -1] / factor, apart[1][1:].max(1) / factor
    data = {"r": ("r", list(ratios)), "distance_to_flow": ("r", gaps.final_distance)}
    return fig, data | {"apart": (("network", "r", "t"), apart)}, [
        gf.Claim("richardson", "linear: |theta^h - theta^{h/r}|/(1 - 1/r) at the end is the same for all r",
                 np.ptp(linear) / linear.mean(), below=2e-3),
        gf.Claim("richardson_relu", "ReLU: its largest value over time is the same for all r",
                 np.ptp(relu) / relu.mean(), below=3e-2),
        gf.Claim("flow_distance", "linear: h = 0.05 ends 0.007118 from the flow", gaps.final_distance[0],
                 expected=0.007118, within=1e-5),
        gf.Claim("far_from_start", "while it went 4.436 from the start", np.linalg.norm(flow.end - flow.theta[0]),
                 expected=4.436, within=2e-3),
        gf.Claim("loss_linear", "loss of the linear network at the end", flow.loss[-1], expected=0.00604, within=1e-5),
        gf.Claim("loss_relu", "loss of the ReLU network at the end", losses[1], expected=0.00798, within=2e-5),
    ]  # fmt: skip


@PAPER.figure(minutes=4, claims=5, small={"ratios": (1, 2)})
def digits(n=1000, width=50, ratios=(1, 2, 5, 20), step=0.005, t_end=10.0, seed=0):
    """MNIST digits, standardised, widths 784-50-50-10, cross-entropy, to the paper's time with five times its steps.

    Above the linear network with the distance to the true flow, which the paper did not integrate; below ReLU, against
    descent with smaller steps as in the paper. All curves of one loss coincide; the distances lie near the axis.
    """
    x, y = gf.data.mnist(n=n, seed=seed)
    standard = (x - 0.1307) / 0.3081, y
    fig, losses, apart, ways, _, gaps = linear_and_relu([784, width, width, 10], standard, step, ratios, t_end)
    most = [distances.max() for distances in apart]
    data = {"r": ("r", list(ratios)), "distance_to_flow": ("r", gaps.final_distance), "most": ("network", most)}
    scaled = gaps.final_distance * np.array(ratios)
    return fig, data, [
        gf.Claim("on_the_axis", "linear: the distances stay below 0.05, as read off the paper's figure", most[0],
                 below=0.05),
        gf.Claim("on_the_axis_relu", "and with ReLU", most[1], below=0.05),
        gf.Claim("first_order", "linear: the distance to the flow is proportional to the step",
                 np.ptp(scaled) / scaled.mean(), below=0.1),
        gf.Claim("ways", "the ways gone are 2.6 (linear) and 3.0 in the paper's figure", [way[-1] for way in ways],
                 expected=[2.6, 3.0], within=0.2),
        gf.Claim("losses", "and the losses end at 0.08 and 0.1", losses, expected=[0.08, 0.1], within=0.03),
    ]  # fmt: skip


@PAPER.figure(minutes=2, claims=3, small={"steps": (0.02, 0.01), "t_end": 2.0})
def digits_through_kinks(n=200, width=20, steps=(0.02, 0.01, 0.005, 0.0025), t_end=10.0, seed=0):
    """Two hundred digits of 14 x 14 pixels, ReLU 196-20-20-10: descent beside the true flow through its kinks.

    Distance of descent to the flow, followed as a differential inclusion; grey: distance of the flow from its start.
    """
    x, y = gf.data.mnist(n=n, pool=2, seed=seed)
    problem = gf.Problem(gf.FullyConnected([196, width, width, 10]), gf.losses.CrossEntropy(), x, y)
    theta0, times = problem.init(seed=1, scheme="xavier"), np.linspace(0, t_end, 51)
    flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=t_end, kinks="follow", rtol=1e-6, save_at=times)
    fig, ax = gf.plots.subplots()
    apart, gone = [], np.linalg.norm(flow.theta - theta0, axis=1)
    for h, colour in gf.plots.coloured(steps, gf.GD(1.0)):
        run = gf.simulate(problem, theta0, gf.GD(h), t_end=t_end, save_at=times)
        apart.append(np.linalg.norm(run.theta - flow.theta, axis=1))
        ax.semilogy(times[1:], apart[-1][1:], color=colour, label=f"GD, $h = {h:g}$")
    ax.semilogy(times[1:], gone[1:], color="0.6", label="flow from its start")
    ax.set(xlabel=r"time $t = k h$", ylabel="distance", ylim=(1e-6, 20))
    apart = np.array(apart)
    largest = apart.max(1)
    return fig, {"t": ("t", times), "h": ("h", list(steps)), "distance": (("h", "t"), apart), "gone": ("t", gone)}, [
        gf.Claim("reached", "the flow through the kinks reaches its end", flow.status == gf.Status.REACHED_END),
        gf.Claim("near", "largest distance over the way gone, below the paper's 0.05/3.0", largest / gone[-1],
                 below=0.05 / 3),
        gf.Claim("nearer", "smaller steps stay nearer: ratio of the largest distances", largest[1:] / largest[:-1],
                 below=0.8),
    ]  # fmt: skip
