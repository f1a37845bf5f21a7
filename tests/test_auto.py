"""The automatic solver: which method it takes when, at which accuracy, and that runs keep their bits."""

import numpy as np
import pytest

import gradflow as gf
from gradflow.dynamics.flow import typical
from gradflow.kernels.calls import compiled
from gradflow.kernels.correction import correct_rows
from gradflow.kernels.procedures import address_of
from gradflow.kernels.sums import add_rows, sum_rows
from gradflow.status import Status
from gradflow.steppers.auto import CAUTION, Auto
from gradflow.steppers.choose import make_field
from gradflow.steppers.tableaux import without_zeros

FLOW = gf.GradientFlow()
RATED = gf.GradientFlow(rates=[1.0] * 48)
"""The same flow, written as one whose Jacobian is not symmetric."""


@pytest.fixture(scope="module")
def saddles():
    """A deep linear network near zero: it stays at each of three saddles for long, and learns fast in between."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 4))
    y = x @ np.diag([3.0, 1.5, 1.0, 0.75])
    problem = gf.Problem(gf.DeepLinear([4, 4, 4, 4]), gf.losses.Square(half=True), x, y)
    return problem, 0.03 * rng.standard_normal(problem.size)


@pytest.fixture(scope="module")
def truth(saddles):
    return gf.simulate(*saddles, FLOW, t_end=400.0, rtol=1e-12, solver="dop853", save_at=2).end


@pytest.mark.parametrize("rtol", [1e-5, 1e-7])
def test_plateaus_are_crossed_by_the_stabilised_method_at_fewer_gradients(saddles, truth, rtol):
    auto, pair = (gf.simulate(*saddles, RATED, t_end=400.0, rtol=rtol, solver=name) for name in ("auto", "dop853"))
    assert any(note.startswith("stabilised method from t = ") for note in auto.notes)
    assert any(note.startswith("pair of order 8 from t = ") for note in auto.notes) == (rtol == 1e-7)
    assert auto.counts["gradients"] < 0.3 * pair.counts["gradients"]
    assert np.linalg.norm(auto.end - truth) < 10 * rtol * np.linalg.norm(truth)


def test_short_runs_stay_with_the_pair_and_take_its_very_steps(saddles):
    auto, pair = (gf.simulate(*saddles, RATED, t_end=20.0, rtol=1e-6, solver=name) for name in ("auto", "dop853"))
    assert auto.notes == []
    np.testing.assert_array_equal(auto.states, pair.states)


@pytest.mark.parametrize("rtol", [9e-5, 1e-7])
def test_plain_flows_take_the_steps_of_adams_at_a_tenth_of_the_tolerance(saddles, truth, rtol):
    auto, pair = (gf.simulate(*saddles, FLOW, t_end=400.0, rtol=rtol, solver=name) for name in ("auto", "dop853"))
    tight = {"rtol": CAUTION * rtol, "atol": CAUTION * (1e-2 * rtol * typical(saddles[1]))}
    adams = gf.simulate(*saddles, FLOW, t_end=400.0, solver="adams", **tight)
    assert auto.notes == []
    np.testing.assert_array_equal(auto.states, adams.states)
    assert auto.counts["gradients"] < 0.6 * pair.counts["gradients"]
    assert np.linalg.norm(auto.end - truth) < 10 * rtol * np.linalg.norm(truth)


def test_plain_flows_take_the_pair_at_tight_tolerances(saddles):
    auto, pair = (gf.simulate(*saddles, FLOW, t_end=20.0, rtol=5e-10, solver=name) for name in ("auto", "dop853"))
    np.testing.assert_array_equal(auto.states, pair.states)


def test_no_change_where_little_is_left(saddles):
    """The first change of a run to T = 400 is not made in one that ends 500 gradients later."""
    problem, start = saddles
    stepper = auto_stepper(problem, start, 1e-6)
    while not stepper.notes:
        stepper.advance(400.0, max_steps=1)
    ends = stepper.t + 500 / 12 * stepper._current.step
    shorter = auto_stepper(problem, start, 1e-6)
    assert shorter.advance(ends) == Status.REACHED_END
    assert shorter.notes == []


def auto_stepper(problem, start, rtol):
    field = make_field(problem, FLOW, problem.kernel)
    return Auto(field, 0.0, start, rtol=rtol, atol=1e-2 * rtol, symmetric=True, kinked=False)


def test_pausing_and_restoring_change_no_bits_across_changes_of_the_method(saddles):
    problem, start = saddles
    whole = auto_stepper(problem, start, 1e-6)
    while whole.advance(300.0) == Status.PAUSED:
        pass
    paused, restored = auto_stepper(problem, start, 1e-6), auto_stepper(problem, start, 1e-6)
    changes, snapshots = 0, []
    while paused.advance(300.0, max_steps=1) == Status.PAUSED:
        if len(paused.notes) > changes:
            changes = len(paused.notes)
            snapshots.append(paused.snapshot())
    assert changes >= 3
    np.testing.assert_array_equal(paused.state, whole.state)
    assert paused.counts == whole.counts
    for snapshot in snapshots:
        restored.restore(snapshot)
        while restored.advance(300.0) == Status.PAUSED:
            pass
        np.testing.assert_array_equal(restored.state, whole.state)
        assert restored.counts == whole.counts


def test_a_run_goes_on_and_is_looked_at_between_its_points_across_changes(saddles):
    whole = gf.simulate(*saddles, FLOW, t_end=300.0, rtol=1e-6, save_at=31)
    halves = gf.simulate(*saddles, FLOW, t_end=100.0, rtol=1e-6).extend(300.0)
    np.testing.assert_array_equal(halves.end, whole.end)
    np.testing.assert_array_equal(whole.at(whole.t[1:-1]), whole.theta[1:-1])


@pytest.mark.parametrize("rtol", [1e-2, 0.1, 0.9])
def test_loose_tolerances_miss_no_saddle(saddles, truth, rtol):
    """Every saddle is left when the flow leaves it: the loss passes levels on the way at the same times."""
    options = {"t_end": 400.0, "save_at": 4001}
    loose = gf.simulate(*saddles, FLOW, rtol=rtol, **options)
    tight = gf.simulate(*saddles, FLOW, rtol=1e-12, solver="dop853", **options)
    levels = np.geomspace(0.9 * tight.loss[0], 1.1 * tight.loss[-1], 9)
    passed = [[run.t[np.argmax(run.loss < level)] for level in levels] for run in (loose, tight)]
    np.testing.assert_allclose(*passed, rtol=0.01)
    assert np.linalg.norm(loose.end - truth) < 0.01 * np.linalg.norm(truth)


@compiled
def both_sums(sums, j, rows, base, with_base, without):
    weights, places = address_of(sums.weights[j]), address_of(sums.places[j])
    count, step = sums.counts[j], rows.strides[0] // 8
    where = address_of(base), address_of(with_base), address_of(without)
    add_rows(base.size, count, weights, places, address_of(rows), step, where[0], where[1], 0.3)
    sum_rows(base.size, count, weights, places, address_of(rows), step, 0, where[2], 0.3)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 33, 100])
def test_weighted_sums_of_rows_are_those_of_numpy_and_write_nothing_else(size):
    rng = np.random.default_rng(size)
    table = rng.standard_normal((3, 6)) * (rng.random((3, 6)) < 0.6)
    table[0] = 0.0
    rows, base, out = rng.standard_normal((6, size + 3)), rng.standard_normal(size), np.full((2, size + 2), 7.0)
    for j in range(3):
        both_sums(without_zeros(table), j, rows[:, :size], base, out[0, 1:-1], out[1, 1:-1])
        expected = 0.3 * table[j] @ rows[:, :size]
        np.testing.assert_allclose(out[:, 1:-1], [base + expected, expected], rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(out[:, [0, -1]], 7.0)


@compiled
def corrected(out, weights, places, rows, y, p, atol, norms):
    addresses = address_of(y), address_of(p), address_of(atol), address_of(out), address_of(norms)
    table, step = address_of(rows), rows.strides[0] // 8
    correct_rows(
        y.size, places.size, address_of(weights), weights.strides[0] // 8, address_of(places), table, step, *addresses,
        0.7, 1e-2,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 100])
def test_a_correction_and_its_norms_are_those_of_numpy_and_write_nothing_else(size):
    rng = np.random.default_rng(size)
    weights, places, rows = rng.standard_normal((3, 4)), np.array([5, 0, 2, 3]), rng.standard_normal((6, size))
    (y, p), atol = rng.standard_normal((2, size)), rng.uniform(0.1, 1.0, size)
    out, norms = np.full(size + 2, 7.0), np.full(7, 7.0)
    corrected(out[1:-1], weights, places, rows, y, p, atol, norms[1:-1])
    low, middle, high = weights @ rows[places]
    tolerance = atol + 1e-2 * np.maximum(abs(y), abs(p))
    squares = [a @ a for a in (low / tolerance, middle / tolerance, high / tolerance, y, middle)]
    np.testing.assert_allclose(out[1:-1], p + 0.7 * middle, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(norms[1:-1], squares, rtol=1e-13)
    np.testing.assert_array_equal([*out[[0, -1]], *norms[[0, -1]]], 7.0)
