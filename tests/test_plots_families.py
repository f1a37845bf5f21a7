"""Families of lines in the figures, settings of several panels, and the numbers behind a figure."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from numpy.testing import assert_array_equal

import gradflow as gf
from gradflow import plots

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_a_swept_array_brings_its_places_labels_and_shades():
    table = gf.sweep(lambda h, start: h * start, h=(0.2, 0.1), start=(1.0, 3.0, 5.0)).value
    fig, ax = plots.subplots()
    drawn = plots.lines(ax, table, label="$h = {:g}$", dynamics=gf.GD(0.1), marker="o")
    assert [line.get_label() for line in drawn] == ["$h = 0.2$", "$h = 0.1$"]
    assert [to_hex(line.get_color()) for line in drawn] == plots.colours(gf.GD(0.1), 2)[::-1]
    for line, height in zip(drawn, table.values, strict=True):
        assert_array_equal(line.get_xdata(), [1, 3, 5])
        assert_array_equal(line.get_ydata(), height)
        assert line.get_marker() == "o"


def test_plain_arrays_are_numbered_and_one_row_is_one_line():
    fig, ax = plots.subplots()
    drawn = plots.lines(ax, np.ones((3, 4)), label="$W_{}$")
    assert [line.get_label() for line in drawn] == ["$W_1$", "$W_2$", "$W_3$"]
    assert_array_equal(drawn[0].get_xdata(), [1, 2, 3, 4])
    (single,) = plots.lines(ax, [1.0, 2.0], x=[5.0, 6.0], label=r"$\frac{1}{2}$", color="k")
    assert (single.get_color(), single.get_label()) == ("k", r"$\frac{1}{2}$")
    with pytest.raises(ValueError, match=r"rows of shape \(1, 1, 1\)"):
        plots.lines(ax, np.ones((1, 1, 1)))


def test_lines_for_the_same_share_colour_and_legend():
    fig, ax = plots.subplots()
    drawn = plots.lines(ax, np.arange(12.0).reshape(4, 3), of=[0.1, 0.2, 0.1, 0.2], label="{:g}")
    assert [line.get_color() for line in drawn[:2]] == [line.get_color() for line in drawn[2:]]
    assert drawn[0].get_color() != drawn[1].get_color()
    plots.finish(fig)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0.1", "0.2"]


def test_a_list_holds_one_look_for_each_line():
    fig, ax = plots.subplots()
    drawn = plots.lines(ax, np.ones((3, 4)), linewidth=[5, 3, 1], linestyle="--", color=["k", "r", "b"])
    assert [(line.get_linewidth(), line.get_linestyle()) for line in drawn] == [(5, "--"), (3, "--"), (1, "--")]
    assert [line.get_color() for line in drawn] == ["k", "r", "b"]


def test_reference_lines_match_the_lines_that_they_are_of():
    fig, ax = plots.subplots()
    drawn = plots.lines(ax, np.ones((2, 4)), of=(0.1, 0.2))
    plots.reference(ax, [5.0, 5.0], "limit", axis="x", of=drawn)
    marks = ax.get_lines()[2:]
    assert [line.get_xdata()[0] for line in marks] == [5.0, 5.0]
    assert [line.get_color() for line in marks] == [line.get_color() for line in drawn]
    assert [line.get_label() for line in marks[:1]] == ["limit"]
    with pytest.raises(ValueError, match="zip"):
        plots.reference(ax, [5.0], of=drawn)


def test_one_legend_serves_panels_with_the_same_lines():
    problem = gf.Problem(gf.DeepLinear([2, 2, 1]), gf.losses.Square(), np.eye(2), [1.0, -1.0])
    run = gf.simulate(problem, problem.init(), gf.GradientFlow(), 1.0)
    fig, axes = plots.subplots(1, 2)
    for ax in axes:
        plots.spectral_ratio(run, ax)
    assert all(ax.get_legend() for ax in axes)
    plots.finish(fig)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["$W_{1}$", "$W_{2}$"]
    assert not any(ax.get_legend() for ax in axes)


def test_a_legend_takes_up_lines_that_are_drawn_later():
    problem = gf.Problem(gf.DeepLinear([2, 2, 2, 1]), gf.losses.Square(), np.eye(2), [1.0, -1.0])
    run = gf.simulate(problem, problem.init(seed=1), gf.GradientFlow(), 1.0)
    ax = plots.alignment(run, missing=True)
    assert ax.get_yscale() == "log"
    drawn = np.array([line.get_ydata() for line in ax.get_lines()])
    assert np.array_equal(drawn, 1 - gf.measure.alignment(problem, run.theta).T)
    plots.lines(ax, 0.5 * np.ones(2), [0.0, 1.0], label="a half")
    plots.finish(ax.figure)
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "a half"


def test_the_start_at_time_zero_does_not_stretch_a_logarithmic_panel():
    fig, ax = plots.subplots(xscale="log")
    plots.lines(ax, [-1000.0, 1.0, 2.0], [0.0, 0.1, 1.0])
    assert ax.get_ylim()[0] > 0.9


def test_lists_set_panels_one_by_one_and_other_values_all():
    fig, axes = plots.subplots(2, 2, title=list("abcd"), yscale="log", xlim=(1, 7), sharex=True)
    assert [ax.get_title() for ax in axes.flat] == list("abcd")
    assert {ax.get_yscale() for ax in axes.flat} == {"log"}
    assert {ax.get_xlim() for ax in axes.flat} == {(1.0, 7.0)}
    fig, (limited, free) = plots.subplots(1, 2, ylim=[(0, 7), None])
    free.plot([0, 1], [0, 100])
    assert limited.get_ylim() == (0.0, 7.0)
    assert free.get_ylim()[1] > 100
    with pytest.raises(ValueError, match="title: 3 values for 4 panels"):
        plots.subplots(2, 2, title=list("abc"))


def test_the_numbers_behind_a_figure_are_those_on_its_lines(tmp_path):
    import xarray

    fig, axes = plots.subplots(1, 2, xlabel=["time", "step"], title=["left", "right"])
    plots.lines(axes[0], [[1.0, 2.0], [3.0, np.nan]], x=[0.5, 1.5], label="run {}")
    axes[0].plot([7.0], [8.0], "x")
    plots.reference(axes[0], 1.5)
    axes[1].plot([], [], label="only in the legend")
    axes[1].plot([1, 2, 3], [4, 5, 6])
    numbers = plots.drawn(fig)
    assert set(numbers.data_vars) == {"panel1", "panel1b", "panel2"}
    assert_array_equal(numbers.panel1.sel(line1="run 2"), [3.0, np.nan])
    assert_array_equal(numbers.x1, [0.5, 1.5])
    assert_array_equal(numbers.panel1b, [[8.0]])
    assert numbers.panel2.attrs["xlabel"] == "step"
    assert numbers.line2.values.tolist() == ["line 1"]
    numbers.to_netcdf(tmp_path / "numbers.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "numbers.nc", engine="h5netcdf") as stored:
        assert stored.load().identical(numbers)
