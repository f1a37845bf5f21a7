"""How a compiled function travels: as an address, called with one of three fixed signatures.

A stepper is compiled once. Gradients and dynamics reach it as integers, so that a new one compiles only itself.
numba is imported on first use.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

GRADIENT = "float64(float64[::1], float64[::1], float64[::1], int64[::1], float64[::1])"
"""``value = gradient(theta, out, numbers, layout, work)``."""

PRODUCT = "float64(float64[::1], float64[::1], float64[::1], float64[::1], int64[::1], float64[::1])"
"""``value = product(theta, v, out, numbers, layout, work)``."""

VELOCITY = (
    "float64(float64, float64[::1], float64[::1], int64[::1], float64[::1], int64[::1], float64[::1], float64[::1])"
)
"""``value = velocity(t, state, out, chain, numbers, layout, work, coefficients)``."""

SAFE_MATH = frozenset({"contract", "nsz", "arcp", "reassoc"})
"""Rewritings that compiled arithmetic may use; none assumes that numbers are finite.

But test with ``abs(x) < math.inf``: under "reassoc" the x - x inside ``math.isfinite`` cancels if x is itself a sum.
"""

WAY_OF_CALLING = 3
"""To be counted up when compiled functions find each other in another way."""

_lock = threading.RLock()
_addresses: dict[tuple[Callable, str], int] = {}
_dispatchers: dict[Any, Any] = {}
_registered: set[Callable] = set()


def call(f: Any, *arguments: Any) -> float:
    """Call ``f``: a Python function, or in compiled code the address of a function.

    In compiled code the argument types must be exactly those of GRADIENT, PRODUCT or VELOCITY.

    Examples
    --------
    >>> from gradflow.kernels.calls import call
    >>> call(max, 1.0, 2.0)
    2.0
    """
    return f(*arguments)


def uncounted(arguments: tuple) -> tuple:
    """The same arguments; in compiled code, arrays among them as views whose references are not counted.

    To count the references to the arrays of a step, where functions hand them on, costs as much as its sums. The
    arrays must outlive the views, as the arguments of a function do.

    Examples
    --------
    >>> from gradflow.kernels.calls import uncounted
    >>> uncounted((1, 2.0))
    (1, 2.0)
    """
    return arguments


def address(function: Callable, signature: str) -> int:
    """Address of the machine code of a function, for ``call`` in compiled code.

    Parameters
    ----------
    function : callable
        A numba function, or a plain Python function in the subset that numba compiles.
        It must not raise: a compiled function called by address cannot hand on an exception.
    signature : str
        GRADIENT, PRODUCT or VELOCITY.

    Returns
    -------
    int
        Valid as long as the process lives. The function is compiled once, and cached on disk where its file allows.

    Raises
    ------
    TypeError
        If a numba function was compiled for these types before, and does not return float64.

    Examples
    --------
    >>> import numpy as np
    >>> from gradflow.kernels.calls import GRADIENT, address
    >>> def bowl(theta, out, numbers, layout, work):
    ...     out[:] = 2.0 * theta
    ...     return np.dot(theta, theta)
    >>> address(bowl, GRADIENT) == address(bowl, GRADIENT)
    True
    """
    from numba import float64
    from numba.core.dispatcher import Dispatcher
    from numba.experimental.function_type import _get_wrapper_address

    if (function, signature) in _addresses:
        return _addresses[function, signature]
    with _lock:
        if (function, signature) not in _addresses:
            own = isinstance(function, Dispatcher)
            dispatcher: Any = function if own else _jit(function, signature=signature)
            kind = float64(*_argument_types(signature))
            if kind.args not in dispatcher.overloads:
                dispatcher.compile(kind)
            found = dispatcher.overloads[kind.args].signature.return_type
            if found != float64:
                raise TypeError(
                    f"{dispatcher.__name__} returns {found}: a function called by address must return float64;"
                    " return the value of the objective as a float"
                )
            _addresses[function, signature] = _get_wrapper_address(dispatcher, kind)
            _dispatchers[function, signature] = dispatcher
        return _addresses[function, signature]


def compiled(
    function: Callable,
    *,
    signature: str | None = None,
    helpers: tuple[Callable, ...] = (),
    twins: tuple[tuple[Callable, Callable], ...] = (),
    fastmath: frozenset[str] = SAFE_MATH,
    inline: bool = False,
    views: tuple[Callable, ...] | None = None,
) -> Callable:
    """Compile a Python function together with the Python functions that it calls.

    Parameters
    ----------
    function : callable
        Plain Python function. The compiled form releases the interpreter lock and is cached on disk.
    signature : str, optional
        Types, where only one combination is wanted; default: as first called.
    helpers : tuple of callable
        Functions that are called by ``function``, compiled from the same source.
    twins : tuple of (callable, callable)
        Functions with a second form for compiled code: (numpy form, loop form).
    fastmath : frozenset of str
        Rewritings allowed.
    inline : bool
        Whether the helpers become part of the functions that call them, as the twins always do: to hand over a tuple
        of many arrays takes longer than a pass over a short vector, but compilation takes longer too.
    views : tuple of callable, optional
        Given where no function makes an array of its own: those of the functions that return an array, a part of one
        that they were given. References are then not counted, which makes the code shorter, and compilation faster.

    Returns
    -------
    callable
        The same object for every call with this function in one process.

    Examples
    --------
    >>> from gradflow.kernels.calls import compiled
    >>> def double(x):
    ...     return 2 * x
    >>> compiled(double)(3)
    6
    """
    if function in _dispatchers:
        return _dispatchers[function]
    with _lock:
        if function not in _dispatchers:
            for helper in helpers:
                _register(helper, helper, fastmath, inline, views)
            for numpy_form, loop_form in twins:
                _register(numpy_form, loop_form, fastmath, True, views)
            made = _jit(function, signature=signature, fastmath=fastmath, nogil=True, _nrt=views is None)
            _watch(made, (*helpers, *(form for pair in twins for form in pair)), inline)
            _dispatchers[function] = made
        return _dispatchers[function]


def _jit(function: Callable, *, signature: str | None, fastmath: frozenset[str] = SAFE_MATH, **options: Any) -> Any:
    """Compile with numba, cached on disk unless the function has no file."""
    import numba

    _register_call()
    _register_uncounted()
    options |= {"error_model": "numpy", "fastmath": set(fastmath)}
    njit: Any = numba.njit
    try:
        made = njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        made = njit(**options)(function)
    mark_cache(made)
    if signature:
        made.compile(signature)
    return made


def _watch(dispatcher: Any, functions: tuple[Callable, ...], inline: bool) -> None:
    """Let the cache of a compiled function know the files of the functions it holds, and read past types that are gone.

    A cached entry names its argument types; one whose type has moved since is made anew.
    """
    cache = getattr(dispatcher._cache, "_cache_file", None)
    if cache is None:
        return
    stats = (os.stat(path) for path in sorted({function.__code__.co_filename for function in functions}))
    cache._source_stamp = (cache._source_stamp, inline, *((file.st_mtime, file.st_size) for file in stats))
    read = cache._load_index

    def read_what_is_known() -> dict:
        try:
            return read()
        except (AttributeError, ImportError):
            return {}

    cache._load_index = read_what_is_known


def mark_cache(compiled_form: Any) -> None:
    """Let the cache on disk of a compiled function be read only by the way of calling that it was written for."""
    cache = getattr(compiled_form._cache, "_cache_file", None)
    if cache is not None:
        cache._source_stamp = (cache._source_stamp, WAY_OF_CALLING)


def _argument_types(signature: str) -> tuple:
    """Numba's types of the arguments of a signature."""
    from numba.core import sigutils

    return sigutils.normalize_signature(signature)[0]


def _register(function: Callable, compiled_form: Callable, fastmath: frozenset[str], inline: bool, views) -> None:
    """Let compiled code that calls ``function`` use the compiled ``compiled_form``."""
    from numba.extending import overload

    if function not in _registered:
        options: Any = {"error_model": "numpy", "fastmath": set(fastmath), "forceinline": inline}
        options |= {"no_cfunc_wrapper": True, "_nrt": views is None or compiled_form in views}
        overload(function, jit_options=options, strict=False)(lambda *_: compiled_form)
        _registered.add(function)


def _register_call() -> None:
    """Give ``call`` its compiled form: an indirect call of an address, with checked types."""
    from llvmlite import ir
    from numba.core import types
    from numba.core.errors import TypingError
    from numba.extending import intrinsic, overload

    if call in _registered:
        return
    allowed = {_argument_types(signature) for signature in (GRADIENT, PRODUCT, VELOCITY)}

    @intrinsic
    def call_address(typing_context, f, arguments):
        def generate(context, builder, signature, values):
            kinds = [context.get_value_type(kind) for kind in arguments.types]
            pointer = builder.inttoptr(values[0], ir.FunctionType(ir.DoubleType(), kinds).as_pointer())
            return builder.call(pointer, [builder.extract_value(values[1], i) for i in range(len(kinds))])

        return types.float64(f, arguments), generate

    @overload(call, strict=False)
    def compiled_call(f, *arguments):
        if not isinstance(f, types.Integer):
            return None
        if tuple(arguments) not in allowed:
            found = ", ".join(str(kind) for kind in arguments)
            raise TypingError(
                f"call(address, {found}): the argument types must be those of GRADIENT, PRODUCT or VELOCITY,"
                " contiguous writable float64 vectors and int64 vectors; convert them first"
            )
        pointed: Any = call_address
        return lambda f, *arguments: pointed(f, arguments)

    _registered.add(call)


def _register_uncounted() -> None:
    """Give ``uncounted`` its compiled form."""
    from numba.core import cgutils, types
    from numba.extending import intrinsic, overload

    if uncounted in _registered:
        return

    def strip(context, builder, kind, value):
        if isinstance(kind, types.Array):
            array = cgutils.create_struct_proxy(kind)(context, builder, value=value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            array.parent = cgutils.get_null_value(array.parent.type)
            return array._getvalue()
        if isinstance(kind, types.BaseTuple):
            kinds: Any = kind
            parts = [strip(context, builder, part, builder.extract_value(value, i)) for i, part in enumerate(kinds)]
            return context.make_tuple(builder, kind, parts)
        return value

    @intrinsic
    def stripped(typing_context, arguments):
        def generate(context, builder, signature, values):
            return strip(context, builder, arguments, values[0])

        return arguments(arguments), generate

    @overload(uncounted, strict=False)
    def compiled_uncounted(arguments):
        pointed: Any = stripped
        return lambda arguments: pointed(arguments)

    _registered.add(uncounted)
