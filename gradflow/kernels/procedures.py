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
from numba.core import ccallback, cgutils, event
from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.sigutils import normalize_signature
from numba.core.typing.templates import make_concrete_template
from numba.np.arrayobj import populate_array

from gradflow.kernels.announce import PROCEDURE
from gradflow.kernels.calls import SAFE_MATH, mark_cache

intrinsic: Any = numba.extending.intrinsic
"""As in numba, whose annotations show the function that types a call, not the one that is called."""

OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "fastmath": set(SAFE_MATH),
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
"""Of functions that only compiled code calls, and that make no arrays of their own.

It spares the code that Python would call them by, and the counting of references: much of the time to compile.
"""
COUNTED: dict[str, Any] = OPTIONS | {"_nrt": True}
"""Of functions that make arrays, or return a part of one that they were given."""
EXACT: dict[str, Any] = COUNTED | {"fastmath": {"contract", "nsz", "arcp"}}
"""Without the licence to reorder sums."""

_MAKERS = {"empty", "zeros", "ones", "full", "arange", "copy", "dot"}
"""Names in a procedure that makes arrays, or is handed one back; where one is missing here, it does not compile."""

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


_CFunc: Any = ccallback.CFunc


class _Made(_CFunc):
    """Compiled form of a procedure, called as compiled functions call each other: C would need one more function."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.found: int | None = None
        self._compiler._customize_flags = self._customized

    @staticmethod
    def _customized(flags: Any) -> Any:
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        flags.enable_pyobject = False
        return flags

    @global_compiler_lock
    def compile(self):
        """Compile, or read from the cache."""
        context = self._targetdescr.target_context
        made: Any = self._cache.load_overload(self._sig, context)
        if made is None:
            made = self._compile_uncached()
            self._cache.save_overload(self._sig, made)
        self._library = made.library
        self.found = self._library.get_pointer_to_function(made.fndesc.llvm_func_name)


class Procedure:
    """A function that compiled code knows by the name of a slot, which holds its address."""

    def __init__(self, function: Callable, signature: Any, options: dict):
        arguments: Any
        returned: Any
        arguments, returned = normalize_signature(signature)
        self.symbol = f"slot_of_{function.__module__}_{function.__name__}".replace(".", "_")
        options = options | {"_nrt": not _MAKERS.isdisjoint(function.__code__.co_names)}
        self._made = _Made(function, (arguments, returned), locals={}, options=options)
        places, kinds = (ctypes.c_void_p, ctypes.c_void_p), (_C_TYPES.get(kind, ctypes.c_void_p) for kind in arguments)
        self._type: Any = ctypes.CFUNCTYPE(ctypes.c_int32, *places, *kinds)
        self._first = self._type(self._first_call)
        self._slot = ctypes.cast(self._first, ctypes.c_void_p)
        add_symbol(self.symbol, ctypes.addressof(self._slot))
        template = make_concrete_template(self.symbol, self.symbol, [returned(*arguments)])
        self._numba_type_ = types.Function(template)
        numba.extending.lower_builtin(self.symbol, *arguments)(self._write_call)

    def _write_call(self, context, builder, signature, values):
        """Write a call of what the slot points to into a function that is being compiled."""
        kind = context.call_conv.get_function_type(signature.return_type, signature.args).as_pointer()
        slot = builder.module.globals.get(self.symbol) or ir.GlobalVariable(builder.module, kind, self.symbol)
        convention, function = context.call_conv, builder.load(slot)
        return convention.call_function(builder, function, signature.return_type, signature.args, values)[1]

    def _first_call(self, *arguments):
        """Compile, and go on. Nothing may be raised here: compiled code is waiting."""
        while True:
            try:
                with _lock:
                    if self._made.found is None:
                        with event.trigger_event(PROCEDURE):
                            self._compile()
                return self._type(self._made.found)(*arguments)
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
        self._slot.value = self._made.found


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


def _pointer_at(kind):
    """Signature and code generator of a pointer at an address."""

    def generate(context, builder, signature, values):
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(types.int64), generate


@intrinsic
def numbers_at(typing_context, address):
    """Numbers at an address, to be indexed only: it compiles several times as fast as a `view`."""
    return _pointer_at(types.float64)


@intrinsic
def integers_at(typing_context, address):
    """Integers at an address, to be indexed only."""
    return _pointer_at(types.int64)
