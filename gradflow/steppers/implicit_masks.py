"""Euler steps whose masks are those of the new state: a second, simpler way through the kinks of two-layer nets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradflow.kinks.masked import MaskedNetwork
from gradflow.status import Status
from gradflow.steppers.saving import UNLIMITED, save_arrays

MOST_SWEEPS = 200
_ROUNDING = 1e-9


class ImplicitMasks:
    r"""Fixed-step Euler for the gradient flow with kinks in the first layer, without events.

    :math:`w_j^+ = w_j + h\,(u_j - \sum_i \sigma_{ij} d_{ij}\,\tilde x_i)` with :math:`\sigma_{ij}` = 1 where
    :math:`z_{ij}^+ > 0`, 0 where :math:`z_{ij}^+ < 0` and between where :math:`z_{ij}^+ = 0`: masks from the signs of
    the new pre-activations, everything else explicit. Order 1, the error of plain Euler at equal step, but z = 0
    exactly on sliding kinks. Meant as an independent check, and for problems with very many events.

    Parameters
    ----------
    problem : Problem
        Of a fully connected network whose only relu, leaky_relu or abs layer is the first, without skips.
    t : float
        Start time.
    theta : array_like, (P,)
        Start.
    step : float
        Step size h; a shorter last step ends at t_end.

    Raises
    ------
    ValueError
        For another network, a step that is not positive, theta of the wrong shape.

    Examples
    --------
    >>> import numpy as np, gradflow as gf
    >>> loss = gf.losses.Square(reduction="sum", half=True)
    >>> problem = gf.Problem(gf.FullyConnected([2, 1, 1]), loss, [[1.0, 1.0], [0.0, 1.0]], [1.0, -1.2])
    >>> run = ImplicitMasks(problem, 0.0, [0.4, -0.1, 0.3 / np.sqrt(2)], step=2.5e-3)
    >>> print(run.advance(2.0), run.state.round(2).tolist())
    reached the end time [0.95, 0.0, 0.89]
    """

    def __init__(self, problem: Any, t: float, theta: Any, *, step: float) -> None:
        if not 0.0 < step < math.inf:
            raise ValueError(f"step = {step}: the step size must be positive and finite; give step > 0")
        theta = problem.checked(theta).copy()
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}: kinks are followed one run at a time; give shape (P,)")
        self.network = MaskedNetwork(problem)
        if not self.network.flat:
            raise ValueError(f"{problem.network}: implicit masks need all kinks in the first layer; use kinks='follow'")
        from gradflow.kinks.sweeps import implicit_masks

        self._sweep, self._step_size = implicit_masks, float(step)
        self._rows = self.network.extended_samples(np.arange(self.network.n))
        self._counts = {"gradients": 0, "hessian_products": 0, "accepted": 0, "rejected": 0, "sweeps": 0}
        self._t = self._t_before = self._origin = float(t)
        self._whole, self._uncut, self._cut_at = 0, None, None
        self._theta, self._theta_before = theta, theta.copy()
        self._sigma = np.zeros(self.network.size)
        first = slice(0, self.network.kinks_at[1])
        self._sigma[first] = self.network.forward(theta, self._sigma)[0][first] > 0.0
        self._evaluate()

    def _evaluate(self):
        """Objective and gradient at the state."""
        self._run = self.network.run(self._theta, self._sigma)
        self._counts["gradients"] += 1

    def _blocks(self, vector):
        """Weights (and biases) of the first layer, one row per neuron, a copy."""
        inputs, width = int(self.network.widths[0]), int(self.network.widths[1])
        blocks = vector[: inputs * width].reshape(width, inputs)
        if not self.network.bias:
            return blocks.copy()
        return np.column_stack([blocks, vector[inputs * width : (inputs + 1) * width]])

    def _stepped(self, length):
        """State and masks one step of the given length later."""
        network, run = self.network, self._run
        width, inputs = int(network.widths[1]), int(network.widths[0])
        first = slice(0, network.kinks_at[1])
        d = (network.gap[first] * run.delta[first]).reshape(-1, width)
        sigma = self._sigma[first].reshape(-1, width)
        free = self._blocks(self._theta - length * run.gradient)
        free += length * (sigma * d).T @ self._rows
        new, masks = np.empty_like(free), np.ascontiguousarray(sigma.T)
        z = np.empty(network.n)
        for j in range(width):
            own = np.ascontiguousarray(d[:, j])
            self._counts["sweeps"] += self._sweep(self._rows, own, length, free[j], masks[j], new[j], z, MOST_SWEEPS)
        theta = self._theta - length * run.gradient
        theta[: inputs * width] = new[:, :inputs].ravel()
        if network.bias:
            theta[inputs * width : (inputs + 1) * width] = new[:, inputs]
        all_masks = self._sigma.copy()
        all_masks[first] = masks.T.ravel()
        return theta, all_masks

    def advance(
        self,
        t_end: float,
        *,
        save_at: np.ndarray | None = None,
        saved: np.ndarray | None = None,
        max_gradients: int = UNLIMITED,
        max_steps: int = UNLIMITED,
        loss_below: float = -math.inf,
    ) -> Status:
        """Step until t_end or another reason to stop; the arguments are those of ``Fixed.advance``."""
        t_end = float(t_end)
        if not t_end >= self._t - _ROUNDING * self._step_size:
            raise ValueError(f"t_end = {t_end} lies before t = {self._t}: a stepper goes forward; give a later t_end")
        if self._counts["accepted"] == 0 and not self._finite():
            return Status.NOT_FINITE_START
        if self._cut_at != t_end:
            self._uncut = self._cut_at = None
        save_at, saved = save_arrays(save_at, saved, self._theta.size)
        last = self._counts["accepted"] + max_steps
        with np.errstate(all="ignore"):
            while True:
                self._save(save_at, saved)
                if self.value < loss_below:
                    return Status.LOSS_BELOW
                if t_end - self._t <= _ROUNDING * self._step_size:
                    return Status.REACHED_END
                if self._counts["accepted"] >= last:
                    return Status.PAUSED
                if self._counts["gradients"] + 1 > max_gradients:
                    return Status.GRADIENT_BUDGET
                if not self._advance_once(t_end):
                    return Status.DIVERGED

    def _advance_once(self, t_end) -> bool:
        """One step, whole or cut at t_end; False (and nothing changes) if the new state is not finite."""
        whole = self._whole + 1 <= (t_end - self._origin) / self._step_size + _ROUNDING
        t_new = self._origin + (self._whole + 1) * self._step_size if whole else t_end
        if not whole:
            self._uncut, self._cut_at = self._pack(), t_end
        theta, sigma = self._stepped(self._step_size if whole else t_end - self._t)
        before = (self._theta, self._sigma, self._run)
        self._theta, self._sigma = theta, sigma
        self._evaluate()
        if not self._finite():
            self._theta, self._sigma, self._run = before
            return False
        self._theta_before, self._t_before, self._t = before[0], self._t, t_new
        self._origin, self._whole = (self._origin, self._whole + 1) if whole else (t_new, 0)
        self._counts["accepted"] += 1
        return True

    def _finite(self) -> bool:
        """Whether state, objective and gradient are finite."""
        return bool(np.isfinite(self._run.value) and np.isfinite(self._run.gradient).all())

    def _save(self, save_at, saved):
        """Write the states at save times inside the last step."""
        slack = _ROUNDING * self._step_size
        first = np.searchsorted(save_at, self._t_before - slack)
        for k in range(first, np.searchsorted(save_at, self._t + slack, "right")):
            saved[k] = self.dense(min(max(save_at[k], self._t_before), self._t))

    def dense(self, t: Any) -> np.ndarray:
        """State at a time, or at times (m,), inside the last step, linear: (P,) or (m, P)."""
        if np.ndim(t):
            return np.stack([self.dense(time) for time in np.asarray(t, dtype=float)])
        if not self._t_before <= t <= self._t:
            raise ValueError(f"t = {t}: dense output is known from {self._t_before} to {self._t}")
        if t == self._t:
            return self._theta.copy()
        x = (t - self._t_before) / (self._t - self._t_before)
        return self._theta_before + x * (self._theta - self._theta_before)

    def _pack(self) -> dict[str, Any]:
        kept = {"t": self._t, "origin": self._origin, "whole": self._whole}
        return kept | {"state": self._theta.copy(), "masks": self._sigma.copy()} | self._counts

    def snapshot(self) -> dict[str, Any]:
        """What a run needs to go on; after a step cut at t_end, the state before the cut."""
        return self._pack() if self._uncut is None else dict(self._uncut)

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go to the state that a snapshot describes; ValueError if it belongs to another problem."""
        theta, sigma = np.array(snapshot["state"], dtype=float), np.array(snapshot["masks"], dtype=float)
        if theta.shape != self._theta.shape or sigma.shape != self._sigma.shape:
            raise ValueError(f"the snapshot has {theta.size} parameters, this run {self._theta.size}: problems differ")
        self._theta, self._theta_before, self._sigma = theta, theta.copy(), sigma
        self._t = self._t_before = float(snapshot["t"])
        self._origin, self._whole = float(snapshot["origin"]), int(snapshot["whole"])
        self._uncut = self._cut_at = None
        self._evaluate()
        self._counts = {name: int(snapshot[name]) for name in self._counts}

    @property
    def t(self) -> float:
        """Time after the last step."""
        return self._t

    @property
    def t_before(self) -> float:
        """Time before the last step."""
        return self._t_before

    @property
    def state(self) -> np.ndarray:
        """State theta, a copy."""
        return self._theta.copy()

    @property
    def state_before(self) -> np.ndarray:
        """State before the last step, a copy."""
        return self._theta_before.copy()

    @property
    def value(self) -> float:
        """Objective at the state."""
        return float(self._run.value)

    @property
    def velocity(self) -> np.ndarray:
        """Minus the gradient under the masks of the step that led to the state, a copy."""
        return -self._run.gradient

    @property
    def masks(self) -> np.ndarray:
        """Masks sigma of the hidden units, inside (0, 1) on sliding kinks; a copy."""
        return self._sigma.copy()

    @property
    def counts(self) -> dict[str, int]:
        """Gradients, steps and Gauss-Seidel sweeps so far."""
        return dict(self._counts)
