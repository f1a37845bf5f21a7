"""A network with stored masks in the state of a preconditioned flow."""

import math
from dataclasses import dataclass, field

import numpy as np

from gradflow.kinks.charts import CHARTS
from gradflow.kinks.masked import MaskedNetwork, Pass
from gradflow.kinks.wired import WiredNetwork, is_wired, network_of


@dataclass(frozen=True)
class ChartedPass(Pass):
    """A pass whose `gradient` is minus the velocity of the state, B times the `slopes` of the objective by it."""

    slopes: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def speed(self) -> float:
        """Root of the rate at which the objective falls."""
        return math.sqrt(max(float(self.slopes @ self.gradient), 0.0))


class ChartedNetwork(MaskedNetwork):
    r"""Masked network of the state s of a polar, weight-normalised, LM or rated flow, in the place of theta.

    On sliding kinks :math:`s' = -B(\nabla_s F + N^T\lambda)`, :math:`N B N^T\lambda = -N B\,\nabla_s F`, with rows N
    the gradients of their pre-activations by s; in theta :math:`\theta' = M(u - N_\theta^T\lambda)`,
    :math:`M = J B J^T`.

    Parameters
    ----------
    problem : Problem
        As for :class:`MaskedNetwork`.
    flow : PolarFlow, WeightNormFlow, LMFlow or GradientFlow
    """

    euclidean = False

    def __init__(self, problem, flow):
        super().__init__(problem)
        self.chart = chart = CHARTS[type(flow)](problem, flow)
        if chart.count:
            self.first_entries = chart.count + chart.place[self.first_entries]
        self.flat = self.flat and chart.even(self.first_entries)
        if chart.scaled:
            self.first_degree, self._owners = 2, chart.group[self.first_entries[:, 0] - chart.count]

    def first_metric(self, theta, neurons) -> tuple[np.ndarray, np.ndarray]:
        """Factors (q, b) of first-layer units."""
        return self.chart.first_metric(theta, self.first_entries[neurons, 0])

    def remove_rows(self, vector, rows, neurons) -> None:
        """Remove orthonormal rows from the weights (and bias) of the given neurons of the first layer."""
        super().remove_rows(vector[self.chart.count :], rows, neurons)

    def run(self, theta, sigma) -> ChartedPass:
        """Objective and velocity at a state under the masks sigma."""
        chart, plain = self.chart, super().run(self.chart.theta(theta), sigma)
        slopes, value = chart.pulled(theta, plain.gradient[None])[0], plain.value
        if chart.decay > 0.0:
            value += chart.decay * theta[0] ** 2
            slopes[0] += 2.0 * chart.decay * theta[0]
        gradient = chart.raised(theta, slopes[None])[0]
        return ChartedPass(value, gradient, plain.z, plain.slope, plain.h, plain.delta, plain.outer, slopes)

    def forward(self, theta, sigma) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pre-activations, slopes and values of the hidden units."""
        return super().forward(self.chart.theta(theta), sigma)

    def normals(self, theta, slope, h, kinks) -> np.ndarray:
        """Gradients (len(kinks), S) of the pre-activations by the state."""
        return self.chart.pulled(theta, super().normals(self.chart.theta(theta), slope, h, kinks))

    def raised(self, theta, normals) -> np.ndarray:
        """Normals times the metric."""
        return self.chart.raised(theta, normals)

    def checked(self, theta) -> np.ndarray:
        """A start as an array of its own."""
        state, size = np.array(theta, dtype=np.float64), self.chart.size
        if state.shape != (size,):
            raise ValueError(f"the state has shape {state.shape}: give shape ({size},), from pack(theta) of the flow")
        return state

    def adjoint_below(self, run, theta, layer, slope, delta) -> None:
        """Overwrite the adjoints of layer - 1 with those that follow from the layers above and their slopes."""
        super().adjoint_below(run, self.chart.theta(theta), layer, slope, delta)

    def scales(self, theta, z) -> np.ndarray:
        """Size of the pre-activations of each hidden layer."""
        return super().scales(self.chart.theta(theta), z)

    def first_layer(self, step) -> np.ndarray:
        """Coefficients of the first layer's pre-activations, times a positive factor that is 1 at the start.

        Where weights have a scale r, of r (u . x): a polynomial of twice the degree.
        """
        chart, count = self.chart, self.chart.count
        if not self.chart.scaled:
            return self._products(step.coefficients[:, count:][:, chart.place] if count else step.coefficients)
        rows = np.vstack([step.y, step.coefficients])
        turns = self._products(rows[:, count:][:, chart.place])
        scales = np.tile(rows[:, self._owners], self.n)
        product = np.zeros((2 * len(rows) - 1, turns.shape[1]))
        for power, scale in enumerate(scales):
            product[power : power + len(rows)] += scale * turns
        return product[1:] / np.tile(chart.lengths(step.y)[self._owners], self.n)


class ChartedWiredNetwork(ChartedNetwork, WiredNetwork):
    """The same of a network with skips or shared weights."""


def masked_network(problem, flow) -> MaskedNetwork:
    """Masked network in the state of a flow: of theta itself for the plain one."""
    if getattr(flow, "rates", 0) is None:
        return network_of(problem)
    return ChartedWiredNetwork(problem, flow) if is_wired(problem) else ChartedNetwork(problem, flow)
