"""What eight runs side by side hold, and what is known of every run of an ensemble."""

from typing import NamedTuple

import numpy as np

from gradflow.kernels.kernel import Kernel
from gradflow.lanes.vectors import LANES
from gradflow.status import Status
from gradflow.steppers.adaptive import RECORD, Control
from gradflow.steppers.stepper import Limits
from gradflow.steppers.tableaux import Pair, Sums
from gradflow.steppers.tableaux import pair as pair_of

NOW, KEPT, START = range(3)
"""Records of a run: now, before its last step was cut, at the start."""
IDLE = -1


class Method(NamedTuple):
    """An explicit pair: its tableau, the rows for stages and errors without zeros, the stages of the interpolant."""

    pair: Pair
    stages: Sums
    errors: Sums
    interpolant: np.ndarray


class Task(NamedTuple):
    """What all runs share; one absolute tolerance per run."""

    gradient: int
    numbers: np.ndarray
    layout: np.ndarray
    starts: np.ndarray
    t_start: float
    atol: np.ndarray
    rtol: np.ndarray
    control: Control
    limits: Limits
    save_at: np.ndarray


class Results(NamedTuple):
    """What is known of each run: records now, before the last cut, and at the start, with states and velocities."""

    records: np.ndarray
    status: np.ndarray
    saved: np.ndarray
    saves: np.ndarray
    end: np.ndarray
    kept_state: np.ndarray
    kept_velocity: np.ndarray
    start_velocity: np.ndarray
    taken: np.ndarray


class Group(NamedTuple):
    """Vectors of the runs that are side by side: states, trial states, scratch, gradients at the stages."""

    runs: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    y_new: np.ndarray
    argument: np.ndarray
    terms: np.ndarray
    K: np.ndarray
    work: np.ndarray
    lengths: np.ndarray
    factors: np.ndarray
    mask: np.ndarray
    errors: np.ndarray
    rho: np.ndarray
    atol: np.ndarray
    weights: np.ndarray


def method_of(name: str) -> Method:
    """A pair, with the zeros left out of its sums."""
    pair = pair_of(name)
    return Method(pair, pair.sums, pair.errors, pair.interpolant.places[0])


def new_group(kernel: Kernel, method: Method, size: int) -> Group:
    """Idle lanes for states of a size."""
    rows, long = method.pair.A.shape[0], LANES * size
    return Group(
        np.full(LANES, IDLE),
        np.zeros(LANES, np.int64),
        *(_aligned(long) for _ in range(4)),
        K=_aligned(rows * long).reshape(rows, long),
        work=_aligned(kernel.work_size),
        lengths=_aligned(LANES),
        factors=_aligned(LANES),
        mask=_aligned(LANES),
        errors=_aligned(LANES),
        rho=_aligned(LANES),
        atol=_aligned(LANES),
        weights=_aligned(rows * LANES).reshape(rows, LANES),
    )


def _aligned(count: int) -> np.ndarray:
    """Zeros that begin at a cache line, which no vector of eight numbers then crosses."""
    room = np.zeros(count + LANES)
    first = -(room.ctypes.data // 8) % LANES
    return room[first : first + count]


def new_results(runs: int, size: int, times: int) -> Results:
    """Room for what is known of each run."""
    states = (np.empty((runs, size)) for _ in range(4))
    records = np.zeros((runs, 3), RECORD)
    status, saves = np.full(runs, int(Status.PAUSED)), np.zeros(runs, np.int64)
    return Results(records, status, np.empty((runs, times, size)), saves, *states, taken=np.zeros(1, np.int64))
