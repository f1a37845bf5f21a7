"""Figures of flows through kinks: what they mark, and that they promise no curve that is not there."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import gradflow as gf

mpl.use("Agg")
FLOW = gf.GradientFlow()


@pytest.fixture(scope="module")
def branching():
    """A run that branches at t = .322, beside three descents."""
    x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    problem = gf.Problem(gf.FullyConnected([2, 1, 1]), gf.losses.Square(reduction="sum", half=True), x, y)
    theta0 = [1.0, 0.0, 0.3]
    steps = (0.02, 0.01, 0.005)
    flow = gf.simulate(problem, theta0, FLOW, t_end=2.0)
    return gf.compare(flow, [gf.simulate(problem, theta0, gf.GD(h), t_end=2.0) for h in steps])


def run_of(widths, t_end):
    x, y = gf.data.gaussian(n=20, d=2, seed=0)
    problem = gf.Problem(gf.FullyConnected(widths), gf.losses.Square(), x, y)
    return gf.simulate(problem, problem.init(1.0, seed=0), FLOW, t_end=t_end)


def legend_of(ax):
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_gap_marks_the_branch_and_names_no_curve_that_it_lacks(branching):
    ax = gf.plots.gap(branching, bounds=False)
    (line,) = [line for line in ax.lines if line.get_label() == "flow branches"]
    assert line.get_xdata() == pytest.approx([0.322267] * 2, abs=1e-5)
    assert not any("predicted" in label for label in legend_of(ax))


def test_orders_are_taken_where_the_flow_is_unique(branching):
    assert branching.unique_until == pytest.approx(0.322267, abs=1e-5)
    assert np.all((branching.order[1:] > 0.8) & (branching.order[1:] < 1.3))
    assert branching.overall_order["GD"] == pytest.approx(1.08, abs=0.02)
    assert "orders count times up to the first branch only, t = 0.322267" in repr(branching)
    assert "first branch only" in branching._repr_html_()


def test_a_smooth_flow_is_unique_for_ever():
    problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    flow, descent = (gf.simulate(problem, [0.1, 0.2], rule, t_end=4.0) for rule in (FLOW, gf.GD(0.05)))
    gap = gf.compare(flow, descent)
    assert gap.unique_until == np.inf
    assert "branch" not in repr(gap)
    assert any("predicted" in label for label in legend_of(gf.plots.gap(gap)))


def test_a_raster_numbers_the_neurons_of_each_layer_and_names_what_occurs():
    run = run_of([2, 10, 10, 1], 5.0)
    figure, (raster, sliding, _) = gf.plots.kinks(run)
    names = [text.get_text() for text in raster.get_yticklabels()]
    assert names == 2 * [str(neuron) for neuron in range(0, 10, 2)]
    assert [text.get_text() for text in raster.texts] == ["layer 1", "layer 2"]
    kinds = set(run.kinks.events["kind"])
    assert "branch" not in kinds
    assert legend_of(raster) == ["cross", "begin to slide", "leave"]
    assert all(tick == int(tick) for tick in sliding.get_yticks())


def test_a_raster_of_one_layer_has_no_names_of_layers_and_of_no_events_no_legend():
    run = run_of([2, 5, 1], 0.001)
    assert not run.kinks.events.size
    figure, (raster, sliding, _) = gf.plots.kinks(run)
    assert legend_of(raster) == []
    assert not raster.texts
    assert sliding.get_ylim() == (0.0, 1.0)
    assert [text.get_text() for text in raster.get_yticklabels()] == list("01234")


def test_smaller_steps_are_darker_everywhere(branching):
    shades = dict(gf.plots.coloured((0.02, 0.005, 0.01), gf.GD(0.1)))
    drawn = {line.get_label(): line.get_color() for line in gf.plots.gap(branching).lines}
    for h in (0.02, 0.01, 0.005):
        assert to_rgb(shades[h]) == pytest.approx(to_rgb(drawn[rf"GD, $h = {h:g}$"]))
    assert sum(to_rgb(shades[0.005])) < sum(to_rgb(shades[0.01])) < sum(to_rgb(shades[0.02]))
