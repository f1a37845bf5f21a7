"""Many runs of a plain flow in vector lanes, on threads that take runs from one queue."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from gradflow.kernels.calls import GRADIENT, address
from gradflow.kernels.kernel import Kernel
from gradflow.lanes import covariance, diagonal, feedforward
from gradflow.lanes.memory import Results, Task, method_of, new_group, new_results
from gradflow.lanes.stepper import abandon, advance
from gradflow.lanes.vectors import LANES
from gradflow.status import Status
from gradflow.steppers.adaptive import Control
from gradflow.steppers.saving import UNLIMITED
from gradflow.steppers.stepper import Limits
from gradflow.steppers.tableaux import STIFF_LIMITS

MOST_SCRATCH, MOST_PARAMETERS = 10_000, 1_000
SLICE_SECONDS, LOOK_SECONDS = 0.05, 0.05
_FAMILIES = {"covariance": covariance, "diagonal": diagonal, "feedforward": feedforward}


def lane_kernel(kernel: Kernel) -> Kernel | None:
    """Kernel of lanes beside a single one; None where there is none.

    Examples
    --------
    >>> import gradflow as gf
    >>> problem = gf.Problem(gf.DeepLinear([1, 1, 1]), gf.losses.Square(), [[1.0]], [[2.0]])
    >>> lane_kernel(problem.kernel).name
    'covariance in lanes'
    """
    family = _FAMILIES.get(kernel.name.rpartition(", ")[2]) if kernel.compiled else None
    return None if family is None else family.widen(kernel)


def lanes_pay(problem) -> bool:
    """Whether eight runs side by side are faster than one after the other: where their numbers fit in the cache."""
    kernel = problem.kernel
    small = problem.size <= MOST_PARAMETERS and kernel.work_size <= MOST_SCRATCH
    return small and lane_kernel(kernel) is not None


def run_ensemble(
    kernel: Kernel,
    starts: np.ndarray,
    t_start: float,
    t_end: float,
    *,
    rtol: float,
    atol: Any,
    pair: str = "dop853",
    save_at: Any = (),
    max_gradients: int = UNLIMITED,
    loss_below: float = -math.inf,
    stiff_gradients: float = math.inf,
    threads: int = 1,
    look: Callable[[int], Status | None] = lambda ended: None,
) -> Results:
    """Take all runs to their ends; what comes out depends neither on the threads nor on the other runs.

    Parameters
    ----------
    kernel : Kernel
        A kernel of lanes.
    starts : ndarray (runs, P)
        Start states.
    t_start, t_end : float
        Times of the start and of the end.
    rtol : float
        Relative tolerance.
    atol : float or array_like (runs,)
        Absolute tolerance, the same for all entries of a run.
    pair : str
        "dop853" or "rk45".
    save_at : array_like (T,)
        Increasing times within the run at which states are saved.
    max_gradients : int
        Cap for each run.
    loss_below : float
        A run pauses with LOSS_BELOW before the step that leads below this objective.
    stiff_gradients : float
        A run pauses with STIFF as :class:`gradflow.steppers.explicit.Explicit` does.
    threads : int
        Number of threads, each with its own eight lanes.
    look : callable
        Called with the number of runs that have ended, several times a second; a status ends the runs under way.

    Returns
    -------
    Results
        The status of a run that never began is PAUSED.
    """
    runs, size = starts.shape
    limits = Limits(float(t_end), int(max_gradients), UNLIMITED, float(loss_below))
    control = Control(float(rtol), np.zeros(0), STIFF_LIMITS[pair], float(stiff_gradients))
    task = Task(
        address(kernel.gradient, GRADIENT),
        kernel.numbers,
        kernel.layout,
        np.ascontiguousarray(starts, dtype=np.float64),
        float(t_start),
        np.maximum(np.broadcast_to(np.asarray(atol, dtype=np.float64), (runs,)), 1e-300),
        np.array([float(rtol)]),
        control,
        limits,
        np.array(save_at, dtype=np.float64),
    )
    results = new_results(runs, size, task.save_at.size)
    _on_threads(kernel, task, method_of(pair), results, max(1, min(threads, -(-runs // LANES))), look)
    return results


def _on_threads(kernel, task, method, results, workers, look) -> None:
    """Take runs from one queue on some threads, until all have ended or `look` ends them."""
    verdict: list[Status] = []

    def work() -> None:
        group = new_group(kernel, method, results.end.shape[1])
        while not advance(task, method, results, group, _slice(kernel)):
            if verdict:
                abandon(results, group, int(verdict[0]))
                return

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            while wait(futures, LOOK_SECONDS).not_done:
                ended = look(int(np.count_nonzero(results.status)))
                if ended is not None:
                    verdict.append(ended)
        except BaseException:
            verdict.append(Status.INTERRUPTED)
            raise
    for future in futures:
        future.result()


def _slice(kernel: Kernel) -> int:
    """Gradients of a group between two looks: about so many seconds, by the operations and never by a clock."""
    return max(100, int(SLICE_SECONDS / (1e-6 + 2.5e-11 * kernel.flops)))
