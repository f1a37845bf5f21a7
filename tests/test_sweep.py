"""sweep: results at all combinations of settings, against closed forms."""

import signal

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gradflow as gf


@pytest.fixture(scope="module")
def quadratic():
    return gf.Problem(gf.DeepLinear([1, 1]), gf.losses.Square(half=True), [[1.0]], [[0.0]])


def test_descent_on_a_quadratic_at_all_steps_and_starts(quadratic):
    def descent(step, start):
        run = gf.simulate(quadratic, [start], gf.GD(step), t_end=2.0, save_at=[0.0, 1.0, 2.0])
        return {"t": ("t", run.t), "theta": ("t", run.theta[:, 0]), "end": run.end[0]}

    steps, starts = (0.5, 0.25), np.array([1.0, 2.0, 5.0])
    runs = gf.sweep(descent, step=steps, start=starts)
    assert runs.theta.dims == ("step", "start", "t")
    for step in steps:
        law = (1 - step) ** (runs.t.values / step)
        assert_allclose(runs.theta.sel(step=step), np.outer(starts, law), rtol=1e-13)
    assert_array_equal(runs.end, runs.theta[..., -1])


def test_the_last_setting_is_the_fastest_and_single_values_are_passed_on():
    calls = []
    gf.sweep(lambda **given: calls.append(given) or 0.0, a=[1, 2], fixed=7, b=range(2), name="x")
    assert [(call["a"], call["b"]) for call in calls] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(call["fixed"] == 7 and call["name"] == "x" for call in calls)


def test_results_without_names_are_the_value():
    assert_array_equal(gf.sweep(lambda a, b: a * b, a=(1, 2), b=(3, 4)).value, [[3, 4], [6, 8]])
    matrices = gf.sweep(lambda a: a * np.eye(2), a=(1, 2)).value
    assert matrices.dims == ("a", "value_0", "value_1")
    assert_array_equal(matrices[1], 2 * np.eye(2))


def test_a_named_tuple_is_taken_by_its_names():
    found = gf.sweep(lambda depth: gf.exact.flat_minima(np.eye(2), [1.0, 0.0], depth), depth=(2, 3))
    assert found.bound.values.tolist() == [2.0, 3.0]
    assert list(found) == ["bound", "balanced"]


def test_settings_that_are_not_numbers_are_told_apart_by_their_text():
    runs = gf.sweep(lambda run: run[0] + run[1], run=[(1, 2), (3, 4)])
    assert runs.run.values.tolist() == ["(1, 2)", "(3, 4)"]
    assert runs.value.sel(run="(3, 4)") == 7


def test_a_run_that_ended_early_is_filled_up_with_nan():
    runs = gf.sweep(lambda n: {"t": ("t", np.arange(n)), "square": ("t", np.arange(n) ** 2.0)}, n=(2, 4))
    assert_array_equal(runs.t, [0, 1, 2, 3])
    assert_array_equal(runs.square, [[0, 1, np.nan, np.nan], [0, 1, 4, 9]])


def test_trajectories_give_their_loss_records_and_measures_at_the_end(quadratic):
    def flow(decay, start):
        return gf.simulate(quadratic, [start], gf.LMFlow(decay), t_end=1.0, save_at=5, rtol=1e-10)

    runs = gf.sweep(flow, {"end": gf.measure.effective_map, "size": gf.measure.rho}, decay=(0.0, 1.0), start=(1.0, 3.0))
    assert runs.rho.dims == ("decay", "start", "t")
    law = np.exp(-np.multiply.outer(np.array([1.0, 3.0]), runs.t.values))
    assert_allclose(runs.rho.sel(start=1.0), law, rtol=1e-8)
    assert_allclose(runs.end.values[..., 0, 0], runs["size"], rtol=1e-14)
    assert_allclose(runs.loss, (0.5 + runs.decay) * runs.rho**2, rtol=1e-12)


def test_trajectories_of_other_times_are_numbered(quadratic):
    def descent(step):
        return gf.simulate(quadratic, [1.0], gf.GD(step), t_end=1.0, save_at="steps")

    runs = gf.sweep(descent, step=(0.5, 0.25))
    assert runs.loss.dims == ("step", "saved")
    assert_array_equal(runs.t, [[0.0, 0.5, 1.0, np.nan, np.nan], [0.0, 0.25, 0.5, 0.75, 1.0]])
    assert_allclose(runs.loss, 0.5 * (1 - runs.step) ** (2 * runs.t / runs.step), rtol=1e-13)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (lambda a: a, {"a": 1}, "no setting has several values"),
        (lambda a: a, {"a": ()}, "a has several values: give a list of at least one"),
        (lambda a: {"x": 1} if a else {"y": 1}, {"a": (1, 0)}, "at {'a': 0} the function returned y instead of x"),
        (lambda a: {"t": ("t", [0.0, a])}, {"a": (1, 2)}, "t differs between settings"),
        (lambda a: np.ones([1] * a), {"a": (1, 2)}, "value: some settings give arrays of 1 dim"),
        (lambda a: {"x": (("i", "j"), [a])}, {"a": (1, 2)}, "x: 2 names of dimensions, i, j, for 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(function, settings, message):
    with pytest.raises(ValueError, match=message):
        gf.sweep(function, **settings)


def test_an_interrupt_ends_the_sweep_and_not_one_run_of_it(quadratic):
    calls = []

    def interrupted(step):
        calls.append(step)
        signal.raise_signal(signal.SIGINT)
        return gf.simulate(quadratic, [1.0], gf.GD(step), t_end=1.0).loss[-1]

    with pytest.raises(KeyboardInterrupt):
        gf.sweep(interrupted, step=(0.5, 0.25))
    assert calls == [0.5]


def test_records_that_some_runs_lack_are_left_out():
    wide = gf.Problem(gf.Diagonal(2, signed=False), gf.losses.Square(), np.eye(2), [1.0, 1.0])
    flows = [gf.GradientFlow(), gf.PolarFlow()]
    runs = gf.sweep(lambda i: gf.simulate(wide, [0.5, 0.5], flows[i], 1.0, save_at=5), i=(0, 1))
    assert set(runs.variables) == {"i", "t", "loss"}
    assert "radius" in gf.sweep(lambda i: gf.simulate(wide, [0.5, 0.5], flows[1], 1.0), i=(0, 1))
