"""Compiled procedures that other compiled code calls by name, and arrays given by their address.

A procedure is compiled when it is called for the first time, and cached on disk. Its callers read its address from a
slot that is linked by name: they neither contain it nor have to be compiled anew when it changes. At first the slot
holds the address of a function that compiles, fills the slot and goes on, so that a run compiles only what it needs.
"""

import _thread
import ctypes
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import njit, types
from numba.core import ccallback, cgutils
from numba.core.caching import NullCache
from numba.core.sigutils import normalize_signature
from numba.core.typing.templates import make_concrete_template
from numba.np.arrayobj import populate_array

import gradflow.kernels.announce  # noqa: F401
from gradflow.kernels.calls import SAFE_MATH, mark_cache

intrinsic: Any = numba.extending.intrinsic
"""As in numba, whose annotations show the function that types a call, not the one that is called."""

OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": set(SAFE_MATH),
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": True,
}
"""Of functions that only compiled code calls, which spares the code that Python would call them by."""
EXACT: dict[str, Any] = OPTIONS | {"fastmath": {"contract", "nsz", "arcp"}}
"""Without the licence to reorder sums."""

_C_TYPES = {types.int64: ctypes.c_int64, types.float64: ctypes.c_double, types.void: None}
_SECONDS = 0.1
"""After an interrupt that comes during a compilation, which goes on, until it is told again."""
_lock = threading.RLock()


def integers(count: int) -> Any:
    """Signature of a procedure of `count` integers."""
    return types.void(*[types.int64] * count)


def procedure(signature: Any, *, exact: bool = False) -> Callable[[Callable], Any]:
    """Decorator: compile a function of numbers and addresses; the result can be called from compiled code only."""
    return lambda function: Procedure(function, signature, EXACT if exact else OPTIONS)


class Procedure:
    """A function that compiled code knows by the name of a slot, which holds its address."""

    def __init__(self, function: Callable, signature: Any, options: dict):
        arguments: Any
        returned: Any
        arguments, returned = normalize_signature(signature)
        self.symbol = f"slot_of_{function.__module__}_{function.__name__}".replace(".", "_")
        self._made: Any = ccallback.CFunc(function, (arguments, returned), locals={}, options=options)
        self._type: Any = ctypes.CFUNCTYPE(*(_C_TYPES.get(kind, ctypes.c_void_p) for kind in (returned, *arguments)))
        self._first = self._type(self._first_call)
        self._slot = ctypes.cast(self._first, ctypes.c_void_p)
        add_symbol(self.symbol, ctypes.addressof(self._slot))
        template = make_concrete_template(self.symbol, self.symbol, [returned(*arguments)])
        self._numba_type_ = types.Function(template)
        numba.extending.lower_builtin(self.symbol, *arguments)(self._write_call)

    def _write_call(self, context, builder, signature, values):
        """Write a call of what the slot points to into a function that is being compiled."""
        void = signature.return_type == types.void
        returned = ir.VoidType() if void else context.get_value_type(signature.return_type)
        kind = ir.FunctionType(returned, [value.type for value in values]).as_pointer()
        slot = builder.module.globals.get(self.symbol) or ir.GlobalVariable(builder.module, kind, self.symbol)
        result = builder.call(builder.load(slot), values)
        return context.get_dummy_value() if void else result

    def _first_call(self, *arguments):
        """Compile, and go on. Nothing may be raised here: compiled code is waiting."""
        while True:
            try:
                with _lock:
                    if self._made.address is None:
                        self._compile()
                return self._type(self._made.address)(*arguments)
            except KeyboardInterrupt:
                threading.Timer(_SECONDS, _thread.interrupt_main).start()
            except BaseException:
                traceback.print_exc()
                print(f"gradflow: {self.symbol} could not be compiled, and there is no way on", file=sys.stderr)
                os.abort()

    def _compile(self):
        """Compile, or read from the cache; without it where it cannot be written."""
        try:
            self._made.enable_caching()
            mark_cache(self._made)
            self._made.compile()
        except OSError:
            self._made._cache = NullCache()
            self._made.compile()
        self._slot.value = self._made.address


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


def _array_at(kind):
    """Writes the array of contiguous entries at an address."""

    def generate(context, builder, signature, values):
        array = context.make_array(kind)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        shape, strides, step = values[1:], [], context.get_constant(types.intp, size)
        for count in reversed(shape):
            strides.insert(0, step)
            step = builder.mul(step, count)
        data = builder.inttoptr(values[0], array.data.type)
        item = context.get_constant(types.intp, size)
        populate_array(array, data=data, shape=shape, strides=strides, itemsize=item, meminfo=None)
        return array._getvalue()

    return generate


@intrinsic
def view(typing_context, address, count):
    """Vector of `count` numbers at an address."""
    kind = types.Array(types.float64, 1, "C")
    return kind(types.int64, types.int64), _array_at(kind)


@intrinsic
def integer_view(typing_context, address, count):
    """Vector of `count` integers at an address."""
    kind = types.Array(types.int64, 1, "C")
    return kind(types.int64, types.int64), _array_at(kind)


@intrinsic
def matrix(typing_context, address, rows, cols):
    """Matrix, row by row, at an address."""
    kind = types.Array(types.float64, 2, "C")
    return kind(types.int64, types.int64, types.int64), _array_at(kind)
