"""Layers of networks with skips and convolutions as linear maps of the values below, each with its part of theta."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradflow.modules import Convolutional
from gradflow.networks import Stage


@dataclass(frozen=True)
class Dense:
    """Matrix (outputs, inputs) of weights of their own, from the place `at` of theta on."""

    at: int
    outputs: int
    inputs: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.outputs * self.inputs

    def matrix(self, theta) -> np.ndarray:
        """The matrix."""
        return theta[self.at : self.at + self.size].reshape(self.outputs, self.inputs)

    def total(self, errors, below) -> np.ndarray:
        """Gradient by the weights of the sum of errors (m, outputs) times matrix times below (m, inputs)."""
        return (errors.T @ below).ravel()

    def each(self, errors, below) -> np.ndarray:
        """The same for each row: (m, weights)."""
        return (errors[:, :, None] * below[:, None, :]).reshape(len(errors), -1)


@dataclass(frozen=True)
class Shared:
    """Convolution: a matrix whose entries are weights of a kernel (channels, m), seen through `patches`."""

    at: int
    channels: int
    patches: np.ndarray
    inputs: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.channels * self.patches.shape[1]

    @cached_property
    def table(self) -> np.ndarray:
        """Weight that stands at each entry of the matrix; `size` where it is 0."""
        positions, length = self.patches.shape
        table = np.full((self.channels, positions, self.inputs), self.size)
        weights = np.arange(self.size).reshape(self.channels, 1, length)
        table[:, np.arange(positions)[:, None], self.patches] = weights
        return table.reshape(-1, self.inputs)

    def matrix(self, theta) -> np.ndarray:
        """The matrix (channels times positions, inputs)."""
        return np.append(theta[self.at : self.at + self.size], 0.0)[self.table]

    def total(self, errors, below) -> np.ndarray:
        """Gradient by the weights of the sum of errors (m, outputs) times matrix times below (m, inputs)."""
        return self.each(errors, below).sum(0)

    def each(self, errors, below) -> np.ndarray:
        """The same for each row: (m, weights)."""
        errors = errors.reshape(len(errors), self.channels, -1)
        return (errors @ below[:, self.patches]).reshape(len(errors), -1)


def stages_of(network) -> tuple[Stage, ...]:
    """Layers of a fully connected or convolutional network; () for another network."""
    if not isinstance(network, Convolutional):
        return getattr(network, "stages", ())
    sizes = [int(np.prod(size)) for size in network.grids]
    widths = [c * size for c, size in zip((network.image[0], *network.channels), sizes, strict=True)]
    hidden = [Stage(a, b, network.activation) for a, b in zip(widths[:-1], widths[1:], strict=True)]  # pyright: ignore[reportArgumentType]
    return (*hidden, Stage(widths[-1], network.outputs, _linear()))


def _linear():
    from gradflow.activations import Activation

    return Activation("linear")


def patches_of(network) -> list[np.ndarray]:
    """For each convolution the inputs (positions, c k k) under the kernel at each of its positions."""
    found, k = [], network.kernel_size
    for channels, (height, width), (rows, columns) in zip(
        (network.image[0], *network.channels), network.grids, network.grids[1:], strict=False
    ):
        grid = np.arange(channels * height * width).reshape(channels, height, width)
        corners = [(network.stride * i, network.stride * j) for i in range(rows) for j in range(columns)]
        found.append(np.array([grid[:, i : i + k, j : j + k].ravel() for i, j in corners]))
    return found


def receptive_fields(network) -> list[np.ndarray]:
    """For each convolution the inputs (positions, m) of the network that each of its positions sees."""
    fields, below = [], None
    for patches, (height, width) in zip(patches_of(network), network.grids, strict=False):
        seen = patches if below is None else below[patches % (height * width)].reshape(len(patches), -1)
        fields.append(seen)
        below = seen
    return fields


def maps_of(network, stages) -> list[Dense | Shared]:
    """The weights W of each layer, as linear maps."""
    places, at = {}, 0
    for name, shape in network.shapes.items():
        places[name] = at
        at += int(np.prod(shape))
    shared = patches_of(network) if isinstance(network, Convolutional) else []
    maps: list[Dense | Shared] = []
    for number, stage in enumerate(stages, 1):
        if number <= len(shared):
            maps.append(Shared(places[f"W{number}"], network.channels[number - 1], shared[number - 1], stage.inputs))
        else:
            maps.append(Dense(places[f"W{number}"], stage.outputs, stage.inputs))
    return maps
