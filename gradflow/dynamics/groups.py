"""Groups of parameters that share one radius: the whole vector, each layer, or each neuron."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gradflow.diagonal import Diagonal

KINDS = ("whole", "layer", "neuron")


def checked_kind(groups) -> str:
    """`groups` if it is a known name."""
    if groups not in KINDS:
        raise ValueError(f"groups = {groups!r}: choose one of {', '.join(KINDS)}")
    return groups


def partition(network, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Order of theta that makes the groups contiguous (P,), and where each group starts (G + 1,).

    A diagonal network is one layer. The bias of a neuron belongs to its row; so does its part of a linear skip.
    """
    if kind == "whole" or isinstance(network, Diagonal):
        return np.arange(network.size), np.array([0, network.size])
    labels, names, first = [], [], 0
    for name, shape in network.shapes.items():
        count = int(np.prod(shape, dtype=int))
        layer = name[1:] if name[:1] in "WbU" and name[1:].isdigit() else name.rpartition(".")[0] or name
        if kind == "layer":
            keys = [(layer,)] * count
        else:
            keys = [(layer, row) for row in range(shape[0]) for _ in range(count // shape[0])]
        labels += keys
        names += keys
        first += count
    numbers = {key: i for i, key in enumerate(dict.fromkeys(names))}
    label = np.array([numbers[key] for key in labels])
    order = np.argsort(label, kind="stable")
    return order, np.searchsorted(label[order], np.arange(len(numbers) + 1))


@lru_cache(maxsize=64)
def _layout(network, kind):
    return partition(network, kind)


def layout(network, kind) -> tuple[np.ndarray, np.ndarray]:
    """Order and starts of the groups of a network, remembered where the network can be a key."""
    try:
        return _layout(network, kind)
    except TypeError:
        return partition(network, kind)


def pack_layout(order, starts, rates) -> np.ndarray:
    """Coefficients of the polar links: G, P, permuted or not, four rates, starts (G + 1), order (P)."""
    permuted = float((order != np.arange(order.size)).any())
    return np.concatenate([[starts.size - 1, order.size, permuted], rates, starts, order]).astype(np.float64)


def norms(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Euclidean norm of each group, (..., G) for values (..., P) in group order."""
    return np.stack(
        [np.linalg.norm(values[..., a:b], axis=-1) for a, b in zip(starts[:-1], starts[1:], strict=True)], -1
    )


def spread(per_group: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Repeat one number per group (..., G) over its members, (..., P)."""
    return np.repeat(per_group, np.diff(starts), axis=-1)
