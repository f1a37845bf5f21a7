"""Compiled functions that Python calls, of one signature each, compiled when they are called for the first time."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numba

from gradflow.kernels.calls import mark_cache
from gradflow.kernels.procedures import EXACT, OPTIONS

_lock, _again = threading.RLock(), threading.local()


def entry(signature: str | None = None, *, exact: bool = False) -> Callable[[Callable], Any]:
    """Decorator: compile a function for the types of a signature, or without one for those that it is called with.

    The compiled code is cached on disk.
    """

    def decorate(function: Callable) -> Any:
        kept = {name: (EXACT if exact else OPTIONS)[name] for name in ("error_model", "fastmath")}
        njit: Any = numba.njit
        dispatcher = njit(cache=True, nogil=True, **kept)(function)
        mark_cache(dispatcher)
        if signature is not None:
            dispatcher._compile_for_args = partial(_of_first_call, dispatcher, signature)
        return dispatcher

    return decorate


def _of_first_call(dispatcher: Any, signature: str, *_) -> Any:
    """What to call where no compiled form was found: the one of the signature, compiled by the first thread to come."""
    with _lock:
        first = dispatcher._can_compile
        if first:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
    return dispatcher if first else partial(_once_more, dispatcher)


def _once_more(dispatcher: Any, *arguments: Any) -> Any:
    """Call by a thread that found no compiled form because another was compiling it; a second time, none fits."""
    if getattr(_again, "here", False):
        raise TypeError(f"{dispatcher.__name__} takes {dispatcher.signatures[0]}")
    _again.here = True
    try:
        return dispatcher(*arguments)
    finally:
        _again.here = False
