"""A network with skips, or a convolutional one, with stored masks."""

import numpy as np

from gradflow.kinks.masked import MaskedNetwork, Pass, check
from gradflow.kinks.wiring import Shared, maps_of, stages_of


class WiredNetwork(MaskedNetwork):
    r"""Masked network whose layers may skip others or share weights:
    :math:`a_l = s_l\, z_l + a_i + U_l a_j`, :math:`z_l = W_l a_{l-1} + b_l`.

    The adjoint of a layer's values, which decides at its kinks, is that of :math:`a_l`, gathered along all paths;
    the normal of a kink follows all paths down from :math:`z_l`. In a convolution W repeats its weights, and a unit is
    a channel at a position.

    Parameters
    ----------
    problem : Problem
        Of a fully connected network, with or without skips, or a convolutional one, with at least one relu, leaky_relu
        or abs layer.
    """

    def __init__(self, problem):
        super().__init__(problem)
        places = np.cumsum([0, *(int(np.prod(shape)) for shape in problem.network.shapes.values())])
        at = dict(zip(problem.network.shapes, places[:-1].tolist(), strict=True))
        self._biases = [at[f"b{l + 1}"] if stage.bias else -1 for l, stage in enumerate(self._layers)]
        self._jumps = [at.get(f"U{l + 1}", -1) for l in range(len(self._layers))]
        self.flat = self.flat and not isinstance(self._maps[0], Shared)

    def _stages(self) -> tuple:
        """The layers, of a network that can be followed."""
        network = self.problem.network
        self._layers = stages_of(network)
        check(network, self._layers)
        self._maps = maps_of(network, self._layers)
        return self._layers

    def _rows(self, layer) -> np.ndarray:
        """Units of a layer, those that see one input in one row."""
        rows, own = super()._rows(layer), self._maps[layer]
        if not isinstance(own, Shared):
            return rows
        return rows.reshape(self.n, own.channels, -1).transpose(0, 2, 1).reshape(-1, own.channels)

    def _first_entries(self) -> np.ndarray:
        """Places (width, inputs) in theta of the weights, and the bias, of each unit of the first layer."""
        own = self._maps[0]
        if not isinstance(own, Shared):
            return super()._first_entries()
        kernels = own.at + np.arange(own.size).reshape(own.channels, -1)
        return np.repeat(kernels, len(own.patches), axis=0)

    def _block(self, units, layer) -> np.ndarray:
        """View (n, width) of one row of numbers of the hidden units."""
        return units[self.kinks_at[layer] : self.kinks_at[layer + 1]].reshape(self.n, -1)

    def _jump(self, layer, theta) -> np.ndarray:
        """The matrix U of a layer."""
        stage, at = self._layers[layer], self._jumps[layer]
        return theta[at : at + stage.outputs * stage.linear_inputs].reshape(stage.outputs, -1)

    def _linear(self, layer, theta, below) -> np.ndarray:
        """Pre-activations of a layer."""
        z, at = below @ self._maps[layer].matrix(theta).T, self._biases[layer]
        return z if at < 0 else z + theta[at : at + z.shape[1]]

    def _added(self, layer, theta, values, own) -> np.ndarray:
        """Values of a layer: its own and what skips add."""
        stage = self._layers[layer]
        if stage.identity_from >= 0:
            own = own + values[stage.identity_from]
        if stage.linear_from >= 0:
            own = own + values[stage.linear_from] @ self._jump(layer, theta).T
        return own

    def forward(self, theta, sigma) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pre-activations, slopes and values of the hidden units."""
        units, values = np.empty((3, self.size)), [self.x]
        for l, stage in enumerate(self._layers[:-1]):
            own = slice(*self.kinks_at[l : l + 2])
            z, slope, h = units[:, own]
            z[:] = self._linear(l, theta, values[-1]).ravel()
            code, low = stage.activation.code, self.low[self.kinks_at[l]]
            self.passes.activated(code, low, self.gap[self.kinks_at[l]], sigma[own], z, slope, h)
            h[:] = self._added(l, theta, values, h.reshape(self.n, -1)).ravel()
            values.append(h.reshape(self.n, -1))
        return units[0], units[1], units[2]

    def _values(self, h) -> list[np.ndarray]:
        """Values (n, width) of the input and of the hidden layers."""
        return [self.x, *(self._block(h, l) for l in range(len(self._layers) - 1))]

    def outputs(self, theta, h) -> np.ndarray:
        """Outputs (n, k) from the values of the hidden units."""
        values, last = self._values(h), len(self._layers) - 1
        return np.ascontiguousarray(self._added(last, theta, values, self._linear(last, theta, values[-1])))

    def run(self, theta, sigma) -> Pass:
        """Objective and gradient at theta (P,) under the masks sigma."""
        z, slope, h = WiredNetwork.forward(self, theta, sigma)
        outer = self.outputs(theta, h)
        passes, numbers = self.passes, self.numbers
        target = numbers[self.layout[passes.Y] :]
        value = passes.loss_slope(outer, target, self.layout[passes.LOSS], numbers[passes.FACTOR])
        delta, values = np.zeros(self.size), self._values(h)
        gradient = 2.0 * numbers[passes.DECAY] * theta
        errors = outer
        for l in range(len(self._layers) - 1, -1, -1):
            adjoint = errors if l == len(self._layers) - 1 else self._block(delta, l)
            errors = adjoint if l == len(self._layers) - 1 else adjoint * self._block(slope, l)
            self._gather(l, theta, values, adjoint, errors, gradient)
            self._descend(l, theta, adjoint, errors, delta)
        value += numbers[passes.DECAY] * float(theta @ theta)
        return Pass(value, gradient, z, slope, h, delta, outer)

    def _gather(self, layer, theta, values, adjoint, errors, gradient):
        """Add the gradient by the parameters of a layer."""
        own, at, stage = self._maps[layer], self._biases[layer], self._layers[layer]
        gradient[own.at : own.at + own.size] += own.total(errors, values[layer])
        if at >= 0:
            gradient[at : at + stage.outputs] += errors.sum(0)
        if stage.linear_from >= 0:
            at = self._jumps[layer]
            jump = (adjoint.T @ values[stage.linear_from]).ravel()
            gradient[at : at + jump.size] += jump

    def _descend(self, layer, theta, adjoint, errors, delta):
        """Add to the adjoints of the layers below what comes from one layer."""
        stage = self._layers[layer]
        if layer > 0:
            self._block(delta, layer - 1)[:] += errors @ self._maps[layer].matrix(theta)
        if stage.identity_from > 0:
            self._block(delta, stage.identity_from - 1)[:] += adjoint
        if stage.linear_from > 0:
            self._block(delta, stage.linear_from - 1)[:] += adjoint @ self._jump(layer, theta)

    def adjoint_below(self, run, theta, layer, slope, delta) -> None:
        """Overwrite the adjoints of layer - 1 with those that follow from the layers above and their slopes."""
        below = self._block(delta, layer - 1)
        below[:] = (self._block(delta, layer) * self._block(slope, layer)) @ self._maps[layer].matrix(theta)
        for upper in range(layer, len(self._layers)):
            stage = self._layers[upper]
            adjoint = run.outer if upper == len(self._layers) - 1 else self._block(delta, upper)
            if stage.identity_from == layer:
                below += adjoint
            if stage.linear_from == layer:
                below += adjoint @ self._jump(upper, theta)

    def normals(self, theta, slope, h, kinks) -> np.ndarray:
        """Gradients (len(kinks), P) of the pre-activations of the given kinks."""
        rows = np.zeros((len(kinks), self.problem.size))
        if not len(kinks):
            return rows
        layers, samples, values = self.layers[kinks], self.samples[kinks], self._values(h)
        top = int(layers.max())
        adjoints = [np.zeros((len(kinks), self._layers[l].outputs)) for l in range(top + 1)]
        for l in range(top, -1, -1):
            stage, own, at = self._layers[l], self._maps[l], self._biases[l]
            errors = adjoints[l] * self._block(slope, l)[samples]
            seeds = np.flatnonzero(layers == l)
            errors[seeds, self.neurons[kinks[seeds]]] = 1.0
            rows[:, own.at : own.at + own.size] = own.each(errors, values[l][samples])
            if at >= 0:
                rows[:, at : at + stage.outputs] = errors
            if l > 0:
                adjoints[l - 1] += errors @ own.matrix(theta)
            if stage.identity_from > 0:
                adjoints[stage.identity_from - 1] += adjoints[l]
            if stage.linear_from >= 0:
                at, source = self._jumps[l], values[stage.linear_from][samples]
                jump = (adjoints[l][:, :, None] * source[:, None, :]).reshape(len(kinks), -1)
                rows[:, at : at + jump.shape[1]] = jump
                if stage.linear_from > 0:
                    adjoints[stage.linear_from - 1] += adjoints[l] @ self._jump(l, theta)
        return rows

    def _products(self, motion) -> np.ndarray:
        """Pre-activations (m, n * width) of the first layer for m vectors of the size of theta."""
        return np.array([self._linear(0, row, self.x).ravel() for row in motion])

    def scales(self, theta, z) -> np.ndarray:
        """Size of the pre-activations of each hidden layer: the largest, but not less than what rounding can cause."""
        values, found = [np.abs(self.x).max()], []
        for l, (stage, own) in enumerate(zip(self._layers[:-1], self._maps, strict=False)):
            weight = np.abs(theta[own.at : own.at + own.size]).max()
            found.append(max(np.abs(self._block(z, l)).max(), 1e-2 * weight * values[-1]))
            added = [found[-1]]
            if stage.identity_from >= 0:
                added.append(values[stage.identity_from])
            if stage.linear_from >= 0:
                added.append(1e-2 * np.abs(self._jump(l, theta)).max() * values[stage.linear_from])
            values.append(max(added))
        return np.array(found)


def is_wired(problem) -> bool:
    """Whether the network of a problem has skips or shares weights, which the compiled passes do not know."""
    stages = getattr(problem.network, "stages", None)
    if stages is None:
        return bool(stages_of(problem.network))
    return any(stage.identity_from >= 0 or stage.linear_from >= 0 for stage in stages)


def network_of(problem) -> MaskedNetwork:
    """Masked network of a problem under its own objective and the plain flow."""
    return WiredNetwork(problem) if is_wired(problem) else MaskedNetwork(problem)
