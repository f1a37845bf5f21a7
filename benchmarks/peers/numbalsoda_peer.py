"""numbalsoda: LSODA and DOP853 in Fortran and C++, called with gradflow's gradient without Python in between."""

import numpy as np

from .contender import Contender, TooSlow, absolute

MOST_STEPS = 200_000


def compiled_callback(kernel):
    """C callback of the velocity, and its data: numbers, count, layout and work in one array."""
    import numba
    import numbalsoda

    from gradflow.kernels.calls import GRADIENT, address, call
    from gradflow.kernels.kernel import LINE, aligned

    a = kernel.numbers.size
    b = -(-(a + 1) // LINE) * LINE
    c = b + -(-kernel.layout.size // LINE) * LINE
    d = c + max(kernel.work_size, 1)
    data = aligned(d)
    data[:a] = kernel.numbers
    data[b : b + kernel.layout.size] = kernel.layout.view(np.float64)
    gradient = address(kernel.gradient, GRADIENT)

    def callback(size):
        @numba.cfunc(numbalsoda.lsoda_sig)
        def velocity(t, theta, out, pointer):
            all_data = numba.carray(pointer, (d,))
            all_data[a] += 1.0
            result = numba.carray(out, (size,))
            layout = all_data[b:c].view(np.int64)
            call(gradient, numba.carray(theta, (size,)), result, all_data[:a], layout, all_data[c:d])
            for i in range(size):
                result[i] = -result[i]

        return velocity

    return callback, data


def numbalsoda_method(name):
    def prepare(case):
        import numbalsoda

        kernel = case.on_data.kernel
        callback, data = compiled_callback(kernel)
        velocity, run = callback(case.size), getattr(numbalsoda, name)
        times = np.array([0.0, case.t_end])

        def solve(tolerance):
            data[kernel.numbers.size] = 0.0
            end, success = run(
                velocity.address, case.theta0, times, data, rtol=tolerance, atol=absolute(tolerance), mxstep=MOST_STEPS
            )
            if not success:
                raise TooSlow
            return end[-1], int(data[kernel.numbers.size])

        solve.keeps = velocity
        return solve

    return prepare


CONTENDERS = [
    Contender("numbalsoda LSODA", numbalsoda_method("lsoda"), largest=350, compiles=True),
    Contender("numbalsoda DOP853", numbalsoda_method("dop853"), explicit=True, compiles=True),
]
