"""Flows per second and core: vector lanes beside one run after the other, to the same tolerance.

Run: python benchmarks/ensemble.py [runs]. One thread, processor time, the two taken in turn, the best of several
repeats. The first problem is the deep linear network 10-10-10-10 on 50 samples from starts of scale 0.3 to 1.2.
"""

import sys
import time

import numpy as np

import gradflow as gf

REPEATS = 5
WAYS = ("lanes", "single")


def deep_linear():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 10))
    u, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    v, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    return gf.DeepLinear([10] * 4), gf.losses.Square(half=True), x, x @ (u * (3.0 / np.arange(1, 11)) @ v.T).T, 20.0


def random_problem(network, loss, n, t_end):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((n, network.input_size)), rng.standard_normal((n, network.output_size))
    return network, loss, x, np.where(y > 0, 1.0, -1.0) if loss.labels == "sign" else y, t_end


def cases():
    square, tanh = gf.losses.Square(half=True), {"activation": "tanh", "bias": True}
    yield "deep linear 10-10-10-10", *deep_linear()
    yield "deep linear 2-2-2", *random_problem(gf.DeepLinear([2, 2, 2]), square, 10, 20.0)
    yield "deep linear 20-20-20-20", *random_problem(gf.DeepLinear([20] * 4), square, 100, 10.0)
    yield "diagonal 20, D = 2, logistic", *random_problem(gf.Diagonal(20, 2), gf.losses.Logistic(), 15, 100.0)
    yield "diagonal 100, D = 3", *random_problem(gf.Diagonal(100, 3), square, 40, 30.0)
    yield "tanh 3-8-1, n = 20", *random_problem(gf.FullyConnected([3, 8, 1], **tanh), square, 20, 30.0)
    yield "tanh 2-20-1, n = 10", *random_problem(gf.FullyConnected([2, 20, 1], **tanh), square, 10, 30.0)
    yield "tanh 10-32-32-1, n = 20", *random_problem(gf.FullyConnected([10, 32, 32, 1], **tanh), square, 20, 5.0)


def measure_torch(runs):
    """A torch module: all runs as one batch of tensors beside one run after the other."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"\ntorch modules on the CPU, dop853, rtol 1e-6, {runs} runs. Flows per second and core:\n")
    for widths, n, t_end in (((3, 8, 1), 20, 10.0), ((10, 32, 32, 1), 20, 5.0)):
        layers = [torch.nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        inner = [part for layer in layers[:-1] for part in (layer, torch.nn.Tanh())]
        network = gf.FromModule(torch.nn.Sequential(*inner, layers[-1]), (widths[0],))
        problem = gf.Problem(*random_problem(network, gf.losses.Square(half=True), n, t_end)[:4])
        starts = np.random.default_rng(0).standard_normal((runs, problem.size)) / np.sqrt(widths[0])
        options, seconds = {"t_end": t_end, "solver": "dop853", "rtol": 1e-6, "save_at": 2}, {}
        for way, some in (("lanes", starts), ("single", starts[:8])):
            began = time.process_time()
            gf.simulate(problem, some, gf.GradientFlow(), ensemble=way, **options)
            seconds[way] = (time.process_time() - began) / len(some)
        name, ratio = f"module {'-'.join(map(str, widths))}, n = {n}", seconds["single"] / seconds["lanes"]
        print(f"{name:30} {1 / seconds['lanes']:8.1f} {1 / seconds['single']:8.1f} {ratio:6.2f}")


def main(runs):
    gf.set_threads(1)
    for solver, points in (("dop853", 2), ("dop853", 200), ("rk45", 2)):
        print(f"\n{solver}, rtol 1e-6, {points} points saved, {runs} runs. Flows per second and core:\n")
        print(f"{'problem':30} {'lanes':>8} {'single':>8} {'ratio':>6} {'gradients':>10} {'apart':>9}")
        for name, network, loss, x, y, t_end in cases():
            problem = gf.Problem(network, loss, x, y)
            scales = np.geomspace(0.3, 1.2, runs)
            starts = np.stack([problem.init(scale=scale, seed=i) for i, scale in enumerate(scales)])
            options = {"t_end": t_end, "solver": solver, "rtol": 1e-6, "atol": 1e-8, "save_at": points}
            seconds, batches = {}, {}
            for _ in range(REPEATS):
                for way in WAYS:
                    began = time.process_time()
                    batches[way] = gf.simulate(problem, starts, gf.GradientFlow(), ensemble=way, **options)
                    took = time.process_time() - began
                    seconds[way] = min(took, seconds.get(way, np.inf))
            lanes, single = batches["lanes"], batches["single"]
            apart = (np.linalg.norm(lanes.end - single.end, axis=1) / np.linalg.norm(single.end, axis=1)).max()
            print(
                f"{name:30} {runs / seconds['lanes']:8.0f} {runs / seconds['single']:8.0f}"
                f" {seconds['single'] / seconds['lanes']:6.2f} {single.counts['gradients'].mean():10.0f} {apart:9.1e}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    measure_torch(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
