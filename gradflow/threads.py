"""How many threads a batch of runs uses, and one BLAS thread inside each."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from numbers import Real

_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Set the number of threads over which a batch of runs is spread; results do not depend on it.

    Parameters
    ----------
    count : int or None
        At least 1; None: as many as the process has cores.

    Raises
    ------
    TypeError, ValueError
        If it is no number, or below 1.

    Examples
    --------
    >>> import gradflow as gf
    >>> gf.set_threads(2)
    >>> gf.get_threads()
    2
    >>> gf.set_threads(None)
    """
    global _threads
    if count is not None and not isinstance(count, Real):
        raise TypeError(f"count = {count!r}: must be a number of threads, or None for one per core")
    if count is not None and not (count >= 1 and float(count).is_integer()):
        raise ValueError(f"count = {count!r}: the number of threads must be an integer, at least 1, or None")
    _threads = count


def get_threads() -> int:
    """Number of threads over which a batch of runs is spread.

    Returns
    -------
    int
        What :func:`gradflow.set_threads` set, or the number of cores of the process.

    Examples
    --------
    >>> get_threads() >= 1
    True
    """
    if _threads is not None:
        return _threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class single_blas_thread:  # noqa: N801 - it reads as a verb: with single_blas_thread()
    """Hold BLAS at one thread: small products lose 200x to spinning threads."""

    def __enter__(self):
        loaded = sys.modules
        pools = _pools("scipy.linalg" in loaded, "torch" in loaded, "sklearn" in loaded)
        self._changed = [(pool, count) for pool in pools if (count := pool.get_num_threads()) != 1]
        for pool, _ in self._changed:
            pool.set_num_threads(1)

    def __exit__(self, *_):
        for pool, count in self._changed:
            pool.set_num_threads(count)


@lru_cache(maxsize=1)
def _pools(*loaded: bool) -> list:
    """Thread pools of the BLAS libraries, looked for once for each set of loaded packages: that takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return [pool for pool in ThreadpoolController().lib_controllers if pool.user_api == "blas"]
