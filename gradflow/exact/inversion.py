"""Inverses of increasing functions, for closed forms that give the time instead of the state."""

from collections.abc import Callable

import numpy as np

ValueAndSlope = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def invert_increasing(
    function: ValueAndSlope, target: np.ndarray, low: np.ndarray, high: np.ndarray, guess: np.ndarray
) -> np.ndarray:
    """Solve function(v) = target entrywise between low and high: Newton steps, bisection where they leave.

    v is found to an absolute accuracy where it is below 1, so it should be a logarithm.
    """
    low, high = low.copy(), high.copy()
    root = np.clip(guess, low, high)
    for _ in range(5000):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value, slope = function(root)
            step = (value - target) / slope
        too_high = value > target
        high = np.where(too_high, root, high)
        low = np.where(too_high, low, root)
        trial = root - step
        inside = (trial >= low) & (trial <= high)
        trial = np.where(inside, trial, 0.5 * (low + high))
        if (np.abs(trial - root) <= 4e-16 * np.maximum(np.abs(root), 1.0)).all():
            return trial
        root = trial
    return root
