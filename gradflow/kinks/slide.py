r"""Sliding: gradient flow on the surface where some pre-activations vanish.

With rows N the normals of the sliding kinks and u the plain velocity, :math:`v = u - N^T\lambda`,
:math:`N N^T \lambda = N u`. Kinks of the first layer only: a small constant projection per neuron. Else: the Gram
matrix at the current theta. With a metric M, :math:`v = M(u - N^T\lambda)`, :math:`N M N^T\lambda = N M u`; the network
says what M does to normals.
"""

from dataclasses import dataclass

import numpy as np

RANK = 1e-10
"""Relative size below which a direction counts as dependent on the others."""

MOST_BASES = 1000
"""Bases of sets of samples that are remembered."""


def solve_gram(network, gram, right) -> np.ndarray:
    """Solution of gram x = right, after scaling to unit diagonal; of least norm if rows are dependent."""
    found = np.empty(right.size)
    if network.passes.cholesky_solution(gram, right, RANK, found):
        return found
    lengths = np.sqrt(np.diag(gram))
    scale = np.where(lengths > 0.0, lengths, 1.0)
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    kept = values > RANK
    return vectors[:, kept] @ ((vectors[:, kept].T @ (right / scale)) / values[kept]) / scale


class Planes:
    """Sliding kinks of the first layer: planes through the origin in the space of each neuron's weights.

    `pinned` neurons have so many that their weights (and bias) are 0; their kinks are `at_origin`.
    """

    curved = stacked = False

    def __init__(self, network, kinks):
        self.kinks, self._network = kinks, network
        neurons = network.neurons[kinks]
        rows = network.extended_samples(network.samples[kinks])
        bases, owners, dual = [], [], np.zeros_like(rows)
        for neuron in np.unique(neurons):
            own = neurons == neuron
            basis, dual[own] = _basis(network, rows[own], network.samples[kinks[own]].tobytes())
            bases.append(basis)
            owners.extend([neuron] * len(basis))
        self._basis = np.vstack(bases) if bases else np.zeros((0, rows.shape[1]))
        self._owners, self._dual = np.array(owners, dtype=np.int64), dual
        self.pinned = [int(j) for j in np.unique(neurons) if owners.count(j) == rows.shape[1]]
        self.at_origin = np.isin(neurons, self.pinned)
        self._entries, self._neurons = network.first_entries[neurons], neurons

    @property
    def projection(self):
        """Neuron of each row of the orthonormal basis, the basis, and the dual of the normals."""
        return self._owners, self._basis, self._dual

    def project(self, vector) -> None:
        """Remove the normal part from a vector of the size of theta."""
        network = self._network
        network.remove_rows(vector, self._basis, self._owners)

    def multipliers(self, theta, run, u) -> tuple[np.ndarray, np.ndarray]:
        """Multipliers lambda, and the projected velocity (u is overwritten)."""
        pull, mobility = self._network.first_metric(theta, self._neurons)
        multipliers = np.empty(self._neurons.size)
        self._network.passes.row_products(self._dual, u, self._entries, multipliers)
        multipliers /= mobility * pull
        self.project(u)
        return multipliers, u

    def restore(self, theta, sigma, rounds=1) -> np.ndarray:
        """Theta moved by the least amount so that the kinks' pre-activations vanish; a second round mends rounding."""
        moved = theta.copy()
        for _ in range(rounds):
            self.project(moved)
        return moved


def _basis(network, rows, samples):
    """Orthonormal basis of some samples, and the dual of their rows; remembered, since most sets return."""
    if samples not in network.bases:
        left, values, right = np.linalg.svd(rows, full_matrices=False)
        kept = values > RANK * values.max(initial=0.0)
        if len(network.bases) >= MOST_BASES:
            network.bases.clear()
        network.bases[samples] = right[kept], (left[:, kept] / values[kept]) @ right[kept]
    return network.bases[samples]


class Surfaces:
    """Sliding kinks of deeper networks: curved surfaces, whose normals follow theta."""

    curved = True
    pinned = ()

    def __init__(self, network, kinks):
        self.kinks, self._network = kinks, network
        self.stacked = stacked(network, kinks, np.ones(kinks.size, bool))
        self.at_origin = np.zeros(kinks.size, bool)

    def multipliers(self, theta, run, u) -> tuple[np.ndarray, np.ndarray]:
        """Multipliers lambda, and the projected velocity."""
        normals = self._network.normals(theta, run.slope, run.h, self.kinks)
        raised = self._network.raised(theta, normals)
        multipliers = solve_gram(self._network, normals @ raised.T, normals @ u)
        return multipliers, u - raised.T @ multipliers

    def restore(self, theta, sigma, rounds=1) -> np.ndarray:
        """Theta moved by Newton steps of least norm towards vanishing pre-activations."""
        for _ in range(rounds):
            z, slope, h = self._network.forward(theta, sigma)
            normals = self._network.normals(theta, slope, h, self.kinks)
            raised = self._network.raised(theta, normals)
            theta = theta - raised.T @ solve_gram(self._network, normals @ raised.T, z[self.kinks])
        return theta


def surface(network, kinks):
    """The kinks' common surface in the form that suits the network."""
    return (Planes if network.flat else Surfaces)(network, kinks)


@dataclass(frozen=True)
class Point:
    """Velocity of the sliding flow at theta; multipliers and attractions d belong to the sliding kinks in order."""

    value: float
    velocity: np.ndarray
    z: np.ndarray
    multipliers: np.ndarray
    attraction: np.ndarray


def point(network, theta, sigma, sliding, run=None) -> Point:
    """Evaluate the sliding flow under the masks sigma (0 on the sliding kinks), on a surface or None."""
    run = network.run(theta, sigma) if run is None else run
    if sliding is None:
        return Point(run.value, -run.gradient, run.z, np.zeros(0), np.zeros(0))
    multipliers, velocity = sliding.multipliers(theta, run, -run.gradient)
    if sliding.stacked:
        slides = np.ones(multipliers.size, bool)
        d = stacked_attractions(network, theta, run, sliding.kinks, multipliers, slides)
    else:
        d = network.attraction(run.delta, sliding.kinks)
    return Point(run.value, velocity, run.z, multipliers, d)


def stacked(network, kinks, slides) -> bool:
    """Whether a sample of some sliding kink has one of the kinks in a lower layer too."""
    layers, samples = network.layers[kinks], network.samples[kinks]
    if network.flat or not slides.any() or layers.min(initial=0) == layers.max(initial=0):
        return False
    if network.members:
        return True
    lowest = np.full(network.n, network.size)
    np.minimum.at(lowest, samples, layers)
    return bool((lowest[samples[slides]] < layers[slides]).any())


def stacked_attractions(network, theta, run, kinks, multipliers, slides) -> np.ndarray:
    """d of each kink, under the masks that the multipliers give to the sliding kinks of the layers above."""
    layers = network.layers[kinks]
    delta, slope, d = run.delta.copy(), run.slope.copy(), np.zeros(kinks.size)
    for layer in range(layers.max(), layers.min() - 1, -1):
        here = layers == layer
        d[here] = network.attraction(delta, kinks[here])
        if layer > layers.min():
            sliding = here & slides
            network.spread_masks(slope, kinks[sliding], ratio(multipliers[sliding], d[sliding]))
            network.adjoint_below(run, theta, layer, slope, delta)
    return d


def ratio(multipliers, attraction) -> np.ndarray:
    """Masks sigma = lambda / d, 0 where both vanish."""
    tiny = np.abs(attraction) <= 1e-14 * np.abs(attraction).max(initial=0.0)
    return np.where(tiny, 0.0, multipliers / np.where(tiny, 1.0, attraction))
