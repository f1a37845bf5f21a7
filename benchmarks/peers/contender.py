"""What a contender is, and how a run that takes too long ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

End = tuple[np.ndarray, int]
"""theta at t_end, and the number of gradients (0 where the solver does not say)."""


class TooSlow(Exception):
    """More processor time than the cap of a case."""


@dataclass(frozen=True)
class Contender:
    """A solver: ``prepare(case)`` does what is done once, and returns ``solve(tolerance) -> End``.

    `compiles`: the first solve compiles, and is not measured. `largest`: parameters that its dense matrices allow.
    """

    name: str
    prepare: Callable[..., Callable[[float], End]]
    explicit: bool = False
    largest: int = 10**9
    own: bool = False
    compiles: bool = False

    def refusal(self, case) -> str | None:
        """Why it does not run on a case, if so."""
        if self.explicit and not case.explicit:
            return "explicit, millions of gradients"
        if case.size > self.largest:
            return f"dense matrices, {case.size} parameters"
        return None


class Counted:
    """A function that counts its calls, and raises TooSlow when the processor time is used up."""

    def __init__(self, function, seconds):
        self.function, self.count, self.end = function, 0, time.process_time() + seconds

    def __call__(self, *arguments):
        self.count += 1
        if self.count % 16 == 0 and time.process_time() > self.end:
            raise TooSlow
        return self.function(*arguments)


def absolute(tolerance: float) -> float:
    """Absolute tolerance that every other solver gets."""
    return tolerance / 100
