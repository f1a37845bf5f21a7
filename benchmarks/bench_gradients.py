"""Processor time of one gradient, called from compiled code."""

import time

import numpy as np

from gradflow.kernels.calls import GRADIENT, address, call, compiled
from gradflow.kernels.kernel import aligned


def gradients(count, gradient, theta, out, numbers, layout, work):
    total = 0.0
    for _ in range(count):
        total += call(gradient, theta, out, numbers, layout, work)
    return total


def gradient_seconds(kernel, theta, repeats=9, seconds=0.02) -> float:
    """Least of several repeats."""
    loop, gradient = compiled(gradients), address(kernel.gradient, GRADIENT)
    rest = (theta, np.empty_like(theta), kernel.numbers, kernel.layout, aligned(max(kernel.work_size, 1)))
    count, best = 1, np.inf
    loop(1, gradient, *rest)
    for _ in range(repeats):
        start = time.process_time()
        loop(count, gradient, *rest)
        spent = time.process_time() - start
        if count > 1 or spent > seconds:
            best = min(best, spent / count)
        count = max(2, int(seconds * count / max(spent, 1e-7)))
    return best
