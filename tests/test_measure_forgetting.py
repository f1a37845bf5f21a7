"""What descent with decay keeps of the earlier weights: the sum of its batch gradients, found again."""

import numpy as np
import pytest

import gradflow as gf


def trained(rule, decay=0.05, steps=30):
    """Run of a ReLU network on random labels, all steps saved."""
    x, y = gf.data.random_labels(12, 10, 4)
    problem = gf.Problem(gf.FullyConnected([10, 9, 4]), gf.losses.Square(), x, y, decay=decay)
    return gf.simulate(problem, problem.init(seed=1), rule, t_end=rule.step * steps, save_at=steps + 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_rank_added_is_that_of_the_sum_of_the_gradients(batch):
    run, k = trained(gf.SGD(0.1, batch_size=batch, seed=3)), 3
    found, problem, keep = gf.measure.forgetting(run, k), run.problem, 1 - 2 * 0.1 * 0.05
    assert found.rank.tolist() == [3 * batch, min(3 * batch, 4)]
    for layer, name in enumerate(("W1", "W2")):
        late, early = problem.layers(run.end)[name], problem.layers(run.theta[-1 - k])[name]
        values = np.linalg.svd(late, compute_uv=False)
        assert found.tail[layer] == pytest.approx(np.linalg.norm(values[k * batch :]) / np.linalg.norm(late), abs=1e-15)
        assert found.bound[layer] == pytest.approx(keep**k * np.linalg.norm(early) / np.linalg.norm(late), rel=1e-14)
    assert (found.tail <= found.bound).all()


def test_all_samples_are_one_batch_of_descent():
    assert gf.measure.forgetting(trained(gf.GD(0.1)), 1).rank.tolist() == [9, 4]


def test_other_runs_and_steps_that_are_not_saved_are_refused():
    with pytest.raises(ValueError, match="last 31 steps of 0.1 must all be saved"):
        gf.measure.forgetting(trained(gf.SGD(0.1)), 31)
    problem = trained(gf.GD(0.1)).problem
    sparse = gf.simulate(problem, problem.init(seed=1), gf.GD(0.1), t_end=3.0, save_at=16)
    with pytest.raises(ValueError, match="must all be saved"):
        gf.measure.forgetting(sparse, 2)
    for rule in (gf.GradientFlow(), gf.Momentum(0.1, beta=0.5), gf.GD(0.1, flow=gf.LMFlow())):
        free = gf.Problem(problem.network, problem.loss, problem.x, problem.y)
        run = gf.simulate(free, free.init(seed=1), rule, t_end=1.0, save_at=11)
        with pytest.raises(TypeError, match="must be one of gf.GD or gf.SGD"):
            gf.measure.forgetting(run, 1)


@pytest.mark.parametrize("rule", [gf.GD(0.1), gf.SGD(0.1, batch_size=2), gf.GradientFlow()])
def test_what_no_input_sees_decays_at_the_rate_of_the_decay(rule):
    x, y = gf.data.random_labels(6, 10, 4)
    problem = gf.Problem(gf.FullyConnected([10, 9, 4], "tanh"), gf.losses.Square(), x, y, decay=0.05)
    run = gf.simulate(problem, problem.init(seed=1), rule, t_end=3.0, save_at=31, rtol=1e-10)
    found = gf.measure.unseen_decay(run)
    expected = 0.99 ** np.arange(31) if rule.discrete else np.exp(-0.1 * run.t)
    assert found.law == pytest.approx(expected, rel=1e-12)
    assert found.size == pytest.approx(expected, rel=1e-8)
    assert found.error.max() < (1e-8 if rule == gf.GradientFlow() else 1e-14)
    other = gf.Problem(problem.network, problem.loss, x, y, decay=0.06)
    faster = gf.simulate(other, run.theta[0], rule, t_end=3.0, rtol=1e-10)
    assert gf.measure.unseen_decay(faster).size[-1] < 0.98 * found.size[-1]


def test_the_unseen_part_of_other_dynamics_is_refused():
    run = trained(gf.GD(0.1))
    free = gf.Problem(run.problem.network, run.problem.loss, run.problem.x, run.problem.y)
    with pytest.raises(TypeError, match="must be one of the plain gradient flow"):
        gf.measure.unseen_decay(gf.simulate(free, free.init(seed=1), gf.LMFlow(), t_end=1.0))
