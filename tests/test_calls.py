"""How compiled functions travel: by address they give what they give in Python, and wrong calls are refused."""

import gc
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

import gradflow.kernels
import gradflow.kinks
import gradflow.lanes
import gradflow.steppers
from gradflow.kernels.calls import GRADIENT, PRODUCT, VELOCITY, address, call, compiled
from gradflow.kernels.procedures import Procedure

ROOT = Path(__file__).parents[1]
LAYOUT = np.array([2], dtype=np.int64)


def quartic(theta, out, numbers, layout, work):
    """F = sum numbers_i theta_i^layout[0]."""
    value = 0.0
    for i in range(theta.size):
        value += numbers[i] * theta[i] ** layout[0]
        out[i] = layout[0] * numbers[i] * theta[i] ** (layout[0] - 1)
    work[0] = value
    return value


def quartic_product(theta, v, out, numbers, layout, work):
    for i in range(theta.size):
        out[i] = layout[0] * (layout[0] - 1) * numbers[i] * theta[i] ** (layout[0] - 2) * v[i]
    return 0.0


def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out *= -coefficients[0]
    return value


def twice(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], t, state, out, chain[1:], numbers, layout, work, coefficients[1:])
    out *= coefficients[0]
    return value


def through_gradient(f, theta, out, numbers, layout, work):
    return call(f, theta, out, numbers, layout, work)


def through_product(f, theta, v, out, numbers, layout, work):
    return call(f, theta, v, out, numbers, layout, work)


def through_velocity(f, t, state, out, chain, numbers, layout, work, coefficients):
    return call(f, t, state, out, chain, numbers, layout, work, coefficients)


def counting(theta, out, numbers, layout, work):
    return theta.size


@pytest.fixture
def vectors():
    rng = np.random.default_rng(0)
    return {
        "theta": rng.standard_normal(5),
        "v": rng.standard_normal(5),
        "numbers": rng.standard_normal(5),
        "layout": np.array([4], dtype=np.int64),
    }


def test_gradient_by_address_equals_python(vectors):
    theta, numbers, layout = vectors["theta"], vectors["numbers"], vectors["layout"]
    expected, work = np.empty(5), np.zeros(1)
    value = quartic(theta, expected, numbers, layout, work)
    for function in (quartic, njit(quartic)):
        out, work_here = np.empty(5), np.zeros(1)
        got = compiled(through_gradient)(address(function, GRADIENT), theta, out, numbers, layout, work_here)
        np.testing.assert_allclose(got, value, rtol=1e-14)
        np.testing.assert_allclose(out, expected, rtol=1e-14)
        np.testing.assert_allclose(work_here, work, rtol=1e-14)


def test_product_by_address_equals_python(vectors):
    theta, v, numbers, layout = (vectors[name] for name in ("theta", "v", "numbers", "layout"))
    out, expected = np.empty(5), np.empty(5)
    quartic_product(theta, v, expected, numbers, layout, np.zeros(1))
    compiled(through_product)(address(quartic_product, PRODUCT), theta, v, out, numbers, layout, np.zeros(1))
    np.testing.assert_allclose(out, expected, rtol=1e-14)


def test_chain_of_addresses_equals_chain_of_functions(vectors):
    theta, numbers, layout = vectors["theta"], vectors["numbers"], vectors["layout"]
    coefficients = np.array([2.0, 3.0])
    expected, out = np.empty(5), np.empty(5)
    value = twice(0.0, theta, expected, (flow, quartic), numbers, layout, np.zeros(1), coefficients)
    chain = np.array([address(flow, VELOCITY), address(quartic, GRADIENT)])
    got = compiled(through_velocity)(
        address(twice, VELOCITY), 0.0, theta, out, chain, numbers, layout, np.zeros(1), coefficients
    )
    np.testing.assert_allclose(got, value, rtol=1e-14)
    np.testing.assert_allclose(out, expected, rtol=1e-14)
    gradient = np.empty(5)
    quartic(theta, gradient, numbers, layout, np.zeros(1))
    np.testing.assert_allclose(expected, -6.0 * gradient, rtol=1e-14)


def _read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "wrong",
    [
        {"theta": np.ones(10)[::2]},
        {"theta": np.ones((5, 1))},
        {"theta": np.ones(5, dtype=np.float32)},
        {"theta": _read_only(np.ones(5))},
        {"layout": np.ones(5)},
        {"work": np.ones(1, dtype=np.int64)},
        {"numbers": 1.0},
    ],
    ids=["strided", "matrix", "float32", "read-only", "float layout", "integer work", "number"],
)
def test_wrong_types_are_refused_before_the_call(wrong):
    right = {"theta": np.ones(5), "out": np.empty(5), "numbers": np.ones(5), "layout": LAYOUT, "work": np.zeros(1)}
    function = address(quartic, GRADIENT)
    assert compiled(through_gradient)(function, *right.values()) == 5.0
    with pytest.raises(TypingError, match="must be those of GRADIENT, PRODUCT or VELOCITY"):
        compiled(through_gradient)(function, *(right | wrong).values())


def test_wrong_number_of_arguments_is_refused():
    def short(f, theta):
        return call(f, theta)

    with pytest.raises(TypingError, match="must be those of GRADIENT, PRODUCT or VELOCITY"):
        njit(short)(address(quartic, GRADIENT), np.ones(5))


def test_function_compiled_to_return_an_integer_is_refused():
    right = np.ones(5), np.empty(5), np.ones(5), LAYOUT, np.zeros(1)
    assert compiled(through_gradient)(address(njit(counting), GRADIENT), *right) == 5.0
    compiled_before = njit(counting)
    compiled_before(*right)
    with pytest.raises(TypeError, match="counting returns int64: .* must return float64"):
        address(compiled_before, GRADIENT)


def test_address_is_made_once():
    assert address(quartic, GRADIENT) == address(quartic, GRADIENT)
    assert compiled(through_gradient) is compiled(through_gradient)


def test_function_without_a_file_is_compiled_uncached():
    names = {}
    exec("def typed_in(theta, out, numbers, layout, work):\n    out[:] = theta\n    return 7.0", names)
    right = np.ones(5), np.empty(5), np.ones(5), LAYOUT, np.zeros(1)
    assert compiled(through_gradient)(address(names["typed_in"], GRADIENT), *right) == 7.0


def _run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_import_is_light():
    heavy = "{'numba', 'torch', 'scipy', 'matplotlib', 'xarray'}"
    modules = "gradflow, gradflow.kernels.calls, gradflow.steppers.choose, gradflow.steppers.fixed"
    assert _run(f"import sys, {modules}; print({heavy} & set(sys.modules))").strip() == "set()"


FIRST_RUN = """
import numpy as np
from gradflow.kernels.calls import call
from gradflow.kernels.kernel import Kernel
from gradflow.steppers.explicit import Explicit
from gradflow.steppers.field import Field
from gradflow.steppers.fixed import Fixed
import chain
kernel = Kernel("bowl", chain.bowl, None, np.zeros(1), np.zeros(1, np.int64), 1, compiled=True, flops=1.0)
for pair in ("dop853", "rk45"):
    Explicit(Field((chain.flow,), kernel), 0.0, [1.0], pair=pair).advance(1.0)
Fixed(Field((chain.flow,), kernel), 0.0, [1.0], step=0.1).advance(1.0)
"""
CHAIN = """
from gradflow.kernels.calls import call

def bowl(theta, out, numbers, layout, work):
    out[:] = theta
    return 0.5 * theta[0] ** 2

def flow(t, state, out, chain, numbers, layout, work, coefficients):
    value = call(chain[0], state, out, numbers, layout, work)
    out[:] = -out
    return value
"""


@pytest.mark.slow
def test_second_process_compiles_nothing(tmp_path):
    (tmp_path / "chain.py").write_text(CHAIN)
    environment = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "NUMBA_DEBUG_CACHE": "1",
    }
    first_run = "import sys; sys.stderr = sys.stdout" + FIRST_RUN
    cold, warm = _run(first_run, **environment), _run(first_run, **environment)
    assert cold.count("data saved to") > 5
    assert warm.count("data saved to") == 0
    assert warm.count("data loaded from") == cold.count("data saved to")
    assert (cold.count("gradflow: compiling"), warm.count("gradflow: compiling")) == (1, 0)


def test_cached_function_notices_a_change_in_the_file_of_a_helper(tmp_path):
    (tmp_path / "outer.py").write_text("import inner\n\n\ndef outer(x):\n    return inner.helper(x)\n")
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code = "import inner, outer, gradflow.kernels.calls as c; f = c.compiled(outer.outer, helpers=(inner.helper,))"
    for factor in (2, 10):
        (tmp_path / "inner.py").write_text(f"def helper(x):\n    return {factor} * x\n")
        assert int(_run(f"{code}; print(f(3))", **environment)) == 3 * factor


def test_cached_function_whose_argument_type_has_gone_is_compiled_anew(tmp_path):
    (tmp_path / "outer.py").write_text("def outer(pair):\n    return pair.x\n")
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    code = "import inner, outer, gradflow.kernels.calls as c; print(c.compiled(outer.outer)(inner.make()))"
    for name, x in (("First", 1.0), ("Second", 2.0)):
        definition = f"from typing import NamedTuple\n\n\nclass {name}(NamedTuple):\n    x: float\n"
        (tmp_path / "inner.py").write_text(f"{definition}\n\ndef make():\n    return {name}({x})\n")
        assert float(_run(code, **environment)) == x


def test_functions_that_python_calls_are_entries():
    # compiled with the options of procedures, a function has no form that Python could call: it would crash
    wrong = [path for path in (ROOT / "gradflow").rglob("*.py") if re.search(r"@njit\(.*cache=True", path.read_text())]
    assert wrong == []


@pytest.mark.parametrize("room", [gradflow.kernels, gradflow.kinks, gradflow.lanes, gradflow.steppers])
def test_every_procedure_compiles(room):
    # a procedure that does not compile ends the process of the run that first calls it
    modules = [
        importlib.import_module(f"{room.__name__}.{found.name}") for found in pkgutil.iter_modules(room.__path__)
    ]
    made = {one.symbol: one for module in modules for one in vars(module).values() if isinstance(one, Procedure)}
    for one in made.values():
        one._compile()
        assert one._slot.value == one._made.found


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_after_a_compilation_as_before(collecting):
    def wrong(theta, out, numbers, layout, work):
        return theta.no_such_thing

    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        address(lambda theta, out, numbers, layout, work: 1.0, GRADIENT)
        assert gc.isenabled() == collecting
        with pytest.raises(TypingError):
            address(wrong, GRADIENT)
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if before else gc.disable)()
