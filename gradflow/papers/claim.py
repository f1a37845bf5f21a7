"""A claim of a paper: a number that it states, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Claim:
    r"""A statement with a measured value, which holds or fails.

    The value must be true, or at most `below`, at least `above`, within a tolerance of `expected`:
    :math:`|v - e| \le \mathrm{within} + \mathrm{rtol}\,|e|`. Of an array the worst entry counts; NaN fails.

    Parameters
    ----------
    name : str
        Short, unique within its figure.
    sentence : str
        What is claimed, with its formula.
    value : bool, float or array_like
        What was measured.
    below, above : float, optional
        Bounds, themselves allowed.
    expected : float or array_like, optional
        What the paper or a formula says, with `within` or `rtol`.
    within, rtol : float
        Absolute and relative tolerance.

    Raises
    ------
    ValueError, TypeError
        If there is nothing that the value could fail.

    Examples
    --------
    >>> Claim("drift", "the norm of u is conserved", 3e-10, below=1e-8).passed
    True
    >>> print(Claim("order", "halving h halves the distance", [2.01, 1.7], expected=2.0, within=0.1))
    FAILED  order: 1.7, must be 2 +- 0.1
    """

    name: str
    sentence: str
    value: object
    below: float | None = None
    above: float | None = None
    expected: object = None
    within: float = 0.0
    rtol: float = 0.0

    def __post_init__(self):
        if self.expected is not None and self.within == self.rtol == 0.0:
            raise ValueError(f"claim {self.name!r}: an expected value needs a tolerance; give within= or rtol=")
        bounded = not (self.below is self.above is self.expected is None)
        values = np.ravel(self.value)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if values.size == 0:
            raise ValueError(f"claim {self.name!r}: the value is empty, so nothing was measured")
        if not bounded:
            if values.dtype != bool:
                raise TypeError(f"claim {self.name!r}: a number needs below=, above= or expected=")
            object.__setattr__(self, "value", bool(values.all()))
            return
        values = values.astype(float)
        wanted = None if self.expected is None else np.broadcast_to(np.ravel(self.expected), values.shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
        excess = self._excess(values, wanted)
        worst = int(np.argmax(np.where(np.isnan(values), np.inf, excess)))
        object.__setattr__(self, "value", float(values[worst]))
        if wanted is not None:
            object.__setattr__(self, "expected", float(wanted[worst]))

    @classmethod
    def halves(cls, name: str, sentence: str, values, *, within: float) -> Claim:
        """That numbers for steps h, h/2, h/4, ... halve with the step: the quotients of successive ones are 2.

        Parameters
        ----------
        name, sentence : str
            As of any claim.
        values : array_like (..., steps)
            Positive; the largest step first.
        within : float
            Tolerance of the quotients.

        Examples
        --------
        >>> print(Claim.halves("order", "the error halves with the step", [4e-3, 2e-3, 1e-3], within=0.1))
        passed  order: 2, must be 2 +- 0.1
        """
        values = np.asarray(values, dtype=float)
        return cls(name, sentence, values[..., :-1] / values[..., 1:], expected=2.0, within=within)

    def _excess(self, values, wanted) -> np.ndarray:
        """How far each value is beyond its nearest bound; not positive where it holds."""
        excess = np.full(values.shape, -np.inf)
        if self.below is not None:
            excess = np.maximum(excess, values - self.below)
        if self.above is not None:
            excess = np.maximum(excess, self.above - values)
        if wanted is not None:
            excess = np.maximum(excess, np.abs(values - wanted) - self.within - self.rtol * np.abs(wanted))
        return excess

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        if isinstance(self.value, bool):
            return self.value
        wanted = None if self.expected is None else np.asarray([self.expected], dtype=float)
        return bool(self._excess(np.asarray([self.value], dtype=float), wanted)[0] <= 0.0)

    @property
    def condition(self) -> str:
        """What the value must be."""
        if isinstance(self.value, bool):
            return "true"
        parts = []
        if self.above is not None:
            parts.append(f">= {self.above:.6g}")
        if self.below is not None:
            parts.append(f"<= {self.below:.6g}")
        if self.expected is not None:
            tolerance = self.within + self.rtol * abs(self.expected)  # pyright: ignore[reportArgumentType]
            parts.append(f"{self.expected:.7g} +- {tolerance:.2g}")
        return " and ".join(parts)

    @property
    def measured(self) -> str:
        """The value as text."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return f"{self.value:.{7 if self.expected is not None else 3}g}"

    def __str__(self):
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}  {self.name}: {self.measured}, must be {self.condition}"

    def to_dict(self) -> dict:
        """As JSON, with the verdict."""
        return {**vars(self), "passed": self.passed}

    @classmethod
    def from_dict(cls, stored: dict) -> Claim:
        """From what :meth:`to_dict` gave."""
        return cls(**{key: value for key, value in stored.items() if key != "passed"})
