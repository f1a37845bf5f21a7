"""Figures: what is on the lines is what was measured, axes say what they show, legends cover no line."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal

import gradflow as gf
from gradflow import plots
from gradflow.compare import compare
from gradflow.plots.look import BLACK, VERMILLION, labels_of, looks_of, number, wide
from gradflow.plots.runs import stability_limit

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def problem():
    x = np.random.default_rng(0).normal(size=(20, 4))
    teacher = np.diag([3.0, 1.0]) @ np.random.default_rng(1).normal(size=(2, 4)) / 2
    return gf.Problem(gf.DeepLinear([4, 3, 2]), gf.losses.Square(half=True), x, x @ teacher.T)


@pytest.fixture(scope="module")
def start(problem):
    return problem.init(0.1, seed=0)


@pytest.fixture(scope="module")
def flow(problem, start):
    return gf.simulate(problem, start, gf.GradientFlow(), 20.0, solver="dop853", save_at=80)


@pytest.fixture(scope="module")
def descents(problem, start):
    return [gf.simulate(problem, start, gf.GD(step=h), 20.0, save_at=80) for h in (0.1, 0.05, 0.025)]


def drawn(ax):
    """Lines that hold data, not those that stand in the legend only."""
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 0]


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_loss_of_several_runs(flow, descents):
    runs = [flow, *descents]
    ax = plots.loss(runs)
    assert len(drawn(ax)) == 4
    for line, run in zip(drawn(ax), runs, strict=True):
        assert_array_equal(line.get_xdata(), run.t)
        assert_array_equal(line.get_ydata(), run.loss)
    assert ax.get_xlabel() == "time $t$"
    assert ax.get_ylabel() == r"loss $F(\theta)$"
    assert legend_texts(ax) == ["gradient flow", "GD, $h = 0.1$", "GD, $h = 0.05$", "GD, $h = 0.025$"]


def test_loss_is_logarithmic_where_it_spans_two_decades(problem, start, flow):
    assert flow.loss[0] > 100 * flow.loss[-1]
    assert plots.loss(flow).get_yscale() == "log"
    assert plots.loss(gf.simulate(problem, start, gf.GradientFlow(), 0.2)).get_yscale() == "linear"


def test_time_is_logarithmic_where_it_was_saved_so(problem, start, flow):
    late = gf.simulate(problem, start, gf.GradientFlow(), 20.0, save_at="log", solver="dop853")
    assert plots.loss(late).get_xscale() == "log"
    assert plots.loss(flow).get_xscale() == "linear"


def test_time_of_discrete_runs_is_steps_times_step(descents):
    assert plots.loss(descents).get_xlabel() == "time $t = k h$"


def test_given_axes_and_labels_are_used(flow, descents):
    _, axes = plots.subplots(1, 2)
    ax = plots.loss([flow, descents[0]], axes[1], labels=["a", "b"])
    assert ax is axes[1]
    assert legend_texts(ax) == ["a", "b"]
    assert not axes[0].get_lines()


@pytest.mark.parametrize("layer", ["map", "W1"])
def test_singular_values(flow, layer):
    ax = plots.singular_values(flow, layer=layer)
    values = gf.measure.singular_values(flow.problem, flow.theta, layer)
    assert_array_equal([line.get_ydata() for line in drawn(ax)], values.T)
    assert legend_texts(ax)[0] == r"$\sigma_{1}$"
    assert ax.get_ylabel() == {"map": r"singular values of $W_L \cdots W_1$", "W1": "singular values of $W_{1}$"}[layer]
    assert ax.get_yscale() == "linear"
    assert plots.singular_values(flow, layer=layer, log=True).get_yscale() == "log"


def test_modes_of_several_runs_share_the_colour_of_their_run(flow, descents):
    ax = plots.singular_values([flow, descents[0]])
    colours = [line.get_color() for line in drawn(ax)]
    assert colours == [BLACK, BLACK, VERMILLION, VERMILLION]
    styles = [line.get_linestyle() for line in drawn(ax)]
    assert styles[0] == styles[2] != styles[1] == styles[3]
    assert legend_texts(ax) == ["gradient flow", "GD, $h = 0.1$", r"$\sigma_{1}$", r"$\sigma_{2}$"]


@pytest.mark.parametrize(
    ("draw", "measured", "label"),
    [
        (plots.alignment, gf.measure.alignment, "alignment of adjacent layers"),
        (plots.spectral_ratio, gf.measure.spectral_ratio, r"spectral ratio $\|W_l\|_2 / \|W_l\|_F$"),
        (plots.layer_norms, gf.measure.layer_norms, r"layer norms $\|W_l\|_F$"),
    ],
)
def test_measures_of_layers(flow, draw, measured, label):
    ax = draw(flow)
    assert_array_equal([line.get_ydata() for line in drawn(ax)], measured(flow.problem, flow.theta).T)
    assert ax.get_ylabel() == label


def test_drift(flow, descents):
    ax = plots.drift([flow, *descents])
    (name,) = flow.drift
    for line, run in zip(drawn(ax), [flow, *descents], strict=True):
        assert_array_equal(line.get_ydata(), run.drift[name])
    assert ax.get_yscale() == "log"


def test_sharpness_with_the_limits_of_stability(problem, start, flow, descents):
    ball = gf.simulate(problem, start, gf.Momentum(step=0.02, beta=0.5), 4.0)
    ahead = gf.simulate(problem, start, gf.Momentum(step=0.02, beta=0.5, nesterov=True), 4.0)
    ax = plots.sharpness([flow, descents[0], ball, ahead])
    curves = [line for line in drawn(ax) if np.ptp(line.get_xdata()) > 1]
    limits = [line.get_ydata()[0] for line in drawn(ax) if np.ptp(line.get_xdata()) <= 1]
    assert_allclose(limits, [2 / 0.1, 3 / 0.02, 1.5 / 0.02])
    assert_allclose(curves[0].get_ydata()[-1], gf.measure.sharpness(problem, flow.end), rtol=1e-12)
    assert legend_texts(ax)[-1] == "stability limit"


def test_sharpness_that_was_recorded_is_drawn_as_it_is(problem, start):
    record = {"sharpness": (lambda problem, theta: 7.0, [0.0, 0.5, 1.0])}
    ax = plots.sharpness(gf.simulate(problem, start, gf.GradientFlow(), 1.0, record=record))
    assert_array_equal(drawn(ax)[0].get_xdata(), [0.0, 0.5, 1.0])
    assert_array_equal(drawn(ax)[0].get_ydata(), 7.0)


def test_stability_limit_is_that_of_a_quadratic():
    """theta^2 * 10 / 2 has sharpness 10: each rule stays bounded just below its limit and explodes just above it."""
    problem = gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[np.sqrt(10.0)]], [[0.0]])
    for make in (gf.GD, lambda step: gf.Momentum(step, 0.6), lambda step: gf.Momentum(step, 0.6, nesterov=True)):
        step = stability_limit(make(1.0)) / 10.0
        below, above = (
            abs(gf.simulate(problem, [1.0], make(factor * step), 400 * factor * step).end[0]) for factor in (0.98, 1.02)
        )
        assert below < 1.0 < 100 < above


def test_weights(flow):
    ax = plots.weights(flow)
    assert_array_equal([line.get_ydata() for line in drawn(ax)], flow.theta.T)
    assert ax.get_ylabel() == r"parameters $\theta_i$"
    only = plots.weights(flow, layer="W2")
    assert_array_equal([line.get_ydata() for line in drawn(only)], flow.theta.T[12:])
    assert legend_texts(only) == ["$W_{2}$"]


def test_of_many_weights_those_that_move_furthest_are_shown():
    problem = gf.Problem(gf.DeepLinear([10, 10]), gf.losses.Square(), np.eye(10), np.diag(np.arange(10.0)))
    run = gf.simulate(problem, problem.init(0.1), gf.GradientFlow(), 3.0)
    ax = plots.weights(run)
    assert len(drawn(ax)) == 60
    assert ax.get_ylabel() == r"parameters $\theta_i$ (60 of 100)"
    least = min(np.ptp(line.get_ydata()) for line in drawn(ax))
    assert (np.ptp(run.theta, axis=0) > least).sum() == 59


def test_gap(flow, descents):
    comparison = compare(flow, descents)
    ax = plots.gap(comparison)
    lines = drawn(ax)
    for index in range(3):
        assert_array_equal(lines[2 * index].get_ydata(), comparison.distance[index])
        assert_array_equal(lines[2 * index + 1].get_ydata(), comparison.predicted_distance[index])
    assert len(lines) == 6
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == r"distance $|\theta_{t/h} - \theta(t)|$"
    error = number(comparison.solver_error.max(), 1)
    assert legend_texts(ax)[-2:] == [r"predicted $h|e_1(t)|$", f"solver error below ${error}$"]


def test_gap_shows_a_solver_error_that_matters(problem, start, descents):
    loose = gf.simulate(problem, start, gf.GradientFlow(), 20.0, rtol=1e-3, solver="rk45", save_at=80)
    comparison = compare(loose, descents)
    ax = plots.gap(comparison, predicted=False)
    assert_array_equal(drawn(ax)[-1].get_ydata(), comparison.solver_error)
    assert legend_texts(ax)[-1] == "solver error"


def test_gap_relative_and_with_bounds(problem, start):
    flow = gf.simulate(problem, start, gf.GradientFlow(), 2.0, rtol=1e-10)
    comparison = compare(flow, [gf.simulate(problem, start, gf.GD(step=h), 2.0, save_at=21) for h in (0.1, 0.05)])
    ax = plots.gap(comparison, relative=True, predicted=False, bounds=True)
    lines, bound = drawn(ax), comparison.bound(1)
    assert len(lines) == 4
    assert_allclose(lines[1].get_ydata(), comparison.relative_distance[1])
    assert_allclose(lines[3].get_ydata(), bound.bound / np.linalg.norm(flow.at(bound.t), axis=1))
    assert ax.get_ylabel() == r"distance $|\theta_{t/h} - \theta(t)| \,/\, |\theta(t)|$"


def test_order_shows_the_largest_distances_beside_slope_one(problem, start, flow, descents):
    noisy = [gf.simulate(problem, start, gf.SGD(h, batch_size=5), 20.0, save_at=80) for h in (0.02, 0.01)]
    comparison = compare(flow, [*descents, *noisy])
    slope, line, other = drawn(plots.order(comparison))
    assert_allclose(line.get_xydata(), np.transpose([comparison.steps[:3], comparison.max_distance[:3]]))
    assert_allclose(other.get_xydata(), np.transpose([comparison.steps[3:], comparison.max_distance[3:]]))
    (h, low), (last, high) = slope.get_xydata()
    assert (h, last) == (0.01, 0.1)
    assert low == comparison.max_distance[4]
    assert high / low == pytest.approx(last / h)
    assert line.get_label() == f"GD, observed order {comparison.overall_order['GD']:.2f}"
    assert (line.axes.get_xscale(), line.axes.get_yscale()) == ("log", "log")


def test_order_leaves_out_what_comes_after_a_branch():
    x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    problem = gf.Problem(gf.FullyConnected([2, 1, 1]), gf.losses.Square("sum", half=True), x, y)
    flow = gf.simulate(problem, [1.0, 0.0, 0.3], gf.GradientFlow(), t_end=2.0)
    runs = [gf.simulate(problem, [1.0, 0.0, 0.3], gf.GD(h), t_end=2.0) for h in (0.02, 0.01, 0.005)]
    comparison = compare(flow, runs)
    until = comparison.unique_until
    assert 0.3 < until < 0.35
    _, line, past = drawn(plots.order(comparison))
    before = [d[t <= until].max() for t, d in zip(comparison.t, comparison.distance, strict=True)]
    assert_array_equal(line.get_ydata(), before)
    assert_array_equal(past.get_ydata(), comparison.max_distance)
    assert comparison.overall_order["GD"] == pytest.approx(1.0, abs=0.2)


def test_layers_over_the_decades_of_the_loss_with_their_bounds():
    x, y = gf.data.separable(n=10, d=3, margin=0.3, seed=0)
    problem = gf.Problem(gf.DeepLinear([3, 4, 1]), gf.losses.Exponential(), x, y)
    run = gf.simulate(problem, problem.init(0.5), gf.GradientFlow(), stop=gf.LossBelow(log10=-40))
    first, last, least, _ = drawn(plots.spectral_ratio(run, over="loss", bounds=True))
    assert_allclose(first.get_xdata()[run.log10_loss < 0], -run.log10_loss[run.log10_loss < 0])
    assert_array_equal(first.get_ydata(), gf.measure.spectral_ratio(problem, run.theta)[:, 0])
    bound = gf.measure.spectral_ratio_bound(problem, run.theta, run.theta[0])[:, 0]
    assert_array_equal(least.get_ydata(), np.where(bound > 0, bound, np.nan))
    assert (least.get_color(), first.axes.get_xscale()) == (first.get_color(), "log")
    assert (bound <= first.get_ydata() + 1e-9).all()
    assert first.axes.get_xlabel() == r"$\log_{10}(1/F)$"
    for draw in (plots.alignment, plots.layer_norms, plots.singular_values):
        assert draw(run, over="loss").get_xlabel() == r"$\log_{10}(1/F)$"


def test_overview_of_one_run_and_of_several(flow, descents):
    figure, axes = plots.overview(flow)
    labels = [ax.get_ylabel() for ax in axes]
    assert len(axes) == len(set(labels)) == 6
    assert all(ax.get_xlabel() for ax in axes)
    assert figure.get_suptitle() == "gradient flow"
    figure, axes = plots.overview([flow, *descents], labels=["flow", "a", "b", "c"])
    assert len(axes) == 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["flow", "a", "b", "c"]
    assert axes[0].get_legend() is None


def test_overview_leaves_out_what_does_not_apply():
    problem = gf.Problem(gf.FullyConnected([2, 3, 1], activation="tanh"), gf.losses.Square(), np.eye(2), [1.0, -1.0])
    run = gf.simulate(problem, problem.init(), gf.GradientFlow(), 1.0)
    labels = [ax.get_ylabel() for ax in plots.overview(run)[1]]
    assert not any("singular" in label or "drift" in label for label in labels)
    assert any("layer norms" in label for label in labels)


def test_legend_covers_no_line(flow, descents):
    for ax in (plots.loss([flow, *descents]), plots.weights(flow), plots.drift([flow, *descents])):
        figure = ax.get_figure()
        figure.draw_without_rendering()
        box = ax.get_legend().get_window_extent()
        assert not any(
            line.get_path().transformed(line.get_transform()).intersects_bbox(box, False) for line in drawn(ax)
        )


def test_larger_steps_are_lighter_and_runs_of_one_rule_told_apart(descents):
    lightness = [sum(to_rgb(look["color"])) for look in looks_of(descents)]
    assert lightness[0] > lightness[1] > lightness[2]


def test_equal_labels_are_numbered_and_many_share_one(flow):
    assert labels_of([flow, flow]) == ["gradient flow (1)", "gradient flow (2)"]
    assert labels_of([flow] * 20) == ["gradient flow, 20 runs", *["_"] * 19]


def test_numbers_in_labels():
    assert [number(value) for value in (0.05, 1e-5, 2.5e-7, 12345678.0)] == [
        "0.05",
        "10^{-5}",
        r"2.5\times 10^{-7}",
        r"1.235\times 10^{7}",
    ]


def test_wide_values():
    assert wide([1.0, 1e-3])
    assert wide([0.0, 1e-9, 1.0, np.nan])
    assert not wide([1.0, 2.0])
    assert not wide([-1.0, 1e-3, 1.0])
    assert not wide([])


def test_style_ends_with_its_context(flow):
    with mpl.rc_context():
        mpl.rcdefaults()
        before = dict(mpl.rcParams)
        with plots.style():
            assert mpl.rcParams["axes.grid"]
        plots.loss(flow)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("draw", "error", "match"),
    [
        (lambda flow: plots.loss([]), ValueError, "no trajectories"),
        (lambda flow: plots.loss([flow, 3]), TypeError, "int is not a Trajectory"),
        (lambda flow: plots.loss(3), TypeError, "int is not a Trajectory"),
        (lambda flow: plots.loss(flow, labels=["a", "b"]), ValueError, "2 labels for 1 trajectories"),
        (lambda flow: plots.singular_values(flow, layer="W9"), ValueError, "W9"),
        (lambda flow: plots.weights([flow]), TypeError, "trajectory of type list"),
        (lambda flow: plots.weights(flow, layer="W9"), ValueError, "choose one of W1, W2"),
        (lambda flow: plots.gap(flow), TypeError, "comparison of type Trajectory"),
        (lambda flow: plots.order(flow), TypeError, "comparison of type Trajectory"),
        (lambda flow: plots.alignment(flow, over="space"), ValueError, "must be 'time' or 'loss'"),
    ],
)
def test_bad_input_opens_no_figure(flow, draw, error, match):
    with pytest.raises(error, match=match):
        draw(flow)
    assert plt.get_fignums() == []


def test_drift_needs_invariants():
    problem = gf.Problem(gf.FullyConnected([2, 3, 1], activation="tanh"), gf.losses.Square(), np.eye(2), [1.0, -1.0])
    run = gf.simulate(problem, problem.init(), gf.GradientFlow(), 1.0)
    with pytest.raises(ValueError, match="no invariant is known for gradient flow"):
        plots.drift(run)


def test_runs_beyond_floats_are_drawn_by_their_logarithms():
    x, y = gf.data.separable(n=10, d=3, margin=0.3, seed=0)
    problem = gf.Problem(gf.DeepLinear([3, 4, 1]), gf.losses.Exponential(), x, y)
    run = gf.simulate(problem, problem.init(0.5), gf.GradientFlow(), stop=gf.LossBelow(log10=-400))
    ax = plots.loss(run)
    (line,) = drawn(ax)
    assert ax.get_yscale() == ax.get_xscale() == "linear"
    assert np.nanmin(line.get_ydata()) == pytest.approx(-400.0)
    assert np.nanmax(line.get_xdata()) == pytest.approx(run.log10_t[-1])
    assert "log" in ax.get_xlabel()
    assert "log" in ax.get_ylabel()
    figure, axes = plots.overview(run)
    assert all("log" in ax.get_xlabel() for ax in axes.flat if ax.get_xlabel())
    np.testing.assert_array_equal(drawn(plots.weights(run))[0].get_xdata()[1:], run.log10_t[1:])
