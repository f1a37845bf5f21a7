"""Compiled functions that Python calls, of one signature each, compiled when they are called for the first time."""

from collections.abc import Callable
from typing import Any

import numba

from gradflow.kernels.calls import mark_cache
from gradflow.kernels.procedures import EXACT, OPTIONS


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

            def first_call(*arguments):
                """Compile for the signature, whatever the types of the arguments; return what is to be called."""
                dispatcher.__dict__.pop("_compile_for_args", None)
                if dispatcher._can_compile:
                    dispatcher.compile(signature)
                    dispatcher.disable_compile()
                return dispatcher

            dispatcher._compile_for_args = first_call
        return dispatcher

    return decorate
