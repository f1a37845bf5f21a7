"""The kinked stepper on nets of one or two neurons, whose paths are known in closed form, and its interface."""

import numpy as np
import pytest
from test_kinks_cases import euler

import gradflow as gf
from gradflow.kinks import probability_active
from gradflow.status import Status
from gradflow.steppers.kinked import Kinked
from gradflow.steppers.kinked_branches import branches

SQUARE = gf.losses.Square(reduction="sum", half=True)


def two_layers(x, y, width=1):
    return gf.Problem(gf.FullyConnected([len(x[0]), width, 1]), SQUARE, x, y)


def hyperbola(c, top, bottom, rate, start, t):
    """(p, a) on p^2 - a^2 = c with (E - top)/(E - bottom) ~ exp(-rate t), E = (p + a)^2 / c."""
    at_start = sum(start) ** 2 / c
    ratio = (at_start - top) / (at_start - bottom) * np.exp(-rate * t)
    root = np.sqrt((top - ratio * bottom) / (1.0 - ratio))
    return np.sqrt(c) * (root + 1.0 / root) / 2.0, np.sqrt(c) * (root - 1.0 / root) / 2.0


class TestSlide:
    """x1 = (1, 1), y1 = 1, x2 = (0, 1), y2 = -1.2: the path reaches q = 0 and slides."""

    problem = two_layers([[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    start = np.array([0.4, -0.1, 0.3 / np.sqrt(2)])
    first, kink = 0.09 / np.sqrt(2), 0.25 / np.sqrt(2)
    t_slide = np.log((1.0 / first - 1.0) / (1.0 / kink - 1.0)) / (2.0 * np.sqrt(2))

    def exact(self, t):
        c = 0.125
        ends = 2.0 / c + np.sqrt(4.0 / c**2 + 1.0), 2.0 / c - np.sqrt(4.0 / c**2 + 1.0)
        p, a = hyperbola(c, *ends, c / 2 * (ends[0] - ends[1]) * 2, (0.5, 0.5 / np.sqrt(2)), t - self.t_slide)
        return np.array([p, 0.0, a]), (1.0 - a * p) / 1.2

    @pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10, 1e-12])
    def test_end_and_time_of_the_slide(self, rtol):
        run = Kinked(self.problem, 0.0, self.start, rtol=rtol)
        assert run.advance(2.0) is Status.REACHED_END
        np.testing.assert_allclose(run.state, [0.953522041595, 0.0, 0.885553094855], rtol=0, atol=rtol + 2e-12)
        assert abs(run.masks[1] - 0.129671337544) < 5 * rtol + 1e-12
        assert run.events["kind"].tolist() == ["slide"]
        assert abs(run.events["time"][0] - self.t_slide) < rtol
        assert run.state[1] == pytest.approx(0.0, abs=1e-15)

    def test_few_gradients(self):
        run = Kinked(self.problem, 0.0, self.start, rtol=1e-8)
        run.advance(2.0)
        assert run.counts["gradients"] < 1.3 * 142

    def test_saved_states_are_those_of_the_path(self):
        times = np.linspace(0.0, 2.0, 41)
        saved = np.empty((41, 3))
        run = Kinked(self.problem, 0.0, self.start, rtol=1e-9)
        run.advance(2.0, save_at=times, saved=saved)
        sliding = times > self.t_slide
        product = saved[sliding, 0] ** 2 - saved[sliding, 2] ** 2
        np.testing.assert_allclose(product, 0.125, atol=1e-8)
        np.testing.assert_allclose(saved[sliding, 1], 0.0, atol=1e-14)
        logistic = 1.0 / (1.0 + (1.0 / self.first - 1.0) * np.exp(-2.0 * np.sqrt(2) * times[~sliding]))
        np.testing.assert_allclose(np.sqrt(2) * saved[~sliding, 2] ** 2, logistic, atol=1e-7)


class TestExit:
    """A second neuron takes over sample 2; the mask reaches 1 and sliding ends."""

    problem = two_layers([[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2], width=2)
    start = np.array([0.4, -0.1, -3.0, 0.3, 0.3 / np.sqrt(2), -0.3])

    @pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8, 1e-10])
    def test_time_of_the_exit_and_end(self, rtol):
        run = Kinked(self.problem, 0.0, self.start, rtol=rtol)
        run.advance(3.0)
        assert run.events["kind"].tolist() == ["slide", "exit"]
        assert run.events["mask"][1] == 1.0
        assert abs(run.events["time"][1] - 1.265193773871) < 5 * rtol + 1e-11
        end = [1.0090642656, 0.0284855425, -3.0, 1.1009644640, 0.9455274286, -1.1009644640]
        np.testing.assert_allclose(run.state, end, rtol=0, atol=rtol + 1e-10)
        times, numbers = run.number_sliding
        assert numbers.tolist() == [1, 0]
        np.testing.assert_array_equal(times, run.events["time"])


class TestBranch:
    """The output weight of a neuron with a sliding kink crosses 0: the flow is not unique afterwards."""

    x, y = [[1.0, 1.0], [0.0, 1.0], [1.0, -1.0]], [0.3, -2.0, -1.0]
    problem = two_layers(x, y)
    start = np.array([1.0, 0.0, 0.3])
    ends = {
        "stay": (1.0113331636, 0.0, -0.3358493231),
        "inactive": (0.9358044242, -0.5468173795, -0.5145281012),
        "active": (0.9957110707, 0.2492499704, -0.3789011534),
    }

    @staticmethod
    def time():
        c, s = 0.91, -0.7
        top, bottom = s / c + np.sqrt((s / c) ** 2 + 1.0), s / c - np.sqrt((s / c) ** 2 + 1.0)
        ratio = [(e - top) / (e - bottom) for e in (1.3**2 / c, 1.0)]
        return np.log(ratio[0] / ratio[1]) / (c * (top - bottom))

    @pytest.mark.parametrize("choice", ["stay", "inactive", "active"])
    @pytest.mark.parametrize("rtol", [1e-6, 1e-9])
    def test_each_choice(self, choice, rtol):
        run = Kinked(self.problem, 0.0, self.start, rtol=rtol, at_branch=choice)
        run.advance(2.0)
        np.testing.assert_allclose(run.state, self.ends[choice], rtol=0, atol=5 * rtol + 1e-10)
        row = run.events[run.events["kind"] == "branch"]
        assert abs(row["time"][0] - self.time()) < 5 * rtol
        assert row["mask"][0] == pytest.approx(0.65, abs=1e-6)
        assert "not unique after t = 0.322267: layer 1 neuron 0, sigma = 0.65" in run.message

    def test_likely_is_the_side_that_gradient_descent_takes_more_often(self):
        run = Kinked(self.problem, 0.0, self.start)
        run.advance(2.0)
        np.testing.assert_allclose(run.state, self.ends["active"], atol=1e-5)

    def test_stop_waits_for_a_choice(self):
        run = Kinked(self.problem, 0.0, self.start, rtol=1e-9, at_branch="stop")
        assert run.advance(2.0) is Status.EVENT
        assert run.t == pytest.approx(self.time(), abs=1e-8)
        assert run.advance(2.0) is Status.EVENT
        kept = run.snapshot()
        for choice in ("inactive", "stay", "active", [0]):
            run.restore(kept)
            run.choose(choice)
            assert run.advance(2.0) is Status.REACHED_END
            end = self.ends["inactive" if choice == [0] else choice]
            np.testing.assert_allclose(run.state, end, atol=1e-8)
        with pytest.raises(ValueError, match="does not wait"):
            run.choose("active")

    def test_branches_are_weighted_paths(self):
        run = Kinked(self.problem, 0.0, self.start, rtol=1e-9)
        run.advance(1.0)
        paths = branches(self.problem, run.branch_points[0], rtol=1e-9)
        assert [share for share, _ in paths] == pytest.approx([0.8, 0.2])
        for (_, path), side in zip(paths, ("active", "inactive"), strict=True):
            assert path.t == pytest.approx(self.time(), abs=1e-8)
            path.advance(2.0)
            np.testing.assert_allclose(path.state, self.ends[side], atol=1e-8)

    def test_the_start_on_a_kink_is_recorded(self):
        run = Kinked(self.problem, 0.0, self.start)
        assert run.events["kind"].tolist() == ["start", "slide"]
        assert run.events["mask"][1] == pytest.approx(0.65)

    def test_share_of_gradient_descents_from_random_starts(self):
        rng = np.random.default_rng(0)
        x, y, step = np.array(self.x), np.array(self.y), 1e-2
        p, q, a = self.start[:, None] + 1e-2 * rng.normal(size=(3, 2000))
        for _ in range(150):
            z = np.outer(x[:, 0], p) + np.outer(x[:, 1], q)
            error = a * np.maximum(z, 0.0) - y[:, None]
            pull = -step * a * error * (z > 0.0)
            p, q, a = p + x[:, 0] @ pull, q + x[:, 1] @ pull, a - step * (error * np.maximum(z, 0.0)).sum(0)
        assert np.mean(q > 0.0) == pytest.approx(probability_active(0.65), abs=0.04)


class TestConventions:
    def test_a_ridge_at_the_start_is_left_on_the_inactive_side(self):
        """d < 0 and v0 < 0 < v1 at z = 0: three continuations, relu'(0) = 0 takes one."""
        problem = two_layers([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])
        run = Kinked(problem, 0.0, [1.0, 0.0, 0.5])
        run.advance(1.0)
        assert run.events["kind"].tolist() == ["start"]
        assert run.events["mask"].tolist() == [0.0]
        assert run.state[1] == 0.0

    def test_zero_and_dead_neurons_rest(self):
        rng = np.random.default_rng(3)
        problem = gf.Problem(
            gf.FullyConnected([3, 4, 1], bias=True), SQUARE, rng.normal(size=(9, 3)), rng.normal(size=9)
        )
        layers = {name: block.copy() for name, block in problem.layers(problem.init(1.0, seed=1)).items()}
        layers["W1"][0], layers["b1"][0], layers["W2"][0, 0] = 0.0, 0.0, 0.7
        layers["b1"][1] = -50.0
        theta = problem.flatten(layers)
        run = Kinked(problem, 0.0, theta)
        assert run.advance(5.0) is Status.REACHED_END
        after = problem.layers(run.state)
        np.testing.assert_array_equal(after["W1"][:2], layers["W1"][:2])
        np.testing.assert_array_equal(after["b1"][:2], layers["b1"][:2])
        assert (run.events["neuron"][run.events["kind"] != "start"] > 1).all()


class TestAbsoluteValue:
    """Slopes -1 and 1 on the two sides: the mask sigma of a sliding kink stands for the slope 2 sigma - 1."""

    def test_a_kink_at_the_start_slides_with_the_slope_that_holds_it(self):
        """f = a |w.x| on (1, 1) and (0, 1): along w = (p, 0) balance makes p a logistic curve, slope (1 - a p)/1.2."""
        p = 0.4
        problem = gf.Problem(gf.FullyConnected([2, 1, 1], "abs"), SQUARE, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
        run = Kinked(problem, 0.0, [p, 0.0, p], rtol=1e-9)
        assert run.sliding.tolist() == [1]
        assert run.advance(1.5) is Status.REACHED_END
        product = 1.0 / (1.0 + (1.0 / p**2 - 1.0) * np.exp(-2.0 * 1.5))
        np.testing.assert_allclose(run.state, [np.sqrt(product), 0.0, np.sqrt(product)], atol=1e-8)
        assert 2.0 * run.masks[1] - 1.0 == pytest.approx((1.0 - product) / 1.2, abs=1e-8)

    def test_in_one_dimension_a_weight_comes_to_zero_and_stays_with_slope_zero(self):
        """f = a |w| pulled to -Y: u = (w + a)^2 has u' = -(u^2 + 4 Y u - c^2)/2, c = w^2 - a^2, until u = -c."""
        w, a, pull = 0.8, 1.3, 0.7
        c, middle = w**2 - a**2, np.sqrt(4.0 * pull**2 + (w**2 - a**2) ** 2)

        def phase(u):
            return np.log((u + 2.0 * pull - middle) / (u + 2.0 * pull + middle)) / middle

        problem = gf.Problem(gf.FullyConnected([1, 1, 1], "abs"), SQUARE, [[1.0]], [-pull])
        run = Kinked(problem, 0.0, [w, a], rtol=1e-9)
        assert run.advance(3.0) is Status.REACHED_END
        assert run.events["kind"].tolist() == ["slide"]
        assert run.events["time"][0] == pytest.approx(phase((w + a) ** 2) - phase(-c), abs=1e-8)
        assert run.masks[0] == pytest.approx(0.5, abs=1e-9)
        np.testing.assert_allclose(run.state, [0.0, np.sqrt(-c)], atol=1e-8)

    @pytest.mark.parametrize("seed", range(4))
    def test_one_input_with_biases_agrees_with_gradient_descent(self, seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(9, 1))
        problem = gf.Problem(gf.FullyConnected([1, 6, 1], "abs", bias=True), SQUARE, x, np.sin(3.0 * x))
        theta = problem.init(0.7, seed=seed, bias=0.5)
        run = Kinked(problem, 0.0, theta, rtol=1e-8)
        assert run.advance(3.0) is Status.REACHED_END
        assert {"cross", "slide"} <= set(run.events["kind"])
        rough, fine = (np.abs(euler(problem, theta, step, 3.0) - run.state).max() for step in (2e-3, 2.5e-4))
        assert fine < 0.4 * rough


class TestInterface:
    problem, start = TestBranch.problem, TestBranch.start

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match="choose one of likely, active"):
            Kinked(self.problem, 0.0, self.start, at_branch="both")
        with pytest.raises(ValueError, match="one run at a time"):
            Kinked(self.problem, 0.0, np.ones((2, 3)))
        with pytest.raises(ValueError, match="rtol = 0"):
            Kinked(self.problem, 0.0, self.start, rtol=0.0)
        with pytest.raises(ValueError, match="goes forward"):
            Kinked(self.problem, 1.0, self.start).advance(0.5)
        other = gf.Problem(gf.Diagonal(2), SQUARE, [[1.0, 2.0]], [1.0])
        smooth = gf.Problem(gf.FullyConnected([2, 2, 1], "tanh"), SQUARE, [[1.0, 2.0]], [1.0])
        for problem, words in ((other, "layers of known activations"), (smooth, "no layer has kinks")):
            with pytest.raises(ValueError, match=words):
                Kinked(problem, 0.0, np.ones(problem.size))

    def test_a_coarse_tolerance_is_refined_and_said(self):
        run = Kinked(self.problem, 0.0, self.start, rtol=1e-2)
        assert "rtol = 0.0001 was used" in run.message

    def test_stops(self):
        run = Kinked(self.problem, 0.0, self.start)
        assert run.advance(2.0, max_steps=3) is Status.PAUSED
        assert run.advance(2.0, max_gradients=run.counts["gradients"] + 3) is Status.GRADIENT_BUDGET
        level = 0.99 * run.value
        assert run.advance(2.0, loss_below=level) is Status.LOSS_BELOW
        assert run.value < level
        assert Kinked(self.problem, 0.0, [np.nan, 0.0, 1.0]).advance(1.0) is Status.NOT_FINITE_START
        assert Kinked(self.problem, 0.0, [1e200, 1.0, 1e200]).advance(1.0) is Status.NOT_FINITE_START

    def test_snapshots_hold_arrays_and_numbers_only(self):
        run = Kinked(self.problem, 0.0, self.start)
        run.advance(1.0)
        for value in run.snapshot().values():
            assert isinstance(value, int | float) or value.dtype.kind in "if"

    def test_a_snapshot_of_another_problem_is_refused(self):
        other = two_layers([[1.0, 1.0]], [1.0], width=2)
        with pytest.raises(ValueError, match="same problem"):
            Kinked(other, 0.0, np.ones(6)).restore(Kinked(self.problem, 0.0, self.start).snapshot())
