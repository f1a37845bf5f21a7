# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Flow against gradient descent
#
# Gradient descent is the explicit Euler method of the gradient flow. How far are they apart, until when, and what do
# noise and other coordinates change? On real digits, with the same gradient for all.

# %%
import numpy as np

import gradflow as gf

x, y = gf.data.digits(classes=(0, 1), n=100, seed=0)
problem = gf.Problem(gf.FullyConnected([64, 8, 1], activation="tanh"), gf.losses.Square(), x, y)
theta0 = problem.init(scale=0.8, seed=0)
record = {"sharpness": gf.measure.sharpness}
flow = gf.simulate(problem, theta0, gf.GradientFlow(), t_end=12.0, save_at=60, record=record)
flow

# %% [markdown]
# ## Five step sizes, up to the edge of stability
#
# GD with step $h$ is unstable where the largest Hessian eigenvalue (the sharpness) exceeds $2/h$.

# %%
peak = flow.records["sharpness"].max()
steps = [fraction * 2.0 / peak for fraction in (0.9, 0.5, 0.25, 0.125, 0.0625)]
runs = [gf.simulate(problem, theta0, gf.GD(step=h), t_end=12.0, save_at=60, record=record) for h in steps]
figure, axes = gf.plots.subplots(1, 2, figsize=(11, 3.8))
gf.plots.loss([flow, *runs], axes[0])
axes[0].set_yscale("log")
gf.plots.sharpness([flow, *runs], axes[1])
gf.plots.finish(figure)

# %% [markdown]
# ## Distance, order, bound
#
# The distance at matched times $t = kh$ is $h\,|e_1(t)| + O(h^2)$, where $e_1$ solves the linearised flow with source
# $\tfrac12 \nabla^2 F\,\nabla F$. `compare` measures the distance, predicts it, bounds it from the run alone, and says
# how accurate the flow itself is.

# %%
gap = gf.compare(flow, runs)
gap

# %%
figure, axes = gf.plots.subplots(1, 2, figsize=(11, 3.8), sharey=True)
gf.plots.gap(gap, axes[0])
gf.plots.gap(gf.compare(flow, runs[1]), axes[1], bounds=True)
gf.plots.finish(figure)

# %% [markdown]
# ## Noise
#
# SGD with batches of $b$ samples: the mean follows the flow, the spread shrinks with $b$. Twenty seeds each.

# %%
figure, axes = gf.plots.subplots(1, 3, figsize=(12, 3.4), sharey=True)
for ax, size in zip(axes, (1, 10, 50), strict=True):
    for seed in range(20):
        noisy = gf.simulate(problem, theta0, gf.SGD(step=steps[2], batch_size=size, seed=seed), t_end=12.0)
        ax.semilogy(noisy.t, noisy.loss, color=gf.plots.colours(noisy.dynamics), alpha=0.25, lw=0.8)
    ax.semilogy(flow.t, flow.loss, color=gf.plots.colours(flow.dynamics), lw=0.8)
    ax.set(xlabel="time $t = kh$", title=f"batches of {size}")
axes[0].set_ylabel("loss")
gf.plots.finish(figure)

# %% [markdown]
# ## Other coordinates
#
# The same network in polar coordinates (weight normalisation per neuron) and with unit layers held by a Lagrange
# multiplier (LM). The ends differ: the metric is part of the algorithm.

# %%
linear = gf.Problem(gf.DeepLinear([64, 8, 8, 1]), gf.losses.Square(), x, y)
start = linear.init(scale=0.3, seed=0)
flows = [
    gf.simulate(linear, start, dynamics, t_end=10.0) for dynamics in (gf.GradientFlow(), gf.PolarFlow(), gf.LMFlow())
]
figure, axes = gf.plots.subplots(1, 3, figsize=(12, 3.4))
gf.plots.loss(flows, axes[0])
gf.plots.spectral_ratio(flows, axes[1])
gf.plots.layer_norms(flows, axes[2])
gf.plots.finish(figure)

# %%
for run in flows:
    ratios = gf.measure.spectral_ratio(linear, run.end)
    print(f"{type(run.dynamics).__name__:13s} loss {run.loss[-1]:.3g}   spectral ratios {np.round(ratios, 3)}")

# %% [markdown]
# **Next:** [regenerate a figure](03_regenerate_a_figure.ipynb); the user guide on comparing with GD.
