"""numbalsoda: LSODA and DOP853 in Fortran and C++, called with gradflow's gradient without Python in between."""

import numpy as np

from .contender import Contender, TooSlow, absolute

MOST_STEPS = 200_000


def compiled_callback(kernel):
    """C callback of the velocity, and its data: count, numbers, layout and work in one array."""
    import numba
    import numbalsoda

    from gradflow.kernels.calls import GRADIENT, address, call

    size = {"count": 1, "numbers": kernel.numbers.size, "layout": kernel.layout.size, "work": kernel.work_size}
    a, b, c, d = np.cumsum([size["count"], size["numbers"], size["layout"], max(size["work"], 1)]).tolist()
    data = np.concatenate([[0.0], kernel.numbers, kernel.layout.view(np.float64), np.zeros(d - c)])
    gradient = address(kernel.gradient, GRADIENT)

    def callback(size):
        @numba.cfunc(numbalsoda.lsoda_sig)
        def velocity(t, theta, out, pointer):
            all_data = numba.carray(pointer, (d,))
            all_data[0] += 1.0
            result = numba.carray(out, (size,))
            layout = all_data[b:c].view(np.int64)
            call(gradient, numba.carray(theta, (size,)), result, all_data[a:b], layout, all_data[c:d])
            for i in range(size):
                result[i] = -result[i]

        return velocity

    return callback, data


def numbalsoda_method(name):
    def prepare(case):
        import numbalsoda

        callback, data = compiled_callback(case.on_data.kernel)
        velocity, run = callback(case.size), getattr(numbalsoda, name)
        times = np.array([0.0, case.t_end])

        def solve(tolerance):
            data[0] = 0.0
            end, success = run(
                velocity.address, case.theta0, times, data, rtol=tolerance, atol=absolute(tolerance), mxstep=MOST_STEPS
            )
            if not success:
                raise TooSlow
            return end[-1], int(data[0])

        solve.keeps = velocity
        return solve

    return prepare


CONTENDERS = [
    Contender("numbalsoda LSODA", numbalsoda_method("lsoda"), largest=350, compiles=True),
    Contender("numbalsoda DOP853", numbalsoda_method("dop853"), explicit=True, compiles=True),
]
