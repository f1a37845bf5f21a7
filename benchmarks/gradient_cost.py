"""Cost of one gradient and one Hessian-vector product, beside the time that BLAS would need for the same products.

Run: python benchmarks/gradient_cost.py. One thread; the best of several repeats, in processor time. BLAS: operations
of the matrix products of the plain network on all samples, at the rate of a 512 x 512 product of BLAS.
"""

import time

import numpy as np
from threadpoolctl import threadpool_limits

import gradflow as gf
from gradflow.kernels import feedforward, select
from gradflow.kernels.calls import GRADIENT, PRODUCT, address, call, compiled

REPEATS, SECONDS = 7, 0.03


def gradients(count, gradient, theta, out, numbers, layout, work):
    total = 0.0
    for _ in range(count):
        total += call(gradient, theta, out, numbers, layout, work)
    return total


def products(count, product, theta, v, out, numbers, layout, work):
    total = 0.0
    for _ in range(count):
        total += call(product, theta, v, out, numbers, layout, work)
    return total


def best(run, flops):
    """Seconds per call of ``run(count)``."""
    count = max(1, int(SECONDS * 2e10 / (flops + 1e4)))
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run(count)
        times.append((time.process_time() - start) / count)
    return min(times)


def measure(kernel, theta, v):
    """Seconds per gradient and per product."""
    out, work = np.empty_like(theta), np.zeros(max(kernel.work_size, 1))
    rest = (out, kernel.numbers, kernel.layout, work)
    if not kernel.compiled:
        return tuple(
            best(lambda _, f=f, a=a: f(*a, *rest), 1e12)
            for f, a in ((kernel.gradient, (theta,)), (kernel.product, (theta, v)))
        )
    gradient, product = address(kernel.gradient, GRADIENT), address(kernel.product, PRODUCT)
    loop, loop_of_products = compiled(gradients), compiled(products)
    return (
        best(lambda count: loop(count, gradient, theta, *rest), kernel.flops),
        best(lambda count: loop_of_products(count, product, theta, v, *rest), 2.3 * kernel.flops),
    )


def dgemm_rate():
    """Operations per second of BLAS."""
    a = np.random.default_rng(0).standard_normal((512, 512))
    out = np.empty_like(a)
    return 2 * 512**3 / best(lambda count: [np.dot(a, a, out=out) for _ in range(count)], 2.0 * 512**3)


def cases():
    square = gf.losses.Square()
    yield "deep linear 10-10-10-10", gf.DeepLinear([10] * 4), square, 50
    yield "deep linear 100-100-100-1", gf.DeepLinear([100, 100, 100, 1]), gf.losses.Logistic(), 200
    yield "tanh 3-8-1", gf.FullyConnected([3, 8, 1], "tanh", bias=True), square, 200
    yield "tanh 10-32-32-1", gf.FullyConnected([10, 32, 32, 1], "tanh", bias=True), square, 100
    yield "gelu 10-32-32-1", gf.FullyConnected([10, 32, 32, 1], "gelu", bias=True), square, 100
    yield "relu 1-100-1", gf.FullyConnected([1, 100, 1], "relu", bias=True), square, 20
    yield "relu 784-50-50-10", gf.FullyConnected([784, 50, 50, 10], "relu", bias=True), gf.losses.CrossEntropy(), 500
    yield "tanh 20-50-50-1", gf.FullyConnected([20, 50, 50, 1], "tanh", bias=True), square, 5000
    yield "diagonal 100, D = 3", gf.Diagonal(100, 3), square, 40
    yield "diagonal 20, D = 2", gf.Diagonal(20, 2), gf.losses.Logistic(), 15


def blas_seconds(network, n, rate):
    """Seconds of BLAS for the products of one gradient."""
    flops = 4 * n * network.dim if isinstance(network, gf.Diagonal) else feedforward.flops(network, n)
    return flops / rate


def main():
    rng = np.random.default_rng(0)
    rate = dgemm_rate()
    print(f"BLAS: {rate / 1e9:.0f} GFlop/s. Microseconds:\n")
    print(f"{'network':28} {'n':>5} {'kernel':12} {'gradient':>9} {'product':>9} {'ratio':>6} {'BLAS':>8} {'torch':>9}")
    for name, network, loss, n in cases():
        x = rng.standard_normal((n, network.input_size))
        y = rng.standard_normal((n, network.output_size))
        if loss.labels != "real":
            y = np.where(y > 0, 1.0, -1.0) if loss.labels == "sign" else y.argmax(1)
        y = loss.prepare(y, network.output_size)
        theta, v = 0.3 * rng.standard_normal(network.size), rng.standard_normal(network.size)
        kernel = select.kernel(network, loss, x, y)
        gradient, product = measure(kernel, theta, v)
        torch, _ = measure(select.kernel(network, loss, x, y, backend="torch"), theta, v)
        print(
            f"{name:28} {n:5} {kernel.name:12} {1e6 * gradient:9.2f} {1e6 * product:9.2f} {product / gradient:6.2f}"
            f" {1e6 * blas_seconds(network, n, rate):8.2f} {1e6 * torch:9.1f}"
        )


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(1):
        main()
