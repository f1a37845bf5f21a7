"""Stochastic steps: the fixed-step Euler rule with another minibatch for every gradient."""

from __future__ import annotations

import json

import numpy as np

from gradflow.kernels.minibatch import minibatch
from gradflow.status import Status
from gradflow.steppers.choose import make_field
from gradflow.steppers.fixed import Fixed


class Batches:
    """The sequence of minibatches of a seed: permutations cut into pieces, or draws with replacement."""

    def __init__(self, n: int, batch_size: int, replacement: bool, seed: int):
        self.n, self.batch_size, self.replacement = n, batch_size, replacement
        self.rng = np.random.default_rng(seed)
        self.position, self.epoch_state, self.order = n, "", np.zeros(0, np.int64)

    def draw(self) -> np.ndarray:
        """Indices of the next batch."""
        if self.replacement:
            return self.rng.integers(self.n, size=self.batch_size)
        if self.position >= self.n:
            self.epoch_state = json.dumps(self.rng.bit_generator.state)
            self.order, self.position = self.rng.permutation(self.n), 0
        batch = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return batch

    def state(self) -> dict:
        """Where the sequence stands, as text and a number."""
        if self.replacement:
            return {"generator": json.dumps(self.rng.bit_generator.state), "position": 0}
        return {"generator": self.epoch_state, "position": self.position}

    def restore(self, state: dict) -> None:
        """Go back to where the sequence stood."""
        if state["generator"]:
            self.rng.bit_generator.state = json.loads(state["generator"])
        if not self.replacement:
            self.position = self.n
            if state["generator"]:
                self.draw()
                self.position = state["position"]


class Stochastic:
    """One run of SGD; same interface as the other steppers. `value` is the loss of the current batch."""

    def __init__(self, problem, dynamics, t, state):
        self._batches = Batches(problem.n, dynamics.batch_size, dynamics.replacement, dynamics.seed)
        self._minibatch = minibatch(
            problem.network, problem.loss, problem.x, problem.y, problem.decay, dynamics.batch_size
        )
        self._load()
        self._fresh = False
        self.full_field = make_field(problem, dynamics, problem.kernel)
        self.field = make_field(problem, dynamics, self._minibatch.kernel)
        self._fixed = Fixed(self.field, t, state, step=dynamics.step, method="euler", whole_steps=True)

    def _load(self):
        """Put the next batch in place; note where the sequence stood before."""
        self._before = self._batches.state()
        self._minibatch.load(self._batches.draw())

    def advance(self, t_end, *, max_steps=2**62, loss_below=-np.inf, **options) -> Status:
        """Take steps. The gradient at the end of a step is the first of the next one, on the next batch."""
        for _ in range(max_steps):
            if not self._fresh:
                self._load()
                self._fresh = True
            accepted = self._fixed.counts["accepted"]
            status = self._fixed.advance(t_end, max_steps=1, **options)
            if self._fixed.counts["accepted"] > accepted:
                self._fresh = False
            if status != Status.PAUSED:
                return status
        return Status.PAUSED

    def snapshot(self) -> dict:
        """State of the rule and of the sequence of batches."""
        sequence = self._before if self._fresh else self._batches.state()
        return self._fixed.snapshot() | sequence

    def restore(self, snapshot: dict) -> None:
        """Go to the state of a snapshot."""
        own = {key: value for key, value in snapshot.items() if key not in ("generator", "position")}
        self._batches.restore(snapshot)
        self._fresh = False
        self._fixed.restore(own)

    def dense(self, t):
        """State at the end of the last step."""
        return self._fixed.dense(t)

    def __getattr__(self, name):
        if name in ("t", "state", "value", "velocity", "counts", "t_before", "state_before"):
            return getattr(self._fixed, name)
        raise AttributeError(name)
