"""Implicit masks of one Euler step: masks that agree with the signs at the end of the step."""

from numba import njit

OPTIONS = {"cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "arcp", "reassoc"}}


@njit(**OPTIONS)
def implicit_masks(rows, d, step, free, sigma, weights, z, most):
    r"""Masks of one neuron by Gauss-Seidel sweeps; `weights` become those at the end of the step, z = rows weights.

    ``free`` are the weights at the end with all masks 0. A kink with d > 0 gets the mask that brings z to 0 if that
    lies in [0, 1]; one with d <= 0 and both sides consistent keeps its side, or goes to the nearer one if it was
    sliding. Returns the number of sweeps.
    """
    before = sigma.copy()
    n, inputs = rows.shape
    for p in range(inputs):
        weights[p] = free[p]
    for i in range(n):
        for p in range(inputs):
            weights[p] -= step * sigma[i] * d[i] * rows[i, p]
    for sweep in range(most):
        moved = 0.0
        for i in range(n):
            length = 0.0
            now = 0.0
            for p in range(inputs):
                length += rows[i, p] * rows[i, p]
                now += rows[i, p] * weights[p]
            reach = step * d[i] * length
            at_zero = now + sigma[i] * reach
            if reach > 0.0:
                mask = min(max(at_zero / reach, 0.0), 1.0)
            elif at_zero > 0.0:
                mask = 1.0
            elif at_zero - reach <= 0.0:
                mask = 0.0
            else:
                mask = 1.0 if before[i] >= 0.5 else 0.0
            change = mask - sigma[i]
            if change != 0.0:
                sigma[i] = mask
                moved = max(moved, abs(change))
                for p in range(inputs):
                    weights[p] -= step * change * d[i] * rows[i, p]
            z[i] = at_zero - mask * reach
        if moved <= 1e-10:
            return sweep + 1
    return most
