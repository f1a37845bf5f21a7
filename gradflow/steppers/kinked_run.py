"""What a kinked run remembers: settings, place, clock, step control, record."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from gradflow.kinks.arrive import Place
from gradflow.kinks.branch import Branch
from gradflow.kinks.look import Lookout, Step
from gradflow.kinks.masked import MaskedNetwork
from gradflow.kinks.record import Record
from gradflow.kinks.slide import Point, point
from gradflow.steppers.kinked_compiled import Compiled
from gradflow.steppers.tableaux import Pair


def _no_counts() -> dict[str, int]:
    return {"gradients": 0, "hessian_products": 0, "accepted": 0, "rejected": 0}


@dataclass
class Run:
    """State of one run of :class:`gradflow.steppers.kinked.Kinked`; `step` is the dense output that led to `place`
    from `place_before`.

    Compiled steps come back after `most_events` events.
    `uncut` is the snapshot before a step was cut at the time `cut_at`, `rest` the time from which on a linearised flow
    led there, `waiting` the branch point at which the run waits for a choice, `origins` the times and neurons at which
    weights that were all 0 moved on, `dispute` says which kinks could not be decided. `stiff` is the stiff stepper
    while it is in charge, `entered` the time, the gradients and the explicit time per gradient when it took over; it
    may do so `patience` steps after the last event, which came after `since` steps, with more than `least_ahead`
    gradients ahead.
    """

    network: MaskedNetwork
    pair: Pair
    powers: np.ndarray
    lookout: Lookout
    rtol: float
    atol: Any
    at_branch: str
    place: Place
    t: float
    t_before: float
    theta_before: np.ndarray
    record: Record
    h: float = 1e-6
    error_before: float = 1e-4
    shortened: int = 0
    unshortened: float = 0.0
    step: Step | None = None
    place_before: Place | None = None
    uncut: dict | None = None
    cut_at: float | None = None
    rest: float | None = None
    waiting: Branch | None = None
    dispute: str = ""
    origins: list[tuple[float, int]] = field(default_factory=list)
    branch_points: list[Branch] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=_no_counts)
    most_events: int = 2**62
    stiff: Any = None
    since: int = 0
    patience: int = 16
    least_ahead: float = math.inf
    entered: tuple[float, int, float] = (0.0, 0, 0.0)

    @property
    def finite(self) -> bool:
        """Whether value and velocity are finite."""
        here = self.place.here
        return here is not None and bool(np.isfinite(here.value) and np.isfinite(here.velocity).all())

    @cached_property
    def compiled(self) -> Compiled | None:
        """Compiled steps, for the plain flow."""
        if type(self.network) is not MaskedNetwork:
            return None
        return Compiled(self.network, self.pair, self.powers, self.lookout, self.rtol, self.atol)

    def evaluate(self, theta) -> Point:
        """Sliding velocity at theta under the masks of the place; counts a gradient."""
        self.counts["gradients"] += 1
        found = self.compiled and self.compiled.point(theta, self.place.sigma, self.place.surface)
        return found or point(self.network, theta, self.place.sigma, self.place.surface)

    def name(self, kink) -> str:
        """A kink in words."""
        network = self.network
        return f"layer {network.layers[kink] + 1} neuron {network.neurons[kink]} sample {network.samples[kink]}"
