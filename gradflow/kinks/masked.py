"""A network with stored masks: gradient of the frozen pattern, pre-activations, normals of kinks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.activations import KINKED
from gradflow.kinks.collinear import representatives
from gradflow.losses import CODES as LOSSES

ROUNDING = 1e-14
"""Relative size of an adjoint that may be rounding only."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: objective, gradient, and per hidden unit and sample z, slope, value, adjoint.

    `outer` are the adjoints of the outputs, where something jumps there from below.
    """

    value: float
    gradient: np.ndarray
    z: np.ndarray
    slope: np.ndarray
    h: np.ndarray
    delta: np.ndarray
    outer: np.ndarray | None = None

    @property
    def speed(self) -> float:
        """Size of the velocity in the metric of the flow."""
        return float(np.linalg.norm(self.gradient))


class MaskedNetwork:
    r"""Fully connected network whose kinked units multiply by stored masks.

    Kink a = (layer, sample, neuron) has the mask :math:`s_a = s_- + (s_+ - s_-)\,\sigma_a`: slopes (0, 1) for relu,
    (slope, 1) for leaky_relu, (-1, 1) for abs. All hidden units are numbered: layer by layer, within a layer sample by
    sample, neuron after neuron.

    Parameters
    ----------
    problem : Problem
        Of a network without skips, each layer trained, with at least one relu, leaky_relu or abs hidden layer.

    Raises
    ------
    ValueError
        For another network, naming what is in the way.
    """

    in_time = True
    """Whether the variable of its flow is time."""

    euclidean = True
    """Whether the flow is that of steepest descent in the norm of the state."""

    def __init__(self, problem):
        from gradflow.kinks import passes

        self.passes, self.problem = passes, problem
        stages, n = self._stages(), problem.n
        self.n, self.bias = n, int(stages[0].bias)
        self.widths = np.array([stages[0].inputs, *(stage.outputs for stage in stages)], dtype=np.int64)
        hidden = stages[:-1]
        names = [stage.activation.name for stage in hidden]
        below = {"linear": 1.0, "relu": 0.0, "abs": -1.0}
        low = np.array([below.get(stage.activation.name, stage.activation.slope) for stage in hidden], dtype=float)
        high = np.ones(len(hidden))
        shapes = problem.network.shapes
        places = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())])
        self.weights_at = places[:-1][[name.startswith("W") for name in shapes]].astype(np.int64)
        self.kinks_at = np.concatenate([[0], n * np.cumsum(self.widths[1:-1])]).astype(np.int64)
        self.x = problem.x.copy()
        self.kinked_layers = [l for l, name in enumerate(names) if name in KINKED]
        self.flat, self.first_degree = self.kinked_layers == [0], 1
        self._index(low, high)
        self._pack(stages, low, high)
        self.bases = {}
        self.first_entries = self._first_entries()

    def _stages(self) -> tuple:
        """The layers, of a network that can be followed."""
        check(self.problem.network, stages := getattr(self.problem.network, "stages", ()))
        if any(stage.identity_from >= 0 or stage.linear_from >= 0 for stage in stages):
            raise ValueError(f"{self.problem.network}: networks with skips need gradflow.kinks.wired.WiredNetwork")
        return stages

    def _first_entries(self) -> np.ndarray:
        """Places (width, inputs) in theta of the weights, and the bias, of each unit of the first layer."""
        inputs, outputs = int(self.widths[0]), int(self.widths[1])
        units = np.arange(outputs)[:, None]
        entries = inputs * units + np.arange(inputs)
        return np.hstack([entries, inputs * outputs + units]) if self.bias else entries

    def first_metric(self, theta, neurons) -> tuple[np.ndarray, np.ndarray]:
        """Factors (q, b) of first-layer units: z' = q x . w' for entries w of the state, and B grad z = b q x."""
        ones = np.ones(len(neurons))
        return ones, ones

    def _pack(self, stages, low, high):
        """Sizes, places and data for the compiled passes."""
        passes, problem = self.passes, self.problem
        codes = [stage.activation.code for stage in stages]
        table = np.column_stack([self.widths[:-1], self.widths[1:], codes, self.weights_at, self.kinks_at])
        x_at = passes.SLOPES + 2 * low.size
        y_at = x_at + self.x.size
        head = [self.n, len(stages), LOSSES[problem.loss.name], self.bias, self.size, problem.size, x_at, y_at]
        self.layout = np.concatenate([head, table.ravel()]).astype(np.int64)
        data = [problem.loss.factor(self.n), problem.decay, *np.column_stack([low, high - low]).ravel()]
        self.numbers = np.concatenate([data, self.x.ravel(), problem.y.ravel()]).astype(float)

    @cached_property
    def tied(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Units that share each kink, itself the first: where its list begins, the units, their factors."""
        if not self.members:
            return np.arange(self.size + 1), np.arange(self.size), np.ones(self.size)
        groups = [self.members.get(unit, [(unit, 1.0)]) for unit in range(self.size)]
        starts = np.concatenate([[0], np.cumsum([len(group) for group in groups])])
        units, factors = zip(*(pair for group in groups for pair in group), strict=True)
        return starts.astype(np.int64), np.array(units, dtype=np.int64), np.array(factors)

    def _index(self, low, high):
        """Which units are kinks of their own, which ones follow another, and the jump of the slope at each."""
        self.size = int(self.kinks_at[-1])
        self.layers = np.repeat(np.arange(low.size), np.diff(self.kinks_at))
        within = np.arange(self.size) - self.kinks_at[self.layers]
        width = self.widths[self.layers + 1]
        self.samples, self.neurons = within // width, within % width
        self.low, self.gap = low[self.layers], (high - low)[self.layers]
        self.live = np.isin(self.layers, self.kinked_layers)
        self.members = {}
        leads = representatives(self.problem)
        for l in self.kinked_layers:
            leader, factor = leads[l]
            rows = self._rows(l)
            for i in np.flatnonzero((leader != np.arange(leader.size)) | (factor == 0.0)):
                self.live[rows[i]] = False
                if factor[i] == 0.0:
                    continue
                for first, follower in zip(rows[leader[i]], rows[i], strict=True):
                    group = self.members.setdefault(int(first), [(int(first), 1.0)])
                    group.append((int(follower), float(factor[i])))

    def _rows(self, layer) -> np.ndarray:
        """Units of a layer, those that see one input in one row."""
        return np.arange(*self.kinks_at[layer : layer + 2]).reshape(self.n, -1)

    def outputs(self, theta, h) -> np.ndarray:
        """Outputs (n, k) from the values of the hidden units."""
        at, k, inputs = int(self.weights_at[-1]), int(self.widths[-1]), int(self.widths[-2])
        f = h[int(self.kinks_at[-2]) :].reshape(self.n, inputs) @ theta[at : at + k * inputs].reshape(k, inputs).T
        return f + theta[at + k * inputs :] if self.bias else f

    def run(self, theta, sigma) -> Pass:
        """Objective and gradient at theta (P,) under the masks sigma."""
        units, out = np.empty((4, self.size)), np.empty(theta.size)
        value = self.passes.gradient(theta, sigma, self.layout, self.numbers, units, out)
        return Pass(value, out, *units)

    def forward(self, theta, sigma) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pre-activations, slopes and values of the hidden units."""
        units = np.empty((4, self.size))
        self.passes.forward(theta, sigma, self.layout, self.numbers, units)
        return units[0], units[1], units[2]

    def along(self, step, xs, sigma) -> np.ndarray:
        """Pre-activations (len(xs), size) at fractions of a step."""
        return np.array([self.forward(step.at(x), sigma)[0] for x in xs])

    def normals(self, theta, slope, h, kinks) -> np.ndarray:
        """Gradients (len(kinks), P) of the pre-activations of the given kinks."""
        rows = np.empty((len(kinks), theta.size))
        self.passes.normals(theta, self.layout, self.numbers, slope, h, np.ascontiguousarray(kinks), rows)
        return rows

    def raised(self, theta, normals) -> np.ndarray:
        """Normals times the metric of the flow, which is the identity."""
        return normals

    def checked(self, theta) -> np.ndarray:
        """A start as an array of its own."""
        return self.problem.checked(theta).copy()

    def set_masks(self, sigma, kinks, values) -> None:
        """Write mask values of kinks into sigma; kinks tied to them follow, opposite ones with the opposite mask."""
        sigma[kinks] = values
        if not self.members:
            return
        for kink in np.atleast_1d(kinks):
            for follower, factor in self.members.get(int(kink), ())[1:]:
                sigma[follower] = sigma[kink] if factor > 0.0 else 1.0 - sigma[kink]

    def attraction(self, delta, kinks) -> np.ndarray:
        """d of each kink: jump of the slope times the adjoint, summed over kinks tied to it; rounding is cut to 0."""
        d = self.gap[kinks] * delta[kinks]
        if self.members:
            for a, kink in enumerate(kinks):
                group = self.members.get(int(kink))
                if group:
                    d[a] = self.gap[kink] * sum(abs(factor) * delta[follower] for follower, factor in group)
        d[np.abs(d) <= ROUNDING * np.abs(delta).max()] = 0.0
        return d

    def spread_masks(self, slope, kinks, sigma) -> None:
        """Write the slopes of masks sigma at the kinks and at those tied to them."""
        low = self.low[kinks]
        slope[kinks] = low + self.gap[kinks] * sigma
        if self.members:
            for kink, mask in zip(kinks, sigma, strict=True):
                for follower, factor in self.members.get(int(kink), ())[1:]:
                    slope[follower] = self.low[kink] + self.gap[kink] * (mask if factor > 0.0 else 1.0 - mask)

    def among(self, numbers, others) -> np.ndarray:
        """Which of some units (or samples, or neurons) are among others."""
        marks = np.zeros(self.size + self.n, bool)
        marks[others] = True
        return marks[numbers]

    def adjoint_below(self, run, theta, layer, slope, delta) -> None:
        """Overwrite the adjoints of layer - 1 with those that follow from `layer` and its slopes."""
        inputs, outputs, at = int(self.widths[layer]), int(self.widths[layer + 1]), int(self.weights_at[layer])
        own, below = slice(*self.kinks_at[layer : layer + 2]), slice(*self.kinks_at[layer - 1 : layer + 1])
        errors = (delta[own] * slope[own]).reshape(self.n, outputs)
        delta[below] = (errors @ theta[at : at + inputs * outputs].reshape(outputs, inputs)).ravel()

    def remove_rows(self, vector, rows, neurons) -> None:
        """Remove orthonormal rows from the weights (and bias) of the given neurons of the first layer."""
        inputs = int(self.widths[0])
        self.passes.project_rows(vector, rows, neurons, inputs, inputs * int(self.widths[1]))

    def first_layer(self, step) -> np.ndarray:
        """Coefficients (m, n * width) of x, x^2, ... of the first layer's pre-activations inside a step."""
        return self._products(step.coefficients)

    def _products(self, motion) -> np.ndarray:
        """Pre-activations (m, n * width) of the first layer for m vectors of the size of theta."""
        inputs, outputs = int(self.widths[0]), int(self.widths[1])
        weights = motion[:, : inputs * outputs].reshape(-1, inputs)
        z = (weights @ self.x.T).reshape(-1, outputs, self.n)
        if self.bias:
            z += motion[:, inputs * outputs : (inputs + 1) * outputs, None]
        return z.transpose(0, 2, 1).reshape(len(motion), -1)

    def scales(self, theta, z) -> np.ndarray:
        """Size of the pre-activations of each hidden layer: the largest, but not less than what rounding can cause."""
        below, found = np.abs(self.x).max(), []
        for l, (start, stop) in enumerate(zip(self.kinks_at[:-1], self.kinks_at[1:], strict=True)):
            at = self.weights_at[l]
            weight = np.abs(theta[at : at + self.widths[l] * self.widths[l + 1]]).max()
            below = max(np.abs(z[start:stop]).max(), 1e-2 * weight * below)
            found.append(below)
        return np.array(found)

    def extended_samples(self, samples) -> np.ndarray:
        """Inputs of the given samples, with 1 appended if there are biases."""
        rows = self.x[samples]
        return np.column_stack([rows, np.ones(len(rows))]) if self.bias else rows


def check(network, stages):
    """Refuse networks that the kinked stepper cannot follow."""
    if not stages:
        raise ValueError(f"{network}: kinks are followed in layers of known activations only; use kinks='ignore'")
    if not all(stage.trained for stage in stages):
        raise ValueError(f"{network}: kinks cannot be followed with fixed layers; use kinks='ignore'")
    if stages[-1].activation.name != "linear" or len({stage.bias for stage in stages}) > 1:
        raise ValueError(f"{network}: kinks need a linear last layer, and biases in every layer or in none")
    if not any(stage.activation.kinked for stage in stages):
        raise ValueError(f"{network}: no layer has kinks; use an ordinary stepper (kinks='ignore')")
