"""The same gradient as written by hand in numpy and torch, as losses for autograd and jax, and compiled by gradflow."""

import numpy as np


def blocks(case):
    """(start of W, start of b or -1, rows, columns) of every layer."""
    at, found = 0, []
    for columns, rows in zip(case.widths[:-1], case.widths[1:], strict=True):
        found.append((at, at + rows * columns if case.bias else -1, rows, columns))
        at += rows * (columns + case.bias)
    return found


def compiled_velocity(case):
    """Velocity by gradflow's compiled gradient on all samples."""
    kernel = case.on_data.kernel
    gradient, rest = kernel.gradient, (kernel.numbers, kernel.layout, np.zeros(max(kernel.work_size, 1)))

    def velocity(t, theta):
        out = np.empty_like(theta)
        gradient(theta, out, *rest)
        return np.negative(out, out=out)

    return velocity


def numpy_velocity(case):
    """Velocity by back-propagation written by hand in numpy, with buffers."""
    return _numpy_diagonal(case) if case.widths is None else _numpy_layers(case)


def _numpy_layers(case):
    layout, n, last = blocks(case), len(case.x), len(case.widths) - 2
    hidden = [np.empty((n, rows)) for _, _, rows, _ in layout]
    errors = [np.empty((n, rows)) for _, _, rows, _ in layout]

    def velocity(t, theta):
        h = case.x
        for layer, (w, b, rows, columns) in enumerate(layout):
            a = np.dot(h, theta[w : w + rows * columns].reshape(rows, columns).T, out=hidden[layer])
            if b >= 0:
                a += theta[b : b + rows]
            if layer < last and case.activation == "tanh":
                np.tanh(a, out=a)
            elif layer < last and case.activation == "relu":
                np.maximum(a, 0.0, out=a)
            h = a
        delta, out = np.subtract(case.y, h, out=errors[last]), np.empty_like(theta)
        delta /= n
        for layer in range(last, -1, -1):
            w, b, rows, columns = layout[layer]
            below = hidden[layer - 1] if layer else case.x
            np.dot(delta.T, below, out=out[w : w + rows * columns].reshape(rows, columns))
            if b >= 0:
                np.sum(delta, axis=0, out=out[b : b + rows])
            if layer:
                delta = np.dot(delta, theta[w : w + rows * columns].reshape(rows, columns), out=errors[layer - 1])
                if case.activation == "tanh":
                    delta *= 1.0 - below * below
                elif case.activation == "relu":
                    delta *= below > 0
        return out

    return velocity


def _numpy_diagonal(case):
    x, y, depth, half = case.x, case.y[:, 0], case.depth, case.size // 2
    square = case.loss.labels == "real"

    def velocity(t, theta):
        u, v = theta[:half], theta[half:]
        a, b = u ** (depth - 1), v ** (depth - 1)
        z = x @ (a * u - b * v)
        residual = y - z if square else y / (1.0 + np.exp(y * z))
        q = residual @ x * (depth / len(x))
        return np.concatenate([a * q, -b * q])

    return velocity


def loss_of(case, linear, activation, softplus, x, y):
    """Loss of a flat vector in the terms of an array library, for its own differentiation."""
    if case.widths is None:
        half, depth = case.size // 2, case.depth

        def loss(theta):
            z = x @ (theta[:half] ** depth - theta[half:] ** depth)
            return 0.5 * ((z - y) ** 2).mean() if case.loss.labels == "real" else softplus(-y * z).mean()

        return loss
    layout, last = blocks(case), len(case.widths) - 2

    def loss_of_layers(theta):
        h = x
        for layer, (w, b, rows, columns) in enumerate(layout):
            bias = theta[b : b + rows] if b >= 0 else None
            h = linear(h, theta[w : w + rows * columns].reshape(rows, columns), bias)
            h = activation(h) if layer < last else h
        return 0.5 * ((h - y) ** 2).sum() / len(x)

    return loss_of_layers


def targets(case):
    """Targets as the loss above reads them."""
    return case.y[:, 0] if case.widths is None else case.y


def torch_loss(case):
    """Loss in torch."""
    import torch

    identity = {"linear": lambda h: h, "tanh": torch.tanh, "relu": torch.relu}
    functional = torch.nn.functional
    x, y = torch.from_numpy(case.x), torch.from_numpy(np.ascontiguousarray(targets(case)))
    return loss_of(case, functional.linear, identity[case.activation], functional.softplus, x, y)


def torch_velocity(case):
    """Velocity by torch autograd on the flat vector."""
    import torch

    loss = torch_loss(case)

    def velocity(t, theta):
        with torch.enable_grad():
            point = theta.detach().requires_grad_(True)
            return -torch.autograd.grad(loss(point), point)[0]

    return velocity


def jax_loss(case):
    """Loss in jax."""
    import jax
    import jax.numpy as jnp

    def linear(h, weight, bias):
        return h @ weight.T if bias is None else h @ weight.T + bias

    activation = {"linear": lambda h: h, "tanh": jnp.tanh, "relu": lambda h: jnp.maximum(h, 0.0)}[case.activation]
    return loss_of(case, linear, activation, jax.nn.softplus, jnp.asarray(case.x), jnp.asarray(targets(case)))


def torch_layers(case):
    """Velocity by back-propagation written by hand in torch, theta (P,)."""
    import torch

    if case.widths is None:
        return _torch_diagonal(case)
    layout, last = blocks(case), len(case.widths) - 2
    x, y = torch.from_numpy(case.x), torch.from_numpy(case.y)
    forward = {"linear": lambda h: h, "tanh": torch.tanh_, "relu": torch.relu_}[case.activation]
    backward = {
        "linear": lambda delta, h: delta,
        "tanh": torch.ops.aten.tanh_backward,
        "relu": lambda delta, h: torch.ops.aten.threshold_backward(delta, h, 0),
    }[case.activation]

    @torch.no_grad()
    def velocity(t, theta):
        values, weights = [x], []
        for layer, (w, b, rows, columns) in enumerate(layout):
            weights.append(theta[w : w + rows * columns].view(rows, columns))
            h, transposed = values[-1], weights[-1].t()
            h = torch.addmm(theta[b : b + rows], h, transposed) if b >= 0 else torch.mm(h, transposed)
            values.append(forward(h) if layer < last else h)
        delta, out = (y - values[-1]).div_(len(x)), torch.empty_like(theta)
        for layer in range(last, -1, -1):
            w, b, rows, columns = layout[layer]
            torch.mm(delta.t(), values[layer], out=out[w : w + rows * columns].view(rows, columns))
            if b >= 0:
                torch.sum(delta, 0, out=out[b : b + rows])
            if layer:
                delta = backward(torch.mm(delta, weights[layer]), values[layer])
        return out

    return velocity


def _torch_diagonal(case):
    import torch

    x, y = torch.from_numpy(case.x), torch.from_numpy(np.ascontiguousarray(case.y[:, 0]))
    depth, half = case.depth, case.size // 2
    square = case.loss.labels == "real"

    @torch.no_grad()
    def velocity(t, theta):
        parts = theta.view(2, half)
        powers = parts ** (depth - 1)
        whole = powers * parts
        z = torch.mv(x, whole[0] - whole[1])
        residual = y - z if square else torch.sigmoid(-y * z).mul_(y)
        powers *= torch.mv(x.t(), residual.mul_(depth / len(x)))
        powers[1].neg_()
        return powers.view(-1)

    return velocity
