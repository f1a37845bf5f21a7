"""Many states of a small linear network are put back together, eight at a time, as each alone would be."""

import numpy as np
import pytest
from cases import make
from numba import njit

import gradflow as gf
from gradflow.dynamics.balance import TOLERANCE, Balance
from gradflow.dynamics.manifold import manifold
from gradflow.lanes import balance as lanes
from gradflow.lanes.balance_own import finish
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.conserving import Conserving
from gradflow.steppers.explicit import Explicit

PLAIN = gf.GradientFlow()
NETWORKS = {
    "square layers": gf.DeepLinear([4, 4, 4, 4]),
    "one hidden layer": gf.DeepLinear([5, 3, 4]),
    "a narrow end": gf.DeepLinear([4, 5, 3, 2]),
    "four layers": gf.DeepLinear([4, 4, 4, 4, 4]),
    "skips beside matrices": gf.ResidualLinear(3, 3, readout=3),
    "units of one": gf.DeepLinear([1, 1, 1, 1]),
    "biases": gf.FullyConnected([4, 4, 4], "linear", bias=True),
}


def states_of(network, drift, count=19):
    """States along a line with errors of a size, their common quantities and the surface."""
    problem = make(network, "half square sum", n=4, decay=0.0)
    rng = np.random.default_rng(3)
    start = 0.7 * rng.standard_normal(problem.size)
    surface = Balance(problem, None)
    line = np.linspace(0.0, drift, count)[:, None] * rng.standard_normal(problem.size)
    return surface, start + line + 0.1 * drift * rng.standard_normal((count, problem.size)), surface.values(start)


def jacobian(surface, state):
    h = 1e-6
    columns = [(surface.values(state + h * e) - surface.values(state - h * e)) / (2 * h) for e in np.eye(state.size)]
    return np.stack(columns, axis=1)


def nearest(surface, state, target):
    """The nearest state with the target, by Newton's method with pseudo-inverses of difference quotients."""
    moved = state.copy()
    for _ in range(8):
        J = jacobian(surface, moved)
        missing = target - surface.values(moved)
        moved += np.linalg.pinv(J, rcond=1e-7) @ missing
    return moved


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("drift", [1e-3, 1e-9])
def test_all_states_get_there_close_to_the_nearest_point(name, drift):
    surface, states, target = states_of(NETWORKS[name], drift)
    raw = states.copy()
    done = np.zeros(len(states), dtype=bool)
    lanes.put_back_all(surface._program, surface.lanes, states, target[None], TOLERANCE, done)
    assert done.all()
    size = max(1.0, (states**2).sum(1).max())
    assert max(np.abs(surface.values(state) - target).max() for state in states) < 1e-14 * size
    if drift == 1e-3:
        best = np.stack([nearest(surface, state, target) for state in raw])
        assert np.linalg.norm(states - best, axis=1).max() < 0.25 * np.linalg.norm(best - raw, axis=1).max()


@pytest.mark.parametrize("name", ["square layers", "skips beside matrices", "units of one", "a narrow end", "biases"])
def test_the_factor_is_that_of_the_moves_of_all_multipliers(name):
    surface, states, target = states_of(NETWORKS[name], 1e-6, count=1)
    surface.put_back_all(states, target[None])
    J, places = jacobian(surface, states[0]), []
    for units, _, values, *_ in surface._program.groups:
        upper = [(i, j) for i in range(units) for j in range(i, units)]
        places += [(values + i * units + j, 1.0 if i == j else 2.0) for i, j in upper]
    moves = np.stack([weight * J[place] for place, weight in places])
    factor = np.triu(surface.lanes.factor).T
    assert np.abs(factor @ factor.T - moves @ moves.T).max() < 1e-4 * np.abs(moves @ moves.T).max()


@njit
def finish_now(program, room, worst):
    return finish(program, room, worst)


@pytest.mark.parametrize("name", ["square layers", "one hidden layer", "units of one", "biases"])
def test_the_last_step_leaves_no_more_than_it_says_and_is_not_taken_where_it_is_long(name):
    surface, states, target = states_of(NETWORKS[name], 1e-4, count=1)
    room, missing = surface.lanes, target - surface.values(states[0])
    room.theta[:], room.missing[:], room.sizes[:] = np.repeat(states[0], 8), np.repeat(missing, 8), 1.0
    worst, shortest = np.abs(missing).max(), 1e-3 * np.abs(missing).max()
    room.way[:] = shortest**2
    assert finish_now(surface._program, room, worst) == np.inf
    assert np.array_equal(room.theta, np.repeat(states[0], 8))
    room.way[:] = 1.0
    bound = finish_now(surface._program, room, worst)
    assert bound < 1e-3 * worst
    for state in room.theta.reshape(-1, 8).T:
        left = np.abs(target - surface.values(np.ascontiguousarray(state))).max()
        assert left < bound + 4e-15
        assert left < 1e-5 * worst


def test_targets_of_their_own_and_states_alone_give_the_same():
    surface, states, target = states_of(NETWORKS["square layers"], 1e-5)
    targets = target * np.linspace(1.0, 0.999, len(states))[:, None]
    together = states.copy()
    surface.put_back_all(together, targets)
    for raw, state, own in zip(states, together, targets, strict=True):
        assert np.abs(surface.values(state) - own).max() < 1e-14 * (state @ state)
        assert np.linalg.norm(surface.put_back(raw, own) - state) < 0.5 * np.linalg.norm(state - raw)


def test_layers_that_no_multiplier_moves_are_left_to_the_other_way():
    surface, states, target = states_of(gf.DeepLinear([2, 6, 1]), 1e-4)
    done = np.zeros(len(states), dtype=bool)
    lanes.put_back_all(surface._program, surface.lanes, states.copy(), target[None], TOLERANCE, done)
    assert not done.any()
    surface.put_back_all(states, target[None])
    assert max(np.abs(surface.values(state) - target).max() for state in states) < 1e-13


def test_which_programs_are_put_back_eight_at_a_time():
    def has_lanes(network):
        return Balance(make(network, "half square sum"), None)._plan.in_lanes is not None

    assert all(has_lanes(network) for network in NETWORKS.values())
    assert not has_lanes(gf.FullyConnected([3, 4, 1], "relu"))
    assert not has_lanes(gf.DeepLinear([30, 30, 30]))


def test_states_that_are_not_finite_stay_as_they_are():
    problem = make(NETWORKS["square layers"], "half square sum", n=4)
    start = problem.init(0.5, seed=0)
    field, surface = make_field(problem, PLAIN, problem.kernel), manifold(problem, PLAIN)
    stepper = Conserving(Explicit(field, 0.0, start, rtol=1e-4, atol=1e-6), surface)
    saved, times = np.zeros((12, problem.size)), np.linspace(0.0, 2.0, 12)
    assert stepper.advance(2.0, save_at=times, saved=saved) == Status.REACHED_END
    shown = saved + 1e-6
    shown[3] = np.nan
    stepper._show(times, shown)
    assert np.isnan(shown[3]).all()
    assert np.array_equal(shown[0], saved[0] + 1e-6)
    rest = np.delete(shown, [0, 3], axis=0)
    assert max(np.abs(surface.values(state) - surface.values(start)).max() for state in rest) < 1e-13
