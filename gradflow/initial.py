"""Initial values of theta: one seeded generator, layers in order, biases 0 unless asked."""

from __future__ import annotations

import numpy as np

from gradflow.arguments import checked_seed, not_negative
from gradflow.diagonal import Diagonal
from gradflow.networks import Feedforward

SCHEMES = (
    "gaussian",
    "xavier",
    "he",
    "he-relu",
    "unit",
    "orthogonal",
    "identity",
    "balanced",
    "zero-balanced",
    "aligned",
    "constant",
)
END_TO_END = ("balanced", "zero-balanced", "aligned")


def initial(network, x, y, *, scale=1.0, seed=0, scheme="gaussian", noise=0.0, bias=0.0) -> dict[str, np.ndarray]:
    """Blocks of theta by the named scheme; see :meth:`gradflow.Problem.init`."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme = {scheme!r}: unknown; choose one of {', '.join(SCHEMES)}")
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(checked_seed(seed))
    if scheme in END_TO_END:
        return _end_to_end(network, x, y, not_negative(scale, "scale"), rng, scheme)
    biases = [] if isinstance(network, Diagonal) else [n for n, shape in network.shapes.items() if len(shape) == 1]
    scales = iter(_scales(scale, len(network.shapes) - len(biases)))
    gains = _gains(network) if scheme == "he-relu" else {}
    layers = {}
    for name, shape in network.shapes.items():
        if name in biases:
            layers[name] = bias * rng.standard_normal(shape) if bias else np.zeros(shape)
        else:
            layers[name] = _block(shape, gains.get(name, 1.0) * next(scales), rng, scheme, noise)
    return layers


def _gains(network) -> dict[str, float]:
    """Square root of two for the weights that a relu follows."""
    stages = network.stages if isinstance(network, Feedforward) else ()
    return {f"W{l}": np.sqrt(2.0) for l, stage in enumerate(stages, 1) if stage.activation.name == "relu"}


def _scales(scale, count):
    """One scale for each block of weights."""
    if np.ndim(scale) == 0:
        return count * [not_negative(scale, "scale")]
    if np.shape(scale) != (count,):
        raise ValueError(f"scale has shape {np.shape(scale)}: give one number, or one for each of {count} layers")
    return [not_negative(one, "scale") for one in scale]


def _block(shape, scale, rng, scheme, noise):
    """One weight block; the fan-in of a vector block (diagonal network) is 1."""
    rows, fan_in = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else (shape[0], 1)
    if scheme == "constant":
        return np.full(shape, float(scale))
    if scheme in ("gaussian", "he-relu"):
        return rng.standard_normal(shape) * (scale / np.sqrt(fan_in))
    if scheme == "he":
        return rng.standard_normal(shape) * (scale * np.sqrt(2.0 / fan_in))
    if scheme == "unit":
        return scale * _unit(rng, shape)
    if scheme == "xavier":
        receptive = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        bound = np.sqrt(6.0 / (fan_in + rows * receptive))
        return rng.uniform(-bound, bound, shape) * scale
    if scheme == "identity":
        return (scale * np.eye(rows, fan_in)).reshape(shape) + noise * rng.standard_normal(shape)
    return scale * _orthonormal(rng, rows, fan_in).reshape(shape)


def _orthonormal(rng, rows, columns):
    """Random matrix with orthonormal rows or columns, whichever are fewer (Haar)."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T


def _unit(rng, size):
    vector = rng.standard_normal(size)
    return vector / np.linalg.norm(vector)


def _end_to_end(network, x, y, scale, rng, scheme):
    """Layers built from the inside so that adjacent ones balance: W_{l+1}^T W_{l+1} = W_l W_l^T."""
    plain = isinstance(network, Feedforward) and all(
        s.trained and not s.bias and s.identity_from < 0 and s.linear_from < 0 for s in network.stages
    )
    if not plain:
        raise ValueError(f"scheme = {scheme!r} needs a fully connected network without biases and skips, not {network}")
    widths = [network.input_size, *(stage.outputs for stage in network.stages)]
    depth = len(network.stages)
    if scheme == "balanced":
        # One generator, the input direction first, then one unit vector per layer: W_l = r^(1/L) u_l u_{l-1}^T.
        units = [_unit(rng, width)[:, None] for width in widths[:-1]]
        units.append(_unit(rng, widths[-1])[:, None] if widths[-1] > 1 else np.ones((1, 1)))
        strengths = np.array([scale])
    elif scheme == "zero-balanced":
        rank = min(widths)
        units = [_orthonormal(rng, width, rank) for width in widths]
        strengths = scale * np.abs(rng.standard_normal(rank))
    else:
        left, right = _data_modes(x, y, min(widths))
        units = [right, *(_orthonormal(rng, width, right.shape[1]) for width in widths[1:-1]), left]
        strengths = np.broadcast_to(np.asarray(scale, float), (right.shape[1],))
    root = strengths ** (1.0 / depth)
    return {f"W{l + 1}": (units[l + 1] * root) @ units[l].T for l in range(depth)}


def _data_modes(x, y, rank):
    """Singular vectors (left (k, m), right (d, m)) of the input-output covariance y^T x / n."""
    left, strengths, right = np.linalg.svd(y.T @ x / x.shape[0], full_matrices=False)
    keep = min(rank, int((strengths > 1e-12 * strengths[0]).sum()))
    if keep == 0:
        raise ValueError("scheme = 'aligned': y^T x = 0, the data has no singular vectors to align with")
    return left[:, :keep], right[:keep].T
