"""The class of each sample, read from the targets."""

from __future__ import annotations

import numpy as np


def classes(problem) -> np.ndarray:
    """Class number of each sample (n,): 0 for label -1 and 1 for +1; the largest column of y otherwise."""
    y = problem.y
    if y.shape[1] == 1:
        if not (np.abs(y) == 1).all():
            raise ValueError("the targets y are not labels: a network with one output needs labels -1 or +1")
        return (y[:, 0] > 0).astype(int)
    ordered = np.sort(y, axis=1)
    if not ((ordered[:, -1] > ordered[:, -2]) & np.isclose(ordered[:, 0], ordered[:, -2])).all():
        raise ValueError(
            "the targets y are not labels: a network with several outputs needs rows with one large entry and equal"
            " other ones (one-hot, centred or not)"
        )
    return y.argmax(1)
