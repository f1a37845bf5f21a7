"""The claims can fail: each wrong library makes a named claim fail."""

import matplotlib
import numpy as np
import pytest

import gradflow as gf
from gradflow.dynamics import discrete, polar
from gradflow.kernels.calls import call

matplotlib.use("Agg")
pytestmark = pytest.mark.slow


def unprojected_lm(t, state, out, chain, numbers, layout, work, coefficients):
    """Velocity of (rho, V) without the Lagrange multiplier."""
    groups, size = int(coefficients[0]), int(coefficients[1])
    starts = coefficients[7 : 8 + groups]
    last = int(starts[groups - 1])
    theta, gradient = np.empty(size), np.empty(size)
    theta[:last] = state[1 : 1 + last]
    theta[last:] = state[0] * state[1 + last :]
    value = call(chain[0], theta, gradient, numbers, layout, work)
    out[0] = -np.dot(state[1 + last :], gradient[last:]) - 2.0 * coefficients[3] * state[0]
    gradient[last:] *= state[0]
    for i in range(size):
        out[1 + i] = -gradient[i]
    return value


def no_multiplier(patch):
    """LM flow without its projector."""
    patch.setattr(gf.LMFlow, "links", lambda self, problem: (unprojected_lm,))


def scaled_rho_decay(factor):
    """LM flow whose rho decays at a factor of 2 lambda; 0 is decay on the layers, which their spheres take away."""

    def mutate(patch):
        given = gf.LMFlow.coefficients

        def coefficients(self, problem):
            numbers = np.array(given(self, problem))
            numbers[3] *= factor
            return numbers

        patch.setattr(gf.LMFlow, "coefficients", coefficients)

    mutate.__name__ = f"rho_decay_{factor}"
    return mutate


def double_loss(patch):
    """Square loss twice as large."""
    factor = gf.losses.Square.factor
    patch.setattr(gf.losses.Square, "factor", lambda self, n: 2 * factor(self, n))


def plain_rates(patch):
    """Polar flow with the rates of the plain one, whatever was asked for."""
    velocity = polar.PolarFlow.coefficients

    def coefficients(self, problem):
        numbers = np.array(velocity(self, problem))
        numbers[3:7] = (1.0, 0.0, 1.0, -2.0)
        return numbers

    patch.setattr(polar.PolarFlow, "coefficients", coefficients)


def transposed_layer(patch):
    """Second layer read by columns."""
    layers = gf.Problem.layers

    def wrong(self, theta):
        views = dict(layers(self, theta))
        if "W2" in views:
            shape = views["W2"].shape
            views["W2"] = views["W2"].swapaxes(-1, -2).reshape(shape)
        return views

    patch.setattr(gf.Problem, "layers", wrong)


def transposed_velocity(t, state, out, chain, numbers, layout, work, coefficients):
    """Gradient flow whose second layer moves along its gradient read by columns."""
    value = call(chain[0], state, out, numbers, layout, work)
    start, rows, columns = int(coefficients[0]), int(coefficients[1]), int(coefficients[2])
    block = out[start : start + rows * columns].copy()
    for i in range(rows):
        for j in range(columns):
            out[start + j * rows + i] = block[i * columns + j]
    for i in range(out.size):
        out[i] = -out[i]
    return value


def transposed_gradient(patch):
    """Second layer transposed in the dynamics."""

    def coefficients(self, problem):
        places = problem.layers(np.arange(float(problem.size)))["W2"]
        return np.array([places[0, 0], *places.shape])

    patch.setattr(gf.GradientFlow, "links", lambda self, problem: (transposed_velocity,))
    patch.setattr(gf.GradientFlow, "coefficients", coefficients)


def larger_batches(patch):
    """SGD with one sample more than asked for."""
    prepared = discrete.SGD.prepared

    def wrong(self, problem, theta):
        size = min(self.batch_size + 1, problem.n)
        return prepared(discrete.SGD(self.step, self.flow, size, self.replacement, self.seed), problem, theta)

    patch.setattr(discrete.SGD, "prepared", wrong)


def torch_decay(patch):
    """Decay lambda in place of 2 lambda."""
    begin = gf.Problem.__init__

    def wrong(self, *arguments, decay=0.0, **options):
        begin(self, *arguments, decay=decay / 2, **options)

    patch.setattr(gf.Problem, "__init__", wrong)


def late_by_one(patch):
    """Discrete runs compared with the flow one step late."""
    begin = gf.Comparison.__init__

    def wrong(self, flow, runs, *arguments):
        begin(self, flow, runs, *arguments)
        self.t = [np.minimum(t + h, flow.t_end) for t, h in zip(self.t, self.steps, strict=True)]

    patch.setattr(gf.Comparison, "__init__", wrong)


def threshold_without_coupling(patch):
    """Proximal map at half the threshold."""
    from gradflow.penalties import L1

    prox = L1.prox
    patch.setattr(L1, "prox", lambda self, w, threshold: prox(self, w, threshold / 2))


def no_sine(patch):
    """Population gradient with the angle slightly wrong."""
    from gradflow.population import ConvolutionalPopulation

    angle = ConvolutionalPopulation.angle
    patch.setattr(ConvolutionalPopulation, "angle", lambda self, w: 0.9 * angle(self, w))


def double_mu(patch):
    """Penalty Q_mu with mu twice as large as asked for."""
    separator = gf.exact.diagonal_max_margin
    patch.setattr(gf.exact, "diagonal_max_margin", lambda z, mu: separator(z, 2 * mu))


def wrong_sign(patch):
    """Bound of the rank with the conserved matrices turned round."""
    from gradflow.measure import rank_bounds

    differences = rank_bounds.gram_differences

    def wrong(problem, theta):
        return {name: -matrix for name, matrix in differences(problem, theta).items()}

    patch.setattr(rank_bounds, "gram_differences", wrong)


def shallower(patch):
    """Diagonal networks that compute with one factor less."""
    weights = gf.Diagonal.weights

    def wrong(self, layers):
        return weights(gf.Diagonal(self.dim, max(self.depth - 1, 1), self.signed), layers)

    patch.setattr(gf.Diagonal, "weights", wrong)


MUTATIONS = [
    (double_mu, "deep-linear-classification-init-scale", "paths", "q_path"),
    (shallower, "deep-linear-classification-init-scale", "depths", "closed_form"),
    (transposed_layer, "low-rank-training-invariances", "deep-linear", "linear_invariant"),
    (wrong_sign, "low-rank-training-invariances", "deep-linear", "rank_one_bound"),
    (double_loss, "flat-minima-deep-linear", "flow-sharpness", "balanced_sharpness"),
    (double_loss, "continuous-vs-discrete", "certificates", "closed_form_n2"),
    (no_multiplier, "square-loss-dynamics", "plain-and-polar", "fall"),
    (scaled_rho_decay(0.0), "square-loss-dynamics", "neural-collapse", "rho"),
    (scaled_rho_decay(0.5), "square-loss-dynamics", "neural-collapse", "gain"),
    (plain_rates, "weight-norm-diagonal", "invariant-drift", "plain_time"),
    (transposed_layer, "square-loss-dynamics", "rho-and-margin", "ridge_map"),
    (transposed_gradient, "low-rank-training-invariances", "deep-linear", "linear_invariant"),
    (larger_batches, "sgd-weight-decay-rank", "theorem", "update_rank"),
    (torch_decay, "sgd-weight-decay-rank", "null-space", "null_space_decay"),
    (torch_decay, "sgd-noise-low-rank", "stationary-rank", "three_modes"),
    (late_by_one, "continuous-vs-discrete", "certificates", "e1_limit"),
    (threshold_without_coupling, "relaxed-variable-splitting", "trade-off", "errors"),
    (no_sine, "relaxed-variable-splitting", "trade-off", "population_loss"),
]


@pytest.mark.parametrize(("mutate", "slug", "figure", "name"), MUTATIONS)
def test_a_wrong_library_fails_a_claim(mutate, slug, figure, name, monkeypatch):
    mutate(monkeypatch)
    try:
        result = gf.reproduce(slug, figure=figure, size="small", out=None)
    except Exception as error:
        pytest.fail(f"the mutation must be caught by a claim, not by {type(error).__name__}: {error}")
    failed = {claim.name for claim in result.claims if not claim.passed}
    assert name in failed, f"only {failed or 'nothing'} failed"
