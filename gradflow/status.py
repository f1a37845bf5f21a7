"""Why a run stopped."""

from enum import IntEnum


class Status(IntEnum):
    """Reason for which a stepper, or a whole run, came back.

    The numbers are stored in files and frozen into compiled code: new reasons are appended, old ones keep theirs.

    Examples
    --------
    >>> from gradflow.status import Status
    >>> print(Status.REACHED_END)
    reached the end time
    >>> Status(2).name
    'LOSS_BELOW'
    """

    PAUSED = 0
    REACHED_END = 1
    LOSS_BELOW = 2
    GRADIENT_BELOW = 3
    STATIONARY = 4
    EVENT = 5
    GRADIENT_BUDGET = 6
    STEP_TOO_SMALL = 7
    STALLED_AT_KINK = 8
    DIVERGED = 9
    NOT_FINITE_START = 10
    WALL_CLOCK = 11
    INTERRUPTED = 12
    SOLVER_FAILED = 13
    STIFF = 14
    FUNCTION_FAILED = 15

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        return _SENTENCES[self]

    def __str__(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.PAUSED: "paused after the steps that were asked for; the run can go on",
    Status.REACHED_END: "reached the end time",
    Status.LOSS_BELOW: "the loss fell below the value that was asked for",
    Status.GRADIENT_BELOW: "the gradient norm fell below the value that was asked for",
    Status.STATIONARY: "reached a stationary point to within the tolerance",
    Status.EVENT: "an event stopped the run",
    Status.GRADIENT_BUDGET: "the budget of gradients is used up; the state so far is valid",
    Status.STEP_TOO_SMALL: "the step size fell below what time can resolve: the field is singular or not smooth here",
    Status.STALLED_AT_KINK: "stalled at a kink: too many crossings without progress in time",
    Status.DIVERGED: "diverged: the objective or the state is no longer finite; the last finite state is kept",
    Status.NOT_FINITE_START: "the objective, its gradient or the state is not finite at the start",
    Status.WALL_CLOCK: "the time allowed on the wall clock is used up; the state so far is valid",
    Status.INTERRUPTED: "interrupted from outside; the state so far is valid",
    Status.SOLVER_FAILED: "the solver failed to take a step; the state so far is valid",
    Status.STIFF: "the problem has become stiff for an explicit method",
    Status.FUNCTION_FAILED: "an event or the velocity raised an error (see the notes); the state so far is valid",
}
