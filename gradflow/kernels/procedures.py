"""Compiled procedures that other compiled code calls by name, and arrays given by their address.

A procedure is compiled once, cached on disk, and linked by the name of its symbol: the code that calls it neither
contains it nor has to be compiled anew when it changes.
"""

from collections.abc import Callable
from typing import Any

import numba
import numba.extending
from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import njit, types
from numba.core import cgutils
from numba.core.sigutils import normalize_signature

import gradflow.kernels.announce  # noqa: F401
from gradflow.kernels.calls import SAFE_MATH

carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]
cfunc: Any = numba.cfunc
intrinsic: Any = numba.extending.intrinsic
"""As in numba, whose annotations show the function that types a call, not the one that is called."""

OPTIONS = {"error_model": "numpy", "fastmath": set(SAFE_MATH), "nogil": True}
EXACT = {"error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}, "nogil": True}
"""Without the licence to reorder sums."""

_loaded: dict[str, Any] = {}


def integers(count: int) -> Any:
    """Signature of a procedure of `count` integers."""
    return types.void(*[types.int64] * count)


def procedure(signature: Any, *, exact: bool = False) -> Callable[[Callable], Any]:
    """Decorator: compile a function of numbers and addresses; the result can be called from compiled code only."""
    arguments: Any
    returned: Any
    arguments, returned = normalize_signature(signature)
    options = {key: value for key, value in (EXACT if exact else OPTIONS).items() if key != "nogil"}

    def decorate(function: Callable) -> Any:
        symbol = f"{function.__module__}.{function.__name__}".replace(".", "_")
        _loaded[symbol] = cfunc(signature, cache=True, **options)(function)
        add_symbol(symbol, _loaded[symbol].address)
        return types.ExternalFunction(symbol, returned(*arguments))

    return decorate


@intrinsic
def address_of(typing_context, array):
    """Address of the first entry of an array."""

    def generate(context, builder, signature, values):
        data = cgutils.create_struct_proxy(array)(context, builder, value=values[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


@njit(**OPTIONS)
def keep(array):
    """Keep a local array that others know by its address: compiled code frees an array after its last use."""


def _pointer(kind, llvm_kind):
    """Intrinsic: an address as a pointer to numbers of one kind."""

    @intrinsic
    def pointer(typing_context, address):
        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], llvm_kind.as_pointer())

        return types.CPointer(kind)(types.int64), generate

    return pointer


_pointer_to_float = _pointer(types.float64, ir.DoubleType())
_pointer_to_int = _pointer(types.int64, ir.IntType(64))


@njit(**OPTIONS)
def view(address, count):
    """Vector of `count` numbers at an address."""
    return carray(_pointer_to_float(address), (count,))


@njit(**OPTIONS)
def integer_view(address, count):
    """Vector of `count` integers at an address."""
    return carray(_pointer_to_int(address), (count,))


@njit(**OPTIONS)
def matrix(address, rows, cols):
    """Matrix, row by row, at an address."""
    return carray(_pointer_to_float(address), (rows, cols))
